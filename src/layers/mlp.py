"""The two-layer perceptron of a transformer block."""

from __future__ import annotations

from mindspore import Tensor, nn

from src.layers.drop_path_timm import make_dropout
from src.layers.gelu import GELU
from src.layers.linear import Linear


class Mlp(nn.Cell):
    """`dim` -> `hidden_dim`, GELU, -> `dim`, dropout. No dropout after the GELU: BEiT leaves it out, as BERT did."""

    def __init__(self, dim: int, hidden_dim: int, approximate_gelu: bool, drop: float, drop_stream: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.act = GELU(approximate_gelu)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = make_dropout(drop, drop_stream)

    def construct(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """`x` [B, N, dim], `key` int32 [B] for dropout -> [B, N, dim]."""
        return self.drop(self.fc2(self.act(self.fc1(x))), key)
