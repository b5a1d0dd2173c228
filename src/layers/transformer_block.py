"""One transformer block of BEiT: attention and perceptron, each with layer scale and drop path."""

from typing import ClassVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.attention import Attention
from src.layers.block_config import BlockConfig
from src.layers.drop_path_timm import DropPath, make_drop_path
from src.layers.layer_norm import LayerNorm
from src.layers.mlp import Mlp

STREAMS_PER_BLOCK = 4  # random streams: drop path of both branches, dropout of both branches


class Block(nn.Cell):
    """`x + drop_path(gamma_1 * attn(norm1(x)))`, then the same with `gamma_2`, `mlp` and `norm2`.

    The block uses `STREAMS_PER_BLOCK` random streams from `first_stream` on. The residual sum is float32 at every AMP
    level.
    """

    attention: ClassVar[type[Attention]] = Attention
    perceptron: ClassVar[type[Mlp]] = Mlp
    drop_path: ClassVar[type[DropPath]] = DropPath
    layer_norm: ClassVar[type[LayerNorm]] = LayerNorm

    def __init__(self, config: BlockConfig, index: Tensor, drop_path: float, first_stream: int) -> None:
        super().__init__()
        dim, eps, precision = config.dim, config.layer_norm_eps, config.precision
        self.norm1 = self.layer_norm(dim, eps, precision)
        self.attn = self.attention(config, index, first_stream)
        self.drop_path1 = make_drop_path(drop_path, first_stream + 1, self.drop_path)
        self.norm2 = self.layer_norm(dim, eps, precision)
        self.mlp = self.perceptron(config, first_stream + 2)
        self.drop_path2 = make_drop_path(drop_path, first_stream + 3, self.drop_path)
        self.gamma_1 = self.gamma_2 = None
        if config.layer_scale_init_value > 0:
            gamma = np.full(dim, config.layer_scale_init_value)
            self.gamma_1 = Parameter(Tensor(gamma, precision.weight))
            self.gamma_2 = Parameter(Tensor(gamma, precision.weight))

    def construct(self, x: Tensor, shared_bias: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """`x` float32 [B, N, dim], `shared_bias` [heads, N, N], `key` int32 [B] -> float32 [B, N, dim]."""
        x = x + self.drop_path1(self.scale(self.attn(self.norm1(x), shared_bias, key), self.gamma_1), key)
        return x + self.drop_path2(self.scale(self.mlp(self.norm2(x), key), self.gamma_2), key)

    def scale(self, branch: Tensor, gamma: Tensor | None) -> Tensor:
        """Layer scale: `branch` [B, N, dim] times `gamma` [dim], in float32."""
        branch = ops.cast(branch, ms.float32)
        if gamma is None:
            return branch
        return self.multiply(branch, ops.cast(gamma, ms.float32))

    def multiply(self, branch: Tensor, gamma: Tensor) -> Tensor:
        """`branch` [B, N, dim] * `gamma` [dim]."""
        return branch * gamma
