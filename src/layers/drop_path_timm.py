"""Stochastic depth (Huang et al. 2016) as in timm, and dropout, both with counter-based random numbers."""

import math

from mindspore import Tensor, nn, ops

from src.layers.counter_based_random import keep_mask
from src.layers.custom_identity import Identity


class _RandomLayer(nn.Cell):
    """A layer that keeps values with probability 1 - `drop_prob` in training and is the identity in evaluation.

    `stream` numbers the layer; every layer of a network has its own. Raises `ValueError` for a rate outside (0, 1).
    """

    option = ""

    def __init__(self, drop_prob: float, stream: int) -> None:
        super().__init__()
        if not 0.0 < drop_prob < 1.0:
            raise ValueError(f"{self.option} must be at least 0 and below 1, not {drop_prob}")
        self.keep_prob = 1.0 - drop_prob
        self.stream = stream

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` [B, ...] and, in training, `key` int32 [B] -> the shape and type of `x`."""
        if not self.training:
            return x
        if key is None:
            raise ValueError(
                f"training with {self.option} > 0 needs `key`, one random int32 per sample: network(image, key)"
            )
        return self.drop(x, key)


class DropPath(_RandomLayer):
    """Drop the whole branch of a sample with probability `drop_prob`; scale the kept branches by 1 / (1 - drop_prob).

    Agrees with timm's `drop_path(x, drop_prob, training, scale_by_keep=True)`.
    """

    option = "drop_path"

    def drop(self, x: Tensor, key: Tensor) -> Tensor:
        """`x` [B, ...] times a factor per sample."""
        return x * self.factors(x, key)

    def factors(self, x: Tensor, key: Tensor) -> Tensor:
        """Return 0 or 1 / keep_prob per sample, in the type of `x`, of shape [B, 1, ...]."""
        mask = keep_mask(key, self.stream, self.keep_prob) * (1.0 / self.keep_prob)
        return ops.cast(ops.reshape(mask, (x.shape[0],) + (1,) * (x.ndim - 1)), x.dtype)


class Dropout(_RandomLayer):
    """Zero each element with probability `drop_prob`; scale the kept elements by 1 / (1 - drop_prob)."""

    option = "drop"

    def drop(self, x: Tensor, key: Tensor) -> Tensor:
        """`x` [B, ...] times a factor per element."""
        mask = keep_mask(key, self.stream, self.keep_prob, math.prod(x.shape[1:])) * (1.0 / self.keep_prob)
        return x * ops.cast(ops.reshape(mask, x.shape), x.dtype)


def make_drop_path(drop_prob: float, stream: int, layer: type[DropPath] = DropPath) -> nn.Cell:
    """Return a drop path `layer`, or an `Identity` for a rate of 0."""
    return layer(drop_prob, stream) if drop_prob else Identity()


def make_dropout(drop_prob: float, stream: int) -> nn.Cell:
    """Return a `Dropout`, or an `Identity` for a rate of 0."""
    return Dropout(drop_prob, stream) if drop_prob else Identity()
