"""Calculations of a comparison: ratios with quartiles, operations and bytes of BEiT, and floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FLOAT = 4  # bytes


class Ratio(NamedTuple):
    """Speed relative to the reference: median and quartiles over the rounds."""

    median: float
    low: float
    high: float


def ratio_of(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Return the speed relative to the reference, computed by round so that other load cancels out."""
    quotients = np.array(reference) / np.array(seconds)
    middle, low, high = (float(np.quantile(quotients, share)) for share in (0.5, 0.25, 0.75))
    return Ratio(middle, low, high)


class Machine(NamedTuple):
    """Measured rates per second: operations of a large matrix product by the faster side, bytes of a copy.

    `products` has the operations by each side.
    """

    flops: float
    bytes_per_second: float
    products: Mapping[str, float] = {}


class Work(NamedTuple):
    """Least work of a computation: operations of its matrix products, bytes read or written once."""

    flops: float
    bytes: float

    def floor(self, machine: Machine) -> float:
        """Return the least seconds, if products and memory traffic overlap completely."""
        return max(self.flops / machine.flops, self.bytes / machine.bytes_per_second)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a BEiT variant."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: int
    num_classes: int
    mlp_ratio: int = 4

    @property
    def tokens(self) -> int:
        """Number of tokens: class token and patches."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def parameters(self) -> int:
        """Number of weights in the matrices; vectors and tables add 0.3 %."""
        block = (4 + 2 * self.mlp_ratio) * self.embed_dim**2
        return self.depth * block + (3 * self.patch_size**2 + self.num_classes) * self.embed_dim


def forward_work(sizes: Sizes, batch: int) -> Work:
    """Return the work of the logits: all products; each weight read once; each block's tokens read and written."""
    n, d = sizes.tokens, sizes.embed_dim
    rows = batch * n
    block = 2 * rows * (4 + 2 * sizes.mlp_ratio) * d * d + 2 * 2 * batch * n * n * d
    ends = 2 * batch * (n - 1) * 3 * sizes.patch_size**2 * d + 2 * batch * d * sizes.num_classes
    moved = sizes.parameters * FLOAT + sizes.depth * 2 * rows * d * FLOAT
    return Work(float(sizes.depth * block + ends), float(moved))


def step_work(sizes: Sizes, batch: int) -> Work:
    """Return the work of a training step: three times the forward products, without the gradient of the pixels.

    AdamW reads weight, gradient and two moments, and writes three tensors. Clipping reads the gradient once more.
    """
    forward = forward_work(sizes, batch)
    patches = 2 * batch * (sizes.tokens - 1) * 3 * sizes.patch_size**2 * sizes.embed_dim
    moved = 3 * forward.bytes + sizes.parameters * FLOAT * (4 + 3 + 1)
    return Work(3 * forward.flops - patches, moved)


def step_memory(sizes: Sizes, batch: int) -> float:
    """Return the least bytes of a step without recomputation: weights, gradients, two moments, saved activations.

    Saved per block, in units of [B, N, D]: inputs of both norms (2), of qkv and fc1 (2), q, k, v (3), output of the
    heads (1), both branches before layer scale (2), hidden layer of the MLP before and after GELU (2 x mlp_ratio); and
    the attention probabilities [B, heads, N, N].
    """
    n = sizes.tokens
    stream = batch * n * sizes.embed_dim * FLOAT
    block = (10 + 2 * sizes.mlp_ratio) * stream + batch * sizes.num_heads * n * n * FLOAT
    return float(4 * sizes.parameters * FLOAT + sizes.depth * block)
