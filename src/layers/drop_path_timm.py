"""Stochastic depth (Huang et al. 2016) as timm has it, and dropout, both with counter-based random numbers."""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops

from src.layers.counter_based_random import keep_mask
from src.layers.custom_identity import Identity


class DropPath(nn.Cell):
    """In training, drop a sample's whole branch with probability `drop_prob`, scale the kept ones by 1/(1-drop_prob).

    Agrees with timm's `drop_path(x, drop_prob, training, scale_by_keep=True)`. `stream` numbers the layer; each must
    have its own. Raises `ValueError` for a rate outside (0, 1).
    """

    def __init__(self, drop_prob: float, stream: int) -> None:
        super().__init__()
        _check_rate("drop_path", drop_prob)
        self.keep_prob = 1.0 - drop_prob
        self.stream = stream

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` [B, ...] and `key` int32 [B] -> the shape and type of `x`; `key` is needed in training only."""
        if not self.training:
            return x
        if key is None:
            raise ValueError(
                "training with drop_path > 0 needs `key`, one random int32 per sample: network(image, key)"
            )
        mask = keep_mask(key, self.stream, self.keep_prob) * (1.0 / self.keep_prob)
        mask = ops.cast(ops.reshape(mask, (x.shape[0],) + (1,) * (x.ndim - 1)), x.dtype)
        return x * ops.broadcast_to(mask, x.shape)  # equal shapes: see src/layers/broadcast.py


class Dropout(nn.Cell):
    """In training, zero each element with probability `drop_prob`, and scale the others by 1/(1-drop_prob).

    `stream` numbers the layer; each must have its own. Raises `ValueError` for a rate outside (0, 1).
    """

    def __init__(self, drop_prob: float, stream: int) -> None:
        super().__init__()
        _check_rate("drop", drop_prob)
        self.keep_prob = 1.0 - drop_prob
        self.stream = stream

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` [B, ...] and `key` int32 [B] -> the shape and type of `x`; `key` is needed in training only."""
        if not self.training:
            return x
        if key is None:
            raise ValueError("training with drop > 0 needs `key`, one random int32 per sample: network(image, key)")
        mask = keep_mask(key, self.stream, self.keep_prob, math.prod(x.shape[1:])) * (1.0 / self.keep_prob)
        return x * ops.cast(ops.reshape(mask, x.shape), x.dtype)


def make_drop_path(drop_prob: float, stream: int) -> nn.Cell:
    """A `DropPath`, or an `Identity` where nothing is dropped."""
    return DropPath(drop_prob, stream) if drop_prob else Identity()


def make_dropout(drop_prob: float, stream: int) -> nn.Cell:
    """A `Dropout`, or an `Identity` where nothing is dropped."""
    return Dropout(drop_prob, stream) if drop_prob else Identity()


def _check_rate(name: str, drop_prob: float) -> None:
    if not 0.0 < drop_prob < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, not {drop_prob}")
