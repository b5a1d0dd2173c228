"""Random bits that are a function of (sample key, stream, position) and of nothing else.

MindSpore's random operators keep their state inside the kernel, where it can be neither read nor restored, and a rank
or a device draws different numbers from the next. Here a draw is a hash: the same sample gets the same drop path
decision on any device, on any rank and after any interruption. The hash is the finalizer of MurmurHash3 (Appleby, 32
bits), written in int32 operators, which wrap around on overflow: the CPU, GPU and Ascend back ends all have them.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

_RANDOM_BITS = 24  # as many as a float32 in [0, 1) holds exactly
_GOLDEN_RATIO = 0x9E3779B9  # 2^32 / golden ratio: neighboring positions land far apart (Weyl sequence)


def as_int32(value: int) -> int:
    """The int32 with the same 32 low bits as `value`: MindSpore's int32 tensors take no constant above 2^31 - 1."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


_MULTIPLIER_1 = as_int32(0x85EBCA6B)
_MULTIPLIER_2 = as_int32(0xC2B2AE35)
_STEP = as_int32(_GOLDEN_RATIO)


def mix(h: Tensor) -> Tensor:
    """MurmurHash3's finalizer: int32 of any shape -> int32, a bijection that spreads every bit.

    The shifts of int32 are arithmetic, so the sign bits that they copy in are masked away.
    """
    h = ops.bitwise_xor(h, _shift_right(h, 16))
    h = h * _MULTIPLIER_1
    h = ops.bitwise_xor(h, _shift_right(h, 13))
    h = h * _MULTIPLIER_2
    return ops.bitwise_xor(h, _shift_right(h, 16))


def _shift_right(h: Tensor, bits: int) -> Tensor:
    """A logical shift: zeros come in from the left."""
    return ops.bitwise_and(ops.bitwise_right_shift(h, bits), (1 << (32 - bits)) - 1)


def random_bits(key: Tensor, stream: int, positions: int = 1) -> Tensor:
    """Random integers in [0, 2^24).

    Args:
        key: int32 [B], one random number per sample.
        stream: the number of the layer that asks, so that two layers decide independently.
        positions: how many draws each sample needs.

    Returns:
        int32 [B, positions].
    """
    sample = mix(ops.bitwise_xor(key, as_int32((stream + 1) * _GOLDEN_RATIO)))
    counter = ops.cast(ops.arange(positions), ms.int32) * _STEP
    return _shift_right(mix(ops.expand_dims(sample, 1) + ops.expand_dims(counter, 0)), 32 - _RANDOM_BITS)


def keep_mask(key: Tensor, stream: int, keep_prob: float, positions: int = 1) -> Tensor:
    """1.0 where a draw is kept, which happens with probability `keep_prob`, and 0.0 elsewhere: float32 [B, positions].

    The comparison is between integers, so that no device rounds it differently.
    """
    threshold = round(keep_prob * (1 << _RANDOM_BITS))
    return ops.cast(random_bits(key, stream, positions) < threshold, ms.float32)
