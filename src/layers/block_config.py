"""The description that all blocks of a network share."""

from dataclasses import dataclass

from src.layers.precision import Precision


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and options of a transformer block.

    `grid` is the number of patches along a side of the image, `hidden_dim` the width between the two layers of the MLP.
    `layer_scale_init_value` of 0 means no layer scale. `drop` is the dropout rate at the end of both branches.
    """

    dim: int
    num_heads: int
    hidden_dim: int
    grid: int
    rel_pos_bias: bool = True
    layer_scale_init_value: float = 0.1
    approximate_gelu: bool = False
    layer_norm_eps: float = 1e-6
    drop: float = 0.0
    precision: Precision = Precision()
