"""One transformer block of BEiT: attention and perceptron, each with layer scale and drop path."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.attention import Attention
from src.layers.broadcast import MultiplyRow
from src.layers.drop_path_timm import make_drop_path
from src.layers.layer_norm import LayerNorm
from src.layers.mlp import Mlp

STREAMS_PER_BLOCK = 4  # random streams: drop path of both branches, dropout of both branches


class Block(nn.Cell):
    """`x + drop_path(gamma_1 * attn(norm1(x)))`, then the same with `gamma_2`, `mlp` and `norm2`.

    `layer_scale_init_value` of 0 leaves `gamma_1` and `gamma_2` out. The block draws from `STREAMS_PER_BLOCK` random
    streams, the first of which is `first_stream`. The residual sum is float32 at every AMP level: with a layer scale of
    1e-5 a float16 sum would not feel the branch at all.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        grid: int,
        index: Tensor,
        rel_pos_bias: bool,
        layer_scale_init_value: float,
        approximate_gelu: bool,
        drop: float,
        drop_path: float,
        first_stream: int,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, num_heads, grid, index, rel_pos_bias, drop, first_stream)
        self.drop_path1 = make_drop_path(drop_path, first_stream + 1)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), approximate_gelu, drop, first_stream + 2)
        self.drop_path2 = make_drop_path(drop_path, first_stream + 3)
        has_layer_scale = layer_scale_init_value > 0
        gamma = np.full(dim, layer_scale_init_value, np.float32)
        self.gamma_1 = Parameter(Tensor(gamma)) if has_layer_scale else None
        self.gamma_2 = Parameter(Tensor(gamma)) if has_layer_scale else None
        self.scale = MultiplyRow()

    def construct(self, x: Tensor, shared_bias: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """`x` float32 [B, N, dim], `shared_bias` [heads, N, N], `key` int32 [B] -> float32 [B, N, dim]."""
        branch = ops.cast(self.attn(self.norm1(x), shared_bias, key), ms.float32)
        if self.gamma_1 is not None:
            branch = self.scale(branch, ops.cast(self.gamma_1, ms.float32))
        x = x + self.drop_path1(branch, key)
        branch = ops.cast(self.mlp(self.norm2(x), key), ms.float32)
        if self.gamma_2 is not None:
            branch = self.scale(branch, ops.cast(self.gamma_2, ms.float32))
        return x + self.drop_path2(branch, key)
