"""The arithmetic of a comparison: ratios with their spread, the operations and bytes of BEiT, and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FLOAT = 4  # bytes


class Ratio(NamedTuple):
    """How many times as fast as the reference: the median over the rounds and the quartiles around it."""

    median: float
    low: float
    high: float


def ratio_of(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """How many times as fast as the reference, round by round: a slow moment of the machine is in both."""
    quotients = np.array(reference) / np.array(seconds)
    middle, low, high = (float(np.quantile(quotients, share)) for share in (0.5, 0.25, 0.75))
    return Ratio(middle, low, high)


class Machine(NamedTuple):
    """What the processor was measured to do: multiply-adds of a large matrix product and bytes of a copy, a second."""

    flops: float
    bytes_per_second: float


class Work(NamedTuple):
    """What a computation cannot do without: floating-point operations of its products, bytes read and written once."""

    flops: float
    bytes: float

    def floor(self, machine: Machine) -> float:
        """Seconds: the products at full rate; what has to be moved is moved meanwhile, unless it takes longer."""
        return max(self.flops / machine.flops, self.bytes / machine.bytes_per_second)


@dataclass(frozen=True)
class Sizes:
    """Of a BEiT: those of the variant's table."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    image_size: int
    num_classes: int
    mlp_ratio: int = 4

    @property
    def tokens(self) -> int:
        """The class token and the patches."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def parameters(self) -> int:
        """Of the matrices; vectors and tables are three thousandths of them."""
        block = (4 + 2 * self.mlp_ratio) * self.embed_dim**2
        return self.depth * block + (3 * self.patch_size**2 + self.num_classes) * self.embed_dim


def forward_work(sizes: Sizes, batch: int) -> Work:
    """Of logits for `batch` images: every product, every weight read once, every block's stream read and written."""
    n, d = sizes.tokens, sizes.embed_dim
    rows = batch * n
    block = 2 * rows * (4 + 2 * sizes.mlp_ratio) * d * d + 2 * 2 * batch * n * n * d
    ends = 2 * batch * (n - 1) * 3 * sizes.patch_size**2 * d + 2 * batch * d * sizes.num_classes
    moved = sizes.parameters * FLOAT + sizes.depth * 2 * rows * d * FLOAT
    return Work(float(sizes.depth * block + ends), float(moved))


def step_work(sizes: Sizes, batch: int) -> Work:
    """Of a training step: each product thrice (no gradient is needed of the pixels), the optimizer's state once.

    AdamW reads weight, gradient and two moments, and writes three of them; clipping reads the gradient once more.
    """
    forward = forward_work(sizes, batch)
    patches = 2 * batch * (sizes.tokens - 1) * 3 * sizes.patch_size**2 * sizes.embed_dim
    moved = 3 * forward.bytes + sizes.parameters * FLOAT * (4 + 3 + 1)
    return Work(3 * forward.flops - patches, moved)


def step_memory(sizes: Sizes, batch: int) -> float:
    """Bytes that a step cannot do without recomputing: weights, gradients, two moments, and what the gradients need.

    Of a block they need, in units of the stream [B, N, D]: the inputs of both norms (2), of qkv and of fc1 (2),
    q, k, v (3), the heads' output (1), both branches before the layer scale (2), the perceptron's two inner layers
    (2 x mlp_ratio), and the probabilities [B, heads, N, N].
    """
    n = sizes.tokens
    stream = batch * n * sizes.embed_dim * FLOAT
    block = (10 + 2 * sizes.mlp_ratio) * stream + batch * sizes.num_heads * n * n * FLOAT
    return float(4 * sizes.parameters * FLOAT + sizes.depth * block)
