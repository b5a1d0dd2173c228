"""Multi-head self-attention with a query and a value bias, and a bias by relative position."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.broadcast import AddRow
from src.layers.drop_path_timm import make_dropout
from src.layers.heads import MergeHeads, SplitHeads
from src.layers.linear import Linear
from src.layers.relative_position_bias import bias_table, gather_bias
from src.layers.softmax import Softmax


class Attention(nn.Cell):
    """Attention over the tokens of an image; agrees with the `Attention` of BEiT's authors.

    `qkv` has no bias of its own: queries and values have `q_bias` and `v_bias`, keys have none (a key bias shifts all
    the scores of a query alike, which the softmax ignores). With `rel_pos_bias` the block has a bias table of its own;
    `index` is the flattened `relative_position_index` of the `grid` x `grid` patches. `dim` must be a multiple of
    `num_heads` (`ValueError`).
    """

    def __init__(
        self, dim: int, num_heads: int, grid: int, index: Tensor, rel_pos_bias: bool, drop: float, drop_stream: int
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {num_heads}")
        tokens, head_dim = grid * grid + 1, dim // num_heads
        self.scale = head_dim**-0.5
        self.q_bias = Parameter(Tensor(np.zeros(dim, np.float32)))
        self.v_bias = Parameter(Tensor(np.zeros(dim, np.float32)))
        self.qkv = Linear(dim, 3 * dim, has_bias=False)
        self.relative_position_bias_table = Parameter(bias_table(grid, num_heads)) if rel_pos_bias else None
        self.index = index
        self.proj = Linear(dim, dim)
        self.proj_drop = make_dropout(drop, drop_stream)
        self.matmul_dtype = ms.float32
        self.activation_dtype = ms.float32
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.weighted_sum = ops.BatchMatMul()
        self.softmax = Softmax()
        self.split_heads = SplitHeads(tokens, num_heads, head_dim)
        self.merge_heads = MergeHeads(tokens, num_heads, head_dim)
        self.add_row = AddRow()

    def construct(self, x: Tensor, shared_bias: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """`x` [B, N, dim], `shared_bias` [heads, N, N], `key` int32 [B] for dropout -> [B, N, dim]."""
        q, k, v = self.queries_keys_values(x)
        attention = ops.cast(self.probabilities(q, k, shared_bias), self.matmul_dtype)
        heads = ops.cast(self.weighted_sum(attention, ops.cast(v, self.matmul_dtype)), self.activation_dtype)
        return self.proj_drop(self.proj(self.merge_heads(heads)), key)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`x` [B, N, dim] -> three of [B, heads, N, head_dim], by one multiplication; the queries are scaled."""
        q, k, v = self.split_heads(self.qkv(x, ops.concat((self.q_bias, ops.zeros_like(self.q_bias), self.v_bias))))
        return q * self.scale, k, v

    def probabilities(self, q: Tensor, k: Tensor, shared_bias: Tensor | None) -> Tensor:
        """How much each query (third axis) attends to each key (last axis): float32 [B, heads, N, N], rows sum to 1."""
        scores = self.scores(ops.cast(q, self.matmul_dtype), ops.cast(k, self.matmul_dtype))
        scores = ops.cast(scores, ms.float32)
        if self.relative_position_bias_table is not None:
            bias = gather_bias(self.relative_position_bias_table, self.index, q.shape[2])
            scores = self.add_bias(scores, bias)
        if shared_bias is not None:
            scores = self.add_bias(scores, shared_bias)
        return self.softmax(scores)

    def add_bias(self, scores: Tensor, bias: Tensor) -> Tensor:
        """`scores` float32 [B, heads, N, N] + `bias` [heads, N, N]."""
        rows = ops.reshape(scores, (scores.shape[0], math.prod(bias.shape)))
        return ops.reshape(self.add_row(rows, ops.reshape(ops.cast(bias, ms.float32), (-1,))), scores.shape)
