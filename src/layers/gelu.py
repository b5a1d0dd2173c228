"""GELU (Hendrycks and Gimpel 2016), exact and in its tanh approximation, each with a gradient of its own.

MindSpore's CPU kernels for `erf` take twenty times as long as a multiplication, and those for `tanh` are wrong by up to
1e-4, so on a CPU both forms are built from operators that are fast and accurate there.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops

# (2 / (1 - erf(t / sqrt 2)))^(1/8) for t >= 0 as a polynomial in t, lowest power first: a minimax fit weighted so that
# `t / polynomial^8` is off by at most 6e-8 * min(t, 1). Rounding in float32 makes it 3e-7, and at most 4e-7 * t.
_TAIL_POLYNOMIAL = (
    1.09050775,
    0.108761289,
    0.0488255584,
    0.00941480129,
    0.00101025022,
    0.000162762503,
    9.05909618e-05,
    -1.5148732e-05,
    2.95243054e-06,
)
_TANH_LINEAR = 2 * math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715 * _TANH_LINEAR


class GELU(nn.Cell):
    """`x * Phi(x)` with `Phi` the normal distribution function, or its approximation by tanh.

    Args:
        approximate: the tanh form, `x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3))`.
        use_erf: for the exact form, take the device's `erf` rather than the polynomial; by default on all devices but
            the CPU.

    The arithmetic is float32 whatever the type of `x`. For the gradient only `x` and the result are kept in memory.
    """

    def __init__(self, approximate: bool = False, use_erf: bool | None = None) -> None:
        super().__init__()
        self.approximate = approximate
        self.use_erf = ms.get_context("device_target") != "CPU" if use_erf is None else use_erf

    def construct(self, x: Tensor) -> Tensor:
        """`x` of any shape -> the same shape and type."""
        z = ops.cast(x, ms.float32)
        if self.approximate:
            y = z * ops.sigmoid(z * (_TANH_CUBIC * (z * z) + _TANH_LINEAR))  # 0.5 * (1 + tanh(u)) = sigmoid(2 u)
        elif self.use_erf:
            y = z * (0.5 * ops.erf(z * math.sqrt(0.5)) + 0.5)
        else:
            y = ops.relu(z) - _times_tail(ops.abs(z))
        return ops.cast(y, x.dtype)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """The gradient with respect to `x`, given the result `out` and its gradient `dout`."""
        z = ops.cast(x, ms.float32)
        square = z * z
        if self.approximate:
            gate = ops.sigmoid(z * (_TANH_CUBIC * square + _TANH_LINEAR))
            slope = gate * (1.0 + z * (1.0 - gate) * (3.0 * _TANH_CUBIC * square + _TANH_LINEAR))
        else:
            # Phi as result / z, and 1/2 near 0: what is added is too small to be seen but where the square vanishes.
            # Not much smaller: graph mode takes constants that differ by less than 2.2e-16 for the same one.
            small = 1e-6 if x.dtype == ms.float16 else 1e-13
            phi = _quotient(ops.cast(out, ms.float32) * z + 0.5 * small, square + small)
            slope = phi + z * ops.exp(-0.5 * square) * (1.0 / math.sqrt(2 * math.pi))
        return (ops.cast(ops.cast(dout, ms.float32) * slope, x.dtype),)


# The quotient, 0 where the dividend is 0. MindSpore's Div keeps 16 bytes of index per element on a CPU; this does not.
_quotient = ops.Xdivy()


def _times_tail(t: Tensor) -> Tensor:
    """`t * (1 - Phi(t))` for `t` >= 0, float32, by the polynomial."""
    root = t * _TAIL_POLYNOMIAL[8] + _TAIL_POLYNOMIAL[7]
    for power in range(6, -1, -1):
        root = root * t + _TAIL_POLYNOMIAL[power]
    root = root * root
    root = root * root
    return _quotient(t, root * root)
