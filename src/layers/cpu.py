"""The layers of BEiT in the forms that MindSpore 2.10's CPU kernels run fast and in little memory.

They serve float16, exported MINDIR files, and machines without a C++ compiler; else src/layers/compiled.py is faster.

Each class here computes the same numbers as the class of `src.layers` that it derives from. Figures are from a 2-core
x86-64 machine, BEiT-base at 224 pixels, batch 8, float32. Together these forms cut the memory of a training step from
9.7 to 3.8 GB and its time by 13 %.

- `BiasAddGrad` and sums over leading axes take up to 50 times as long as a multiplication by a row of ones
  (`sum_of_rows`).
- The kernels of `+`, `-`, `*` and `/` that broadcast keep two 8-byte indices for each element of the result (5 GB in
  the training graph) and take three times as long: `_add_row`, `_multiply_row` and `DropPath` make shapes equal first.
- `Transpose` keeps an index of 8 to 16 bytes for each element (1.3 GB in the training graph): `SplitHeads` and
  `MergeHeads` gather rows of `head_dim` numbers instead, with an index that does not depend on the batch.
- The gradient of `Softmax` sums over the last axis with a kernel that takes 7 times as long as a multiplication by a
  column of ones.
- `erf` takes 20 times as long as a multiplication, and `tanh` has errors up to 1e-4: `GELU` uses a polynomial and
  `sigmoid`.
- `square_sum` as a product of a tensor with itself reads the tensor once: 17 times as fast as square and sum. The
  single-precision running sum of `ops.L2Loss` has an error of 2e-3 for 28 million elements.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.layers import attention, drop_path_timm, linear, mlp, patch_embed, transformer_block
from src.layers.block_config import BlockConfig
from src.layers.layer_norm import LayerNorm
from src.layers.layers import Layers


class AddRow(nn.Cell):
    """`x` [M, D] + `row` [D], with the sum over rows in the gradient as a matrix multiplication."""

    def __init__(self) -> None:
        super().__init__()
        self.bias_add = ops.BiasAdd()

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [M, D]."""
        return self.bias_add(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `x` and `row`."""
        return dout, sum_of_rows(dout)


class MultiplyRow(nn.Cell):
    """`x` [..., D] * `row` [D], without broadcasting kernels."""

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [..., D]."""
        return x * ops.broadcast_to(row, x.shape)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `x` and `row`."""
        return dout * ops.broadcast_to(row, x.shape), sum_of_rows(ops.reshape(dout * x, (-1, row.shape[0])))


def sum_of_rows(x: Tensor) -> Tensor:
    """`x` [M, D] -> [D]."""
    ones = ops.ones((1, x.shape[0]), x.dtype)
    return ops.reshape(ops.matmul(ones, x), (x.shape[1],))


class SplitHeads(nn.Cell):
    """Split the output of `qkv` into queries, keys and values by head."""

    def __init__(self, tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        # the source row [token, q/k/v, head] of each row [q/k/v, head, token]
        order = np.arange(tokens * 3 * num_heads, dtype=np.int32).reshape(tokens, 3, num_heads).transpose(1, 2, 0)
        self.queries, self.keys, self.values = (Tensor(part.reshape(-1)) for part in order)
        self.inverse = Tensor(np.argsort(order.reshape(-1)).astype(np.int32))
        self.rows = tokens * 3 * num_heads
        self.shape_of_head = (num_heads, tokens, head_dim)

    def construct(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`qkv` [B, N, 3 * heads * head_dim] -> three tensors [B, heads, N, head_dim]."""
        heads, tokens, width = self.shape_of_head
        rows = ops.reshape(qkv, (qkv.shape[0], self.rows, width))
        shape = (qkv.shape[0], heads, tokens, width)
        return (
            ops.reshape(ops.gather(rows, self.queries, 1), shape),
            ops.reshape(ops.gather(rows, self.keys, 1), shape),
            ops.reshape(ops.gather(rows, self.values, 1), shape),
        )

    def bprop(self, qkv: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Gradient with respect to `qkv`."""
        shape = (qkv.shape[0], self.rows // 3, self.shape_of_head[2])
        parts = (ops.reshape(dout[0], shape), ops.reshape(dout[1], shape), ops.reshape(dout[2], shape))
        return (ops.reshape(ops.gather(ops.concat(parts, 1), self.inverse, 1), qkv.shape),)


class MergeHeads(nn.Cell):
    """Put the outputs of the heads side by side for every token."""

    def __init__(self, tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        # the source row [head, token] of each row [token, head]
        order = np.arange(num_heads * tokens, dtype=np.int32).reshape(num_heads, tokens).transpose(1, 0).reshape(-1)
        self.order, self.inverse = Tensor(order), Tensor(np.argsort(order).astype(np.int32))
        self.rows = num_heads * tokens
        self.tokens = tokens
        self.head_dim = head_dim
        self.dim = num_heads * head_dim

    def construct(self, heads: Tensor) -> Tensor:
        """`heads` [B, heads, N, head_dim] -> [B, N, heads * head_dim]."""
        rows = ops.reshape(heads, (heads.shape[0], self.rows, self.head_dim))
        return ops.reshape(ops.gather(rows, self.order, 1), (heads.shape[0], self.tokens, self.dim))

    def bprop(self, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Gradient with respect to `heads`."""
        rows = ops.reshape(dout, (heads.shape[0], self.rows, self.head_dim))
        return (ops.reshape(ops.gather(rows, self.inverse, 1), heads.shape),)


class Softmax(nn.Cell):
    """Softmax over the last axis, with the sum in its gradient as a matrix multiplication."""

    def construct(self, x: Tensor) -> Tensor:
        """`x` [..., N] -> the same shape and type."""
        return ops.softmax(x, -1)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Gradient with respect to `x`: `out * (dout - sum_j out_j dout_j)`."""
        columns = x.shape[-1]
        products = ops.reshape(out * dout, (-1, columns))
        sums = ops.matmul(products, ops.ones((columns, 1), x.dtype))
        sums = ops.reshape(ops.matmul(sums, ops.ones((1, columns), x.dtype)), x.shape)
        return (out * (dout - sums),)


# (2 / (1 - erf(t / sqrt 2)))^(1/8) for t >= 0 as a polynomial in t, lowest power first: a minimax fit with an error of
# `t / polynomial^8` of at most 6e-8 * min(t, 1). Rounding in float32 makes it 3e-7, and at most 4e-7 * t.
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

# The quotient, or 0 where the dividend is 0. `Div` keeps 16 bytes of index for each element; `Xdivy` keeps none.
_quotient = ops.Xdivy()


class GELU(nn.Cell):
    """`src.layers.gelu.GELU` with its own gradient, for which only `x` and the result stay in memory."""

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        self.approximate = approximate

    def construct(self, x: Tensor) -> Tensor:
        """`x` of any shape -> the same shape and type."""
        z = ops.cast(x, ms.float32)
        if self.approximate:
            y = z * ops.sigmoid(z * (_TANH_CUBIC * (z * z) + _TANH_LINEAR))  # 0.5 * (1 + tanh(u)) = sigmoid(2 u)
        else:
            y = ops.relu(z) - _times_tail(ops.abs(z))
        return ops.cast(y, x.dtype)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Gradient with respect to `x`, given the result `out` and its gradient `dout`."""
        z = ops.cast(x, ms.float32)
        square = z * z
        if self.approximate:
            gate = ops.sigmoid(z * (_TANH_CUBIC * square + _TANH_LINEAR))
            slope = gate * (1.0 + z * (1.0 - gate) * (3.0 * _TANH_CUBIC * square + _TANH_LINEAR))
        else:
            # Phi = out / z, and 1/2 near 0: the added constants matter only where the square vanishes. They cannot be
            # much smaller, because graph mode merges constants that differ by less than 2.2e-16.
            small = 1e-6 if x.dtype == ms.float16 else 1e-13
            phi = _quotient(ops.cast(out, ms.float32) * z + 0.5 * small, square + small)
            slope = phi + z * ops.exp(-0.5 * square) * (1.0 / math.sqrt(2 * math.pi))
        return (ops.cast(ops.cast(dout, ms.float32) * slope, x.dtype),)


def _times_tail(t: Tensor) -> Tensor:
    """`t * (1 - Phi(t))` for `t` >= 0, float32, by the polynomial."""
    root = t * _TAIL_POLYNOMIAL[8] + _TAIL_POLYNOMIAL[7]
    for power in range(6, -1, -1):
        root = root * t + _TAIL_POLYNOMIAL[power]
    root = root * root
    root = root * root
    return _quotient(t, root * root)


_add_row, _multiply_row, _softmax = AddRow(), MultiplyRow(), Softmax()


class _RowBias:
    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        return _add_row(y, bias)


class Linear(_RowBias, linear.Linear):
    """`src.layers.linear.Linear` with `AddRow`."""


class PatchProjection(_RowBias, patch_embed.PatchProjection):
    """`src.layers.patch_embed.PatchProjection` with `AddRow`."""


class Mlp(mlp.Mlp):
    """`src.layers.mlp.Mlp` with this module's parts."""

    linear = Linear
    gelu = GELU


class Attention(attention.Attention):
    """`src.layers.attention.Attention` with this module's parts."""

    linear = Linear

    def __init__(self, config: BlockConfig, index: Tensor, drop_stream: int) -> None:
        super().__init__(config, index, drop_stream)
        self.split = SplitHeads(self.tokens, self.num_heads, self.head_dim)
        self.merge = MergeHeads(self.tokens, self.num_heads, self.head_dim)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(qkv)

    def merge_heads(self, heads: Tensor) -> Tensor:
        return self.merge(heads)

    def softmax(self, scores: Tensor) -> Tensor:
        return _softmax(scores)

    def add_position_bias(self, scores: Tensor, bias: Tensor) -> Tensor:
        rows = ops.reshape(scores, (scores.shape[0], math.prod(bias.shape)))
        return ops.reshape(_add_row(rows, ops.reshape(bias, (-1,))), scores.shape)


class DropPath(drop_path_timm.DropPath):
    """`src.layers.drop_path_timm.DropPath` without a broadcasting kernel."""

    def drop(self, x: Tensor, key: Tensor) -> Tensor:
        return x * ops.broadcast_to(self.factors(x, key), x.shape)


class Block(transformer_block.Block):
    """`src.layers.transformer_block.Block` with this module's parts."""

    attention = Attention
    perceptron = Mlp
    drop_path = DropPath

    def multiply(self, branch: Tensor, gamma: Tensor) -> Tensor:
        return _multiply_row(branch, gamma)


class PatchEmbed(patch_embed.PatchEmbed):
    """`src.layers.patch_embed.PatchEmbed` with this module's projection."""

    projection = PatchProjection


_product = ops.MatMul(transpose_b=True)


_map = ops.HyperMap()


def square_sum(tensors: tuple[Tensor, ...]) -> Tensor:
    """Sum of the squared elements of all float32 `tensors`, as products of each tensor with itself."""
    return ops.stack(_map(_square_sum, tensors)).sum()


def _square_sum(tensor: Tensor) -> Tensor:
    row = tensor.reshape(1, -1)
    return _product(row, row).reshape(())


CPU = Layers(block=Block, patch_embed=PatchEmbed, linear=Linear, layer_norm=LayerNorm, square_sum=square_sum)
