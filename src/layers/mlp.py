"""The two-layer perceptron of a transformer block."""

from typing import ClassVar

from mindspore import Tensor, nn

from src.layers.block_config import BlockConfig
from src.layers.drop_path_timm import make_dropout
from src.layers.gelu import GELU
from src.layers.linear import Linear


class Mlp(nn.Cell):
    """`dim` -> `hidden_dim`, GELU, -> `dim`, dropout. Like BERT and BEiT, it has no dropout after the GELU."""

    linear: ClassVar[type[Linear]] = Linear
    gelu: ClassVar[type[nn.Cell]] = GELU

    def __init__(self, config: BlockConfig, drop_stream: int) -> None:
        super().__init__()
        self.fc1 = self.linear(config.dim, config.hidden_dim, config.precision)
        self.act = self.gelu(config.approximate_gelu)
        self.fc2 = self.linear(config.hidden_dim, config.dim, config.precision)
        self.drop = make_dropout(config.drop, drop_stream)

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` [B, N, dim], `key` int32 [B] for dropout -> [B, N, dim]."""
        return self.drop(self.fc2(self.hidden(x)), key)

    def hidden(self, x: Tensor) -> Tensor:
        """`x` [B, N, dim] -> [B, N, hidden_dim]."""
        return self.act(self.fc1(x))
