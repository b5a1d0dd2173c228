"""Tokens cut into heads and put together again.

Both are permutations of rows of `head_dim` numbers, done here by Gather and not by Transpose: MindSpore's Transpose
keeps an index of 8 to 16 bytes for every element on a CPU, 1.3 GB in the training graph of BEiT-base at batch 8. The
index of rows is that of one image, so it does not depend on the batch.
"""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops


class SplitHeads(nn.Cell):
    """The output of `qkv` as queries, keys and values by head."""

    def __init__(self, tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        # where rows [token, q/k/v, head] go in [q/k/v, head, token]
        order = np.arange(tokens * 3 * num_heads, dtype=np.int32).reshape(tokens, 3, num_heads).transpose(1, 2, 0)
        self.queries, self.keys, self.values = (Tensor(part.reshape(-1)) for part in order)
        self.inverse = Tensor(np.argsort(order.reshape(-1)).astype(np.int32))
        self.rows = tokens * 3 * num_heads
        self.shape_of_head = (num_heads, tokens, head_dim)

    def construct(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`qkv` [B, N, 3 * heads * head_dim] -> three of [B, heads, N, head_dim]."""
        heads, tokens, width = self.shape_of_head
        rows = ops.reshape(qkv, (qkv.shape[0], self.rows, width))
        shape = (qkv.shape[0], heads, tokens, width)
        return (
            ops.reshape(ops.gather(rows, self.queries, 1), shape),
            ops.reshape(ops.gather(rows, self.keys, 1), shape),
            ops.reshape(ops.gather(rows, self.values, 1), shape),
        )

    def bprop(self, qkv: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]) -> tuple[Tensor]:
        """The gradient with respect to `qkv`."""
        shape = (qkv.shape[0], self.rows // 3, self.shape_of_head[2])
        parts = (ops.reshape(dout[0], shape), ops.reshape(dout[1], shape), ops.reshape(dout[2], shape))
        return (ops.reshape(ops.gather(ops.concat(parts, 1), self.inverse, 1), qkv.shape),)


class MergeHeads(nn.Cell):
    """The heads' outputs, side by side for every token."""

    def __init__(self, tokens: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        # where rows [head, token] go in [token, head]
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
        """The gradient with respect to `heads`."""
        rows = ops.reshape(dout, (heads.shape[0], self.rows, self.head_dim))
        return (ops.reshape(ops.gather(rows, self.inverse, 1), heads.shape),)
