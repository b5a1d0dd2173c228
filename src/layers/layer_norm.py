"""Layer normalization, in float32 whatever the precision around it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class LayerNorm(nn.Cell):
    """Normalize the last axis (`dim` wide) and scale it: `weight` ones, `bias` zeros, epsilon 1e-6 as BEiT has it.

    The sums run in float32 at every AMP level, because a mean over float16 squares overflows; only the result is given
    in `activation_dtype`.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(dim, np.float32)))
        self.bias = Parameter(Tensor(np.zeros(dim, np.float32)))
        self.activation_dtype = ms.float32
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x: Tensor) -> Tensor:
        """`x` [..., dim] -> the same shape, in `activation_dtype`."""
        weight, bias = ops.cast(self.weight, ms.float32), ops.cast(self.bias, ms.float32)
        y, _, _ = self.layer_norm(ops.cast(x, ms.float32), weight, bias)
        return ops.cast(y, self.activation_dtype)
