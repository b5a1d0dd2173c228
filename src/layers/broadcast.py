"""A vector added to, or multiplied into, every row of a matrix, with the sum over the rows in the gradient by MatMul.

MindSpore's CPU kernels for such sums (`BiasAddGrad`, `ReduceSum` over leading axes) take up to 50 times as long as a
multiplication by a row of ones does; on other devices the multiplication costs no more than they do. And where its
CPU kernels for `+`, `-`, `*` and `/` broadcast, they keep two indices of 8 bytes for every element of the result (5 GB
in the training graph of BEiT-base at batch 8) and take three times as long: so shapes are made equal before.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops


class AddRow(nn.Cell):
    """`x + row`, for `x` [M, D] and `row` [D]."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [M, D]."""
        return self.bias_add(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients with respect to `x` and `row`."""
        return dout, sum_of_rows(dout)


class MultiplyRow(nn.Cell):
    """`x * row`, for `x` [..., D] and `row` [D]."""

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [..., D]."""
        return x * ops.broadcast_to(row, x.shape)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients with respect to `x` and `row`."""
        return dout * ops.broadcast_to(row, x.shape), sum_of_rows(ops.reshape(dout * x, (-1, row.shape[0])))


def sum_of_rows(x: Tensor) -> Tensor:
    """`x` [M, D] -> [D]."""
    ones = ops.ones((1, x.shape[0]), x.dtype)
    return ops.reshape(ops.matmul(ones, x), (x.shape[1],))
