"""The layers of BEiT with the kernels of kernels.cpp, for a CPU and float32.

Each class here computes the same numbers as the class of `src.layers` that it derives from. Only the matrix products
and the operators outside the blocks are MindSpore's. benchmarks/README.md has the gain of each kernel.

A cell of a kernel has the kernel's gradient as its `bprop`. Cells without parameters are shared by all blocks, because
MindSpore then compiles their source once.
"""

import functools
import math
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.layers import attention, drop_path_timm, layer_norm, linear, mlp, patch_embed, transformer_block
from src.layers.block_config import BlockConfig
from src.layers.compiled_update import SquareSum, adamw
from src.layers.counter_based_random import keep_threshold, stream_number
from src.layers.custom_identity import Identity
from src.layers.kernel import kernel, use_library
from src.layers.layers import Layers
from src.layers.precision import Precision

Shape = tuple[int, ...]


def _like_first(*shapes: Shape) -> Shape:
    return shapes[0]


class AddRow(nn.Cell):
    """`x` [M, D] + `row` [D]."""

    def __init__(self) -> None:
        super().__init__()
        self.add = kernel("add_row", _like_first)
        self.sum_rows = kernel("sum_rows", lambda x: x[1:])

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [M, D]."""
        return self.add(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `x` and `row`."""
        return dout, self.sum_rows(dout)


