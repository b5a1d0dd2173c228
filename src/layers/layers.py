"""The set of layers that a network is built of."""

from collections.abc import Callable
from dataclasses import dataclass

from mindspore import Tensor, ops

from src.layers.layer_norm import LayerNorm
from src.layers.linear import Linear
from src.layers.patch_embed import PatchEmbed
from src.layers.transformer_block import Block


@dataclass(frozen=True)
class Layers:
    """The parts of a network, and of its training step, that have more than one implementation.

    `square_sum` gives the sum of the squared elements of a float32 tensor, float32 [].
    """

    block: type[Block]
    patch_embed: type[PatchEmbed]
    linear: type[Linear]
    layer_norm: type[LayerNorm]
    square_sum: Callable[[Tensor], Tensor]


def square_sum(tensor: Tensor) -> Tensor:
    """Sum of the squared elements of a float32 tensor."""
    return ops.square(tensor).sum()


STOCK = Layers(block=Block, patch_embed=PatchEmbed, linear=Linear, layer_norm=LayerNorm, square_sum=square_sum)
