"""A fully connected layer whose matrix multiplication may run in another precision than the layers around it."""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.layers.precision import Precision


class Linear(nn.Cell):
    """`y = x W^T + b` on the last axis of `x`, with the weight stored as PyTorch stores it: `[out, in]`.

    The multiplication runs in `precision.matmul`, the result has the type `precision.activation`. The parameters start
    at zero; the network initializes them. With `has_bias=False` the layer has no bias, but `construct` accepts one.
    """

    def __init__(self, in_features: int, out_features: int, precision: Precision, has_bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        # 1 ms for a matrix of the MLP, from a NumPy array 19 ms
        self.weight = Parameter(initializer("zeros", (out_features, in_features), precision.weight))
        self.bias = Parameter(Tensor(np.zeros(out_features), precision.weight)) if has_bias else None
        self.matmul_dtype = precision.matmul
        self.activation_dtype = precision.activation
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [..., in] -> [..., out]; a given `bias` [out] replaces the layer's own."""
        y = self.product(x)
        if bias is None:
            bias = self.bias
        if bias is not None:
            y = self.add_bias(y, ops.cast(bias, self.matmul_dtype))
        shape = x.shape[:-1] + (self.out_features,)  # noqa: RUF005 (graph mode does not parse a starred tuple)
        return ops.cast(ops.reshape(y, shape), self.activation_dtype)

    def product(self, x: Tensor) -> Tensor:
        """`x` [..., in] -> `x W^T` [M, out], in the type of the multiplication."""
        rows = ops.cast(ops.reshape(x, (-1, self.in_features)), self.matmul_dtype)
        return self.matmul(rows, ops.cast(self.weight, self.matmul_dtype))

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        """`y` [M, out] + `bias` [out]."""
        return y + bias
