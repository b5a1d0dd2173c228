"""Random bits as a function of (sample key, stream, position).

MindSpore's random operators keep their state inside the kernel, where it can be neither read nor restored, and each
rank draws other numbers. Here a draw is a hash: a sample gets the same drop path decision on every device, on every
rank and after every interruption. The hash is the finalizer of MurmurHash3 (Appleby, 32 bits) in int32 operators, which
wrap around on overflow.
"""

import mindspore as ms
from mindspore import Tensor, ops

_RANDOM_BITS = 24  # a float32 in [0, 1) holds 24 bits exactly
_GOLDEN_RATIO = 0x9E3779B9  # 2^32 / golden ratio: neighboring positions land far apart (Weyl sequence)


def as_int32(value: int) -> int:
    """Return the int32 with the same 32 low bits as `value`: an int32 tensor accepts no constant above 2^31 - 1."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


_MULTIPLIER_1 = as_int32(0x85EBCA6B)
_MULTIPLIER_2 = as_int32(0xC2B2AE35)
_STEP = as_int32(_GOLDEN_RATIO)


def mix(h: Tensor) -> Tensor:
    """Finalizer of MurmurHash3: int32 of any shape -> int32, a bijection that spreads every bit."""
    h = ops.bitwise_xor(h, _shift_right(h, 16))
    h = h * _MULTIPLIER_1
    h = ops.bitwise_xor(h, _shift_right(h, 13))
    h = h * _MULTIPLIER_2
    return ops.bitwise_xor(h, _shift_right(h, 16))


def _shift_right(h: Tensor, bits: int) -> Tensor:
    """Logical shift: the mask clears the sign bits that the arithmetic shift of int32 copies in."""
    return ops.bitwise_and(ops.bitwise_right_shift(h, bits), (1 << (32 - bits)) - 1)


def stream_number(stream: int) -> int:
    """Return the int32 that the key of a sample is combined with in layer `stream`."""
    return as_int32((stream + 1) * _GOLDEN_RATIO)


def keep_threshold(keep_prob: float) -> int:
    """Return the integer in [0, 2^24] that random bits are below with probability `keep_prob`."""
    return round(keep_prob * (1 << _RANDOM_BITS))


def random_bits(key: Tensor, stream: int, positions: int = 1) -> Tensor:
    """Random integers in [0, 2^24).

    Args:
        key: int32 [B], one random number per sample.
        stream: the number of the layer, so that two layers decide independently.
        positions: draws per sample.

    Returns:
        int32 [B, positions].
    """
    sample = mix(ops.bitwise_xor(key, stream_number(stream)))
    counter = ops.cast(ops.arange(positions), ms.int32) * _STEP
    return _shift_right(mix(ops.expand_dims(sample, 1) + ops.expand_dims(counter, 0)), 32 - _RANDOM_BITS)


def keep_mask(key: Tensor, stream: int, keep_prob: float, positions: int = 1) -> Tensor:
    """Float32 [B, positions]: 1.0 with probability `keep_prob`, otherwise 0.0.

    The comparison is between integers, so that every device rounds it alike.
    """
    return ops.cast(random_bits(key, stream, positions) < keep_threshold(keep_prob), ms.float32)
