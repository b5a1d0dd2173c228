"""A fully connected layer whose matrix multiplication may run in another precision than the rest."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.broadcast import AddRow


class Linear(nn.Cell):
    """`y = x W^T + b` on the last axis of `x`, with the weight stored as PyTorch stores it: `[out, in]`.

    `matmul_dtype` is what the multiplication runs in, `activation_dtype` what the result is given in; both are
    float32 until `src.tools.cell.set_amp_level` changes them. The parameters are zero: whoever builds the network
    initializes them. With `has_bias=False` there is no bias of its own; `construct` takes one all the same.
    """

    def __init__(self, in_features: int, out_features: int, has_bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(Tensor(np.zeros((out_features, in_features), np.float32)))
        self.bias = Parameter(Tensor(np.zeros(out_features, np.float32))) if has_bias else None
        self.matmul_dtype = ms.float32
        self.activation_dtype = ms.float32
        self.matmul = ops.MatMul(transpose_b=True)
        self.add_row = AddRow()

    def construct(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x` [..., in] -> [..., out] in `activation_dtype`; `bias` [out] takes the place of the layer's own."""
        rows = ops.cast(ops.reshape(x, (-1, self.in_features)), self.matmul_dtype)
        y = self.matmul(rows, ops.cast(self.weight, self.matmul_dtype))
        if bias is None:
            bias = self.bias
        if bias is not None:
            y = self.add_row(y, ops.cast(bias, self.matmul_dtype))
        shape = x.shape[:-1] + (self.out_features,)  # noqa: RUF005 (graph mode does not parse a starred tuple)
        return ops.cast(ops.reshape(y, shape), self.activation_dtype)