class BiasedGELU(nn.Cell):
    """`src.layers.gelu.GELU` of `x` [M, D] + `row` [D]."""

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        name = "tanh_gelu" if approximate else "exact_gelu"
        self.gelu = kernel(name, _like_first)
        self.gradient = kernel(f"{name}_gradient", lambda x, row, dy: (x, row), outputs=2)

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        """-> [M, D]."""
        return self.gelu(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to `x` and `row`."""
        dx, drow = self.gradient(x, row, dout)
        return dx, drow


class Normalize(nn.Cell):
    """Layer normalization of the last axis of `x` [..., D] with `weight` [D] and `bias` [D]."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor(np.array([eps], np.float32))
        self.normalize = kernel("layer_norm", _like_first)
        self.gradient = kernel("layer_norm_gradient", lambda x, weight, eps, dy: (x, weight, weight), outputs=3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """-> [..., D]."""
        return self.normalize(x, weight, bias, self.eps)

    def bprop(
        self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to `x`, `weight` and `bias`."""
        dx, dweight, dbias = self.gradient(x, weight, self.eps, dout)
        return dx, dweight, dbias


class Softmax(nn.Cell):
    """Softmax over the last axis of `scores` [B, heads, N, N]."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = kernel("softmax", _like_first)
        self.gradient = kernel("softmax_gradient", _like_first)

    def construct(self, scores: Tensor) -> Tensor:
        """-> [B, heads, N, N]."""
        return self.softmax(scores)

    def bprop(self, scores: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Gradient with respect to `scores`."""
        return (self.gradient(out, dout),)


class BiasedSoftmax(nn.Cell):
    """Softmax of `scores` [B, heads, N, N] plus `table` [rows, heads] read at `index` int32 [N * N]."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = kernel("softmax", _like_first)
        self.gradient = kernel("softmax_gradient", lambda p, dp, table, index: (p, table), outputs=2)

    def construct(self, scores: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """-> [B, heads, N, N]."""
        return self.softmax(scores, table, index)

    def bprop(
        self, scores: Tensor, table: Tensor, index: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to `scores` and `table`; none for `index`."""
        dscores, dtable = self.gradient(out, dout, table, index)
        return dscores, dtable, ops.zeros_like(index)


class SplitHeads(nn.Cell):
    """Cut `qkv` [B, N, 3, heads, W] into queries, keys and values [B, heads, N, W].

    Queries and values get their bias, [heads * W]; then queries are divided by the square root of W.
    """

    def __init__(self) -> None:
        super().__init__()

        def parts(qkv: Shape, *biases: Shape) -> tuple[Shape, ...]:
            return ((qkv[0], qkv[3], qkv[1], qkv[4]),) * 3

        def whole(q: Shape, k: Shape, v: Shape) -> tuple[Shape, ...]:
            return (q[0], q[2], 3, q[1], q[3]), (q[1] * q[3],), (q[1] * q[3],)

        self.split = kernel("split_heads", parts, outputs=3)
        self.gradient = kernel("split_heads_gradient", whole, outputs=3)

    def construct(self, qkv: Tensor, q_bias: Tensor, v_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> queries, keys, values."""
        q, k, v = self.split(qkv, q_bias, v_bias)
        return q, k, v

    def bprop(
        self, qkv: Tensor, q_bias: Tensor, v_bias: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to `qkv` and the biases."""
        dqkv, dq_bias, dv_bias = self.gradient(dout[0], dout[1], dout[2])
        return dqkv, dq_bias, dv_bias


class SwapAxes(nn.Cell):
    """Exchange the axes M and N of [B, M, N, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.swap = kernel("swap_axes", lambda x: (x[0], x[2], x[1], x[3]))

    def construct(self, x: Tensor) -> Tensor:
        """`x` [B, M, N, W] -> [B, N, M, W]."""
        return self.swap(x)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor]:
        """Gradient with respect to `x`."""
        return (self.swap(dout),)


class Residual(nn.Cell):
    """`x` + `factors` * `gamma` * (`branch` + `bias`): `x`, `branch` [B, N, D], `bias`, `gamma` [D], `factors` [B]."""

    def __init__(self) -> None:
        super().__init__()
        self.add = kernel("residual", _like_first)
        self.gradient = kernel("residual_gradient", lambda branch, *rows: (branch, rows[0], rows[0]), outputs=3)

    def construct(self, x: Tensor, branch: Tensor, bias: Tensor, gamma: Tensor, factors: Tensor) -> Tensor:
        """-> [B, N, D]."""
        return self.add(x, branch, bias, gamma, factors)

    def bprop(
        self, x: Tensor, branch: Tensor, bias: Tensor, gamma: Tensor, factors: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients with respect to all inputs but `factors`, which are random and have none."""
        dbranch, dbias, dgamma = self.gradient(branch, bias, gamma, factors, dout)
        return dout, dbranch, dbias, dgamma, ops.zeros_like(factors)


class DropRows(nn.Cell):
    """Drop samples of `x` [B, ...]; `key`, `numbers` and `scale` are those of the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = kernel("drop_path", _like_first)

    def construct(self, x: Tensor, key: Tensor, numbers: Tensor, scale: Tensor) -> Tensor:
        """-> [B, ...]."""
        return self.drop(x, key, numbers, scale)

    def bprop(
        self, x: Tensor, key: Tensor, numbers: Tensor, scale: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradient with respect to `x`; none for the others."""
        dx = self.drop(dout, key, numbers, scale)
        return dx, ops.zeros_like(key), ops.zeros_like(numbers), ops.zeros_like(scale)


@functools.cache
def shared(cell: type[nn.Cell], *arguments: object) -> nn.Cell:
    """Return the one `cell(*arguments)` of this process."""
    return cell(*arguments)


class Linear(linear.Linear):
    """`src.layers.linear.Linear`."""

    def __init__(self, in_features: int, out_features: int, precision: Precision, has_bias: bool = True) -> None:
        super().__init__(in_features, out_features, precision, has_bias)
        self.add_row = shared(AddRow)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        return self.add_row(y, bias)


class PatchProjection(patch_embed.PatchProjection):
    """`src.layers.patch_embed.PatchProjection`."""

    def __init__(self, sizes: patch_embed.PatchSizes, precision: Precision) -> None:
        super().__init__(sizes, precision)
        self.add_row = shared(AddRow)

    def add_bias(self, y: Tensor, bias: Tensor) -> Tensor:
        return self.add_row(y, bias)


class PatchEmbed(patch_embed.PatchEmbed):
    """`src.layers.patch_embed.PatchEmbed` with this module's projection."""

    projection = PatchProjection


class LayerNorm(layer_norm.LayerNorm):
    """`src.layers.layer_norm.LayerNorm`."""

    def __init__(self, dim: int, eps: float, precision: Precision) -> None:
        super().__init__(dim, eps, precision)
        self.normalize = shared(Normalize, eps)

    def construct(self, x: Tensor) -> Tensor:
        return self.normalize(x, self.weight, self.bias)


class Mlp(mlp.Mlp):
    """`src.layers.mlp.Mlp`; the bias of the first layer is added inside the GELU."""

    linear = Linear
    gelu = BiasedGELU

    def __init__(self, config: BlockConfig, drop_stream: int) -> None:
        super().__init__(config, drop_stream)
        self.no_bias = Tensor(np.zeros(config.dim, np.float32))
        self.drops = not isinstance(self.drop, Identity)

    def hidden(self, x: Tensor) -> Tensor:
        hidden = self.act(self.fc1.product(x), self.fc1.bias)
        return ops.reshape(hidden, (x.shape[0], x.shape[1], self.fc1.out_features))

    def branch(self, x: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return two tensors whose sum is `construct`: [B, N, dim] and a bias [dim]."""
        if self.drops:
            return self.construct(x, key), self.no_bias
        return ops.reshape(self.fc2.product(self.hidden(x)), x.shape), self.fc2.bias


class Attention(attention.Attention):
    """`src.layers.attention.Attention`; the position bias is read from its table inside the softmax."""

    linear = Linear

    def __init__(self, config: BlockConfig, index: Tensor, drop_stream: int) -> None:
        super().__init__(config, index, drop_stream)
        self.split = shared(SplitHeads)
        self.swap_axes = shared(SwapAxes)
        self.add_row = shared(AddRow)
        self.normalize = shared(BiasedSoftmax if config.rel_pos_bias else Softmax)
        self.no_bias = Tensor(np.zeros(config.dim, np.float32))
        self.drops = not isinstance(self.proj_drop, Identity)

    def branch(self, x: Tensor, shared_bias: Tensor | None, key: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return two tensors whose sum is `construct`: [B, N, dim] and a bias [dim]."""
        if self.drops:
            return self.construct(x, shared_bias, key), self.no_bias
        return ops.reshape(self.proj.product(self.heads(x, shared_bias)), x.shape), self.proj.bias

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (x.shape[0], self.tokens, 3, self.num_heads, self.head_dim)
        return self.split(ops.reshape(self.qkv(x), shape), self.q_bias, self.v_bias)

    def probabilities(self, q: Tensor, k: Tensor, shared_bias: Tensor | None) -> Tensor:
        scores = self.query_by_key(q, k)
        if shared_bias is not None:
            scores = self.add_position_bias(scores, shared_bias)
        if self.relative_position_bias_table is None:
            return self.normalize(scores)
        return self.normalize(scores, self.relative_position_bias_table, self.index)

    def add_position_bias(self, scores: Tensor, bias: Tensor) -> Tensor:
        rows = ops.reshape(scores, (scores.shape[0], math.prod(bias.shape)))
        return ops.reshape(self.add_row(rows, ops.reshape(bias, (-1,))), scores.shape)

    def merge_heads(self, heads: Tensor) -> Tensor:
        return ops.reshape(self.swap_axes(heads), (heads.shape[0], self.tokens, self.dim))


class DropPath(drop_path_timm.DropPath):
    """`src.layers.drop_path_timm.DropPath`, the same draws in one kernel instead of twenty operators."""

    def __init__(self, drop_prob: float, stream: int) -> None:
        super().__init__(drop_prob, stream)
        self.rows = shared(DropRows)
        self.numbers = Tensor(np.array([stream_number(stream), keep_threshold(self.keep_prob)], np.int32))
        self.scale = Tensor(np.array([1.0 / self.keep_prob], np.float32))

    def drop(self, x: Tensor, key: Tensor) -> Tensor:
        return self.rows(x, key, self.numbers, self.scale)


class Block(transformer_block.Block):
    """`src.layers.transformer_block.Block` with this module's parts."""

    attention = Attention
    perceptron = Mlp
    drop_path = DropPath
    layer_norm = LayerNorm

    def __init__(self, config: BlockConfig, index: Tensor, drop_path: float, first_stream: int) -> None:
        super().__init__(config, index, drop_path, first_stream)
        self.residual = shared(Residual)

    def construct(self, x: Tensor, shared_bias: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        ones = ops.ones((x.shape[0],), ms.float32)  # drop path turns them into the factor of each sample
        branch, bias = self.attn.branch(self.norm1(x), shared_bias, key)
        x = self.residual(x, branch, bias, self.layer_scale(self.gamma_1), self.drop_path1(ones, key))
        branch, bias = self.mlp.branch(self.norm2(x), key)
        return self.residual(x, branch, bias, self.layer_scale(self.gamma_2), self.drop_path2(ones, key))

    def layer_scale(self, gamma: Tensor | None) -> Tensor:
        """Return `gamma` [dim], or ones for a block without layer scale."""
        if gamma is None:
            return ops.ones((self.attn.dim,), ms.float32)
        return gamma


@functools.cache
def compiled_layers(library: Path) -> Layers:
    """Return the layers with the kernels in `library`, which must stay the same in a process."""
    use_library(library)
    return Layers(
        block=Block, patch_embed=PatchEmbed, linear=Linear, layer_norm=LayerNorm, square_sum=SquareSum(), adamw=adamw
    )
