"""The encoder of BEiT (Bao et al. 2022): image patches, class token, and the transformer's blocks."""

import zlib
from collections.abc import Callable
from typing import TypeVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.errors import UserError
from src.layers.block_config import BlockConfig
from src.layers.compiled import compiled_layers
from src.layers.cpu import CPU
from src.layers.drop_path_timm import make_dropout
from src.layers.layers import STOCK, Layers
from src.layers.patch_embed import PatchSizes
from src.layers.precision import AMP_LEVELS, Precision
from src.layers.relative_position_bias import RelativePositionBias, relative_position_index
from src.layers.transformer_block import STREAMS_PER_BLOCK, Block
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import Variant, get_variant, patch_grid
from src.runtime.kernel_library import kernel_library

IN_CHANS = 3

# Draws the first value of a parameter from its name, its shape and a generator; `None` if it starts constant.
InitialValue = Callable[[str, tuple[int, ...], np.random.Generator], np.ndarray | None]


Network = TypeVar("Network", bound="Encoder")


class Encoder(nn.Cell):
    """The part that classification and masked image modeling share. Derived networks add what follows the blocks.

    Args:
        variant: the sizes of the transformer; its image size gives way to that of `model`.
        model: image size, and the options that decide which parameters there are.
        training: settings that matter only while the network is trained.
        precision: number types of multiplications, activations and parameters.
        layers: the implementation of the layers.

    Raises:
        ValueError: for sizes that do not divide or rates outside [0, 1).
    """

    def __init__(
        self, variant: Variant, model: ModelConfig, training: TrainingOptions, precision: Precision, layers: Layers
    ) -> None:
        super().__init__()
        dim, heads = variant.embed_dim, variant.num_heads
        self.layers, self.precision = layers, precision
        self.patch_embed = layers.patch_embed(
            PatchSizes(model.image_size, variant.patch_size, IN_CHANS, dim), precision
        )
        grid = self.patch_embed.grid
        self.cls_token = Parameter(Tensor(np.zeros((1, 1, dim)), precision.weight))
        self.pos_embed = None
        if model.abs_pos_emb:
            self.pos_embed = Parameter(Tensor(np.zeros((1, grid * grid + 1, dim)), precision.weight))
        self.pos_drop = make_dropout(training.drop, stream=0)
        self.index = Tensor(relative_position_index(grid, grid).reshape(-1))
        self.rel_pos_bias = None
        if model.shared_rel_pos_bias:
            self.rel_pos_bias = RelativePositionBias(grid, heads, self.index, precision.weight)
        self.block_config = BlockConfig(
            dim=dim,
            num_heads=heads,
            hidden_dim=int(dim * variant.mlp_ratio),
            grid=grid,
            rel_pos_bias=model.rel_pos_bias,
            layer_scale_init_value=training.layer_scale_init_value if model.layer_scale else 0.0,
            approximate_gelu=model.approximate_gelu,
            layer_norm_eps=model.layer_norm_eps,
            drop=training.drop,
            precision=precision,
        )
        self.blocks = self.make_blocks(drop_path_rates(training.drop_path, variant.depth), first=0)

    @classmethod
    def create(
        cls: type[Network],
        model: ModelConfig,
        training: TrainingOptions = TrainingOptions(),
        amp_level: str = "O0",
        layers: Layers | None = None,
    ) -> Network:
        """Build the network of `model` with its initial weights.

        Args:
            model: names a row of `src.model.variants.VARIANTS`.
            training: settings that matter only while the network is trained.
            amp_level: a key of `AMP_LEVELS`.
            layers: the implementation of the layers; by default the fastest one.

        Raises `UserError` for an unknown architecture, an image size that the patch does not divide, and an unknown
        level.
        """
        variant, precision = get_variant(model.arch), get_precision(amp_level)
        patch_grid(variant, model.image_size)
        return cls(variant, model, training, precision, layers or fastest_layers(precision))

    def make_blocks(self, rates: list[float], first: int) -> nn.CellList:
        """Return a block for each drop path rate; their random streams are those of the blocks `first` and after."""

        def block(number: int, rate: float) -> Block:
            return self.layers.block(self.block_config, self.index, rate, 1 + number * STREAMS_PER_BLOCK)

        return nn.CellList([block(first + number, rate) for number, rate in enumerate(rates)])

    def with_class_token(self, patches: Tensor, key: Tensor | None) -> Tensor:
        """Patches [B, N, embed_dim] -> float32 tokens [B, 1 + N, embed_dim], the class token first."""
        cls_token = ops.cast(self.cls_token, ms.float32)
        x = ops.concat((ops.broadcast_to(cls_token, (patches.shape[0], 1, patches.shape[2])), patches), 1)
        if self.pos_embed is not None:
            x = x + ops.cast(self.pos_embed, ms.float32)
        return self.pos_drop(x, key)

    def shared_bias(self) -> Tensor | None:
        """Return the position bias that all blocks share [heads, 1 + N, 1 + N], if there is one."""
        if self.rel_pos_bias is None:
            return None
        return self.rel_pos_bias()


def initialize(network: nn.Cell, seed: int | None, initial_value: InitialValue) -> None:
    """Give every parameter its first value, which follows from the seed, its name and its shape.

    Parameters for which `initial_value` returns `None` keep the constant that their cell sets; without a seed all do.
    """
    if seed is None:
        return
    for name, parameter in network.parameters_and_names():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        value = initial_value(name, parameter.shape, rng)
        if value is not None:
            parameter.set_data(Tensor(value, parameter.dtype))


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Return the rate of each block: 0 in the first, `drop_path` in the last, linear between."""
    return [float(rate) for rate in np.linspace(0.0, drop_path, depth)]


def get_precision(amp_level: str) -> Precision:
    """Return the number types of `amp_level`; `UserError` for an unknown one."""
    if amp_level not in AMP_LEVELS:
        raise UserError(f"amp_level '{amp_level}' is unknown: choose one of {', '.join(AMP_LEVELS)}")
    return AMP_LEVELS[amp_level]


def fastest_layers(precision: Precision) -> Layers:
    """Return the fastest implementation of the layers for the current device and `precision`.

    On a CPU, float32 has compiled kernels. For float16, and where the kernels cannot be compiled, it is
    `portable_layers`.
    """
    if ms.get_context("device_target") == "CPU" and precision == AMP_LEVELS["O0"]:
        library = kernel_library()
        if library is not None:
            return compiled_layers(library)
    return portable_layers()


def portable_layers() -> Layers:
    """Return the fastest implementation that uses MindSpore's own operators only, as an exported file must."""
    return CPU if ms.get_context("device_target") == "CPU" else STOCK
