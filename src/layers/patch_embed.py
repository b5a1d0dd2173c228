"""From pixels to patch tokens."""

import math
from dataclasses import dataclass
from typing import ClassVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.precision import Precision


@dataclass(frozen=True)
class PatchSizes:
    """Sides of image and patch in pixels, channels of the image, width of a token."""

    image_size: int
    patch_size: int
    in_chans: int
    embed_dim: int


class PatchProjection(nn.Cell):
    """Linear projection of flattened patches, with the weight in the layout of a convolution.

    `weight` is `[embed_dim, in_chans, patch, patch]`. A convolution whose stride equals its kernel reads each pixel
    once, so it equals one matrix multiplication of flattened patches (section 2.1 of the paper).
    """

    def __init__(self, sizes: PatchSizes, precision: Precision) -> None:
        super().__init__()
        shape = (sizes.embed_dim, sizes.in_chans, sizes.patch_size, sizes.patch_size)
        self.weight = Parameter(Tensor(np.zeros(shape), precision.weight))
        self.bias = Parameter(Tensor(np.zeros(sizes.embed_dim), precision.weight))
        self.patch_features = math.prod(shape[1:])
        self.matmul_dtype = precision.matmul
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, patches: Tensor) -> Tensor:
        """Flattened patches [M, in_chans * patch * patch] -> float32 [M, embed_dim]."""
        weight = ops.cast(ops.reshape(self.weight, (-1, self.patch_features)), self.matmul_dtype)
        y = self.matmul(ops.cast(patches, self.matmul_dtype), weight)
        return ops.cast(self.add_bias(y, ops.cast(self.bias, self.matmul_dtype)), ms.float32)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """`y` [M, embed_dim] + `bias` [embed_dim]."""
        return y + bias


class PatchEmbed(nn.Cell):
    """Cut a square image into patches and project each; agrees with the `PatchEmbed` of BEiT's authors.

    Raises `ValueError` unless `image_size` is a multiple of `patch_size`.
    """

    projection: ClassVar[type[PatchProjection]] = PatchProjection

    def __init__(self, sizes: PatchSizes, precision: Precision) -> None:
        super().__init__()
        image_size, patch_size = sizes.image_size, sizes.patch_size
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch size {patch_size}")
        self.image_shape = (sizes.in_chans, image_size, image_size)
        self.patch_size, self.embed_dim = patch_size, sizes.embed_dim
        self.grid = image_size // patch_size
        self.num_patches = self.grid * self.grid
        self.proj = self.projection(sizes, precision)

    def construct(self, image: Tensor) -> Tensor:
        """`image` float32 [B, in_chans, S, S] -> float32 [B, (S / patch)^2, embed_dim], patches row by row.

        Raises `ValueError` for an image of another shape; in graph mode this happens at compile time.
        """
        shape = image.shape
        if len(shape) != 4 or shape[1:] != self.image_shape:
            channels, size, _ = self.image_shape
            raise ValueError(
                f"the network takes images of shape (batch, {channels}, {size}, {size}), but was given {shape}"
            )
        grid, patch = self.grid, self.patch_size
        patches = ops.reshape(image, (shape[0], shape[1], grid, patch, grid, patch))
        patches = ops.transpose(patches, (0, 2, 4, 1, 3, 5))
        tokens = self.proj(ops.reshape(patches, (shape[0] * self.num_patches, math.prod(patches.shape[3:]))))
        return ops.reshape(tokens, (shape[0], self.num_patches, self.embed_dim))
