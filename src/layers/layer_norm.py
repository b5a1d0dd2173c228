"""Layer normalization in float32 at every AMP level."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.precision import Precision


class LayerNorm(nn.Cell):
    """Normalize the last axis (`dim` values), then scale by `weight` and shift by `bias`.

    The sums run in float32 because a mean over float16 squares overflows; the result has the type
    `precision.activation`.
    """

    def __init__(self, dim: int, eps: float, precision: Precision) -> None:
        super().__init__()
        self.weight = Parameter(Tensor(np.ones(dim), precision.weight))
        self.bias = Parameter(Tensor(np.zeros(dim), precision.weight))
        self.activation_dtype = precision.activation
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x: Tensor) -> Tensor:
        """`x` [..., dim] -> the same shape."""
        weight, bias = ops.cast(self.weight, ms.float32), ops.cast(self.bias, ms.float32)
        y, _, _ = self.layer_norm(ops.cast(x, ms.float32), weight, bias)
        return ops.cast(y, self.activation_dtype)
