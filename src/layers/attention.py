"""Multi-head self-attention with a query bias, a value bias and a relative position bias."""

from typing import ClassVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.block_config import BlockConfig
from src.layers.drop_path_timm import make_dropout
from src.layers.linear import Linear
from src.layers.relative_position_bias import bias_table, gather_bias


class Attention(nn.Cell):
    """Attention over the tokens of an image; agrees with the `Attention` of BEiT's authors.

    `qkv` has no bias: queries and values have `q_bias` and `v_bias`, keys have none, because a key bias shifts all
    scores of a query alike and the softmax ignores it. `index` is the flattened `relative_position_index` of the grid.
    Raises `ValueError` unless `dim` is a multiple of `num_heads`.
    """

    linear: ClassVar[type[Linear]] = Linear

    def __init__(self, config: BlockConfig, index: Tensor, drop_stream: int) -> None:
        super().__init__()
        dim, self.num_heads, precision = config.dim, config.num_heads, config.precision
        if dim % self.num_heads:
            raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {self.num_heads}")
        self.tokens = config.grid * config.grid + 1
        self.dim, self.head_dim = dim, dim // self.num_heads
        self.scale = self.head_dim**-0.5
        self.q_bias = Parameter(Tensor(np.zeros(dim), precision.weight))
        self.v_bias = Parameter(Tensor(np.zeros(dim), precision.weight))
        self.qkv = self.linear(dim, 3 * dim, precision, has_bias=False)
        self.relative_position_bias_table = None
        if config.rel_pos_bias:
            table = bias_table(config.grid, self.num_heads, precision.weight)
            self.relative_position_bias_table = Parameter(table)
        self.index = index
        self.proj = self.linear(dim, dim, precision)
        self.proj_drop = make_dropout(config.drop, drop_stream)
        self.matmul_dtype, self.activation_dtype = precision.matmul, precision.activation
        self.query_by_key = ops.BatchMatMul(transpose_b=True)
        self.weighted_sum = ops.BatchMatMul()

    def construct(self, x: Tensor, shared_bias: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """`x` [B, N, dim], `shared_bias` [heads, N, N], `key` int32 [B] for dropout -> [B, N, dim]."""
        return self.proj_drop(self.proj(self.heads(x, shared_bias)), key)

    def heads(self, x: Tensor, shared_bias: Tensor | None) -> Tensor:
        """`x` [B, N, dim] -> the weighted sums of the values, the heads side by side, [B, N, dim]."""
        q, k, v = self.queries_keys_values(x)
        attention = ops.cast(self.probabilities(q, k, shared_bias), self.matmul_dtype)
        heads = ops.cast(self.weighted_sum(attention, ops.cast(v, self.matmul_dtype)), self.activation_dtype)
        return self.merge_heads(heads)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`x` [B, N, dim] -> three tensors [B, heads, N, head_dim] from one multiplication; the queries are scaled."""
        bias = ops.concat((self.q_bias, ops.zeros_like(self.q_bias), self.v_bias))
        q, k, v = self.split_heads(self.qkv(x, bias))
        return q * self.scale, k, v

    def probabilities(self, q: Tensor, k: Tensor, shared_bias: Tensor | None) -> Tensor:
        """Attention of each query (third axis) to each key (last axis): float32 [B, heads, N, N], rows sum to 1."""
        scores = self.query_by_key(ops.cast(q, self.matmul_dtype), ops.cast(k, self.matmul_dtype))
        scores = ops.cast(scores, ms.float32)
        if self.relative_position_bias_table is not None:
            bias = gather_bias(self.relative_position_bias_table, self.index, self.tokens)
            scores = self.add_position_bias(scores, ops.cast(bias, ms.float32))
        if shared_bias is not None:
            scores = self.add_position_bias(scores, ops.cast(shared_bias, ms.float32))
        return self.softmax(scores)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`qkv` [B, N, 3 * heads * head_dim] -> three tensors [B, heads, N, head_dim]."""
        qkv = ops.reshape(qkv, (qkv.shape[0], self.tokens, 3, self.num_heads, self.head_dim))
        qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
        return qkv[0], qkv[1], qkv[2]

    def merge_heads(self, heads: Tensor) -> Tensor:
        """`heads` [B, heads, N, head_dim] -> [B, N, dim], the heads side by side."""
        return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (heads.shape[0], self.tokens, self.dim))

    def add_position_bias(self, scores: Tensor, bias: Tensor) -> Tensor:
        """`scores` [B, heads, N, N] + `bias` [heads, N, N]."""
        return scores + bias

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax over the keys."""
        return ops.softmax(scores, -1)
