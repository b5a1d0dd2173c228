"""GELU (Hendrycks and Gimpel 2016)."""

import mindspore as ms
from mindspore import Tensor, nn, ops


class GELU(nn.Cell):
    """`x * Phi(x)` with the normal distribution function `Phi`, or its tanh approximation.

    The arithmetic is float32 for every type of `x`.
    """

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        self.approximate = "tanh" if approximate else "none"

    def construct(self, x: Tensor) -> Tensor:
        """`x` of any shape -> the same shape and type."""
        return ops.cast(ops.gelu(ops.cast(x, ms.float32), approximate=self.approximate), x.dtype)
