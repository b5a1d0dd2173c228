"""The set of layers that a network is built of."""

from collections.abc import Callable
from dataclasses import dataclass

from mindspore import Tensor, ops
from mindspore.ops import Primitive

from src.layers.layer_norm import LayerNorm
from src.layers.linear import Linear
from src.layers.patch_embed import PatchEmbed
from src.layers.transformer_block import Block


@dataclass(frozen=True)
class Layers:
    """The parts of a network, and of its training step, that have more than one implementation.

    `square_sum` gives the sum of the squared elements of float32 tensors, float32 []. `adamw` makes an operator that
    updates a number of float32 weights in place, see `src.layers.compiled_update`; without it, the optimizer uses
    MindSpore's.
    """

    block: type[Block]
    patch_embed: type[PatchEmbed]
    linear: type[Linear]
    layer_norm: type[LayerNorm]
    square_sum: Callable[[tuple[Tensor, ...]], Tensor]
    adamw: Callable[[int], Primitive] | None = None


_map = ops.HyperMap()  # a loop over the 391 parameters of BEiT-large would exceed a limit of MindSpore's compiler


def square_sum(tensors: tuple[Tensor, ...]) -> Tensor:
    """Sum of the squared elements of all float32 `tensors`."""
    return ops.stack(_map(_square_sum, tensors)).sum()


def _square_sum(tensor: Tensor) -> Tensor:
    return ops.square(tensor).sum()


STOCK = Layers(block=Block, patch_embed=PatchEmbed, linear=Linear, layer_norm=LayerNorm, square_sum=square_sum)
