"""The BEiT network for image classification (Bao et al. 2022), as its authors and timm build it."""

import math
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.errors import UserError
from src.layers.block_config import BlockConfig
from src.layers.compiled import compiled_layers
from src.layers.cpu import CPU
from src.layers.custom_identity import Identity
from src.layers.drop_path_timm import make_dropout
from src.layers.layers import STOCK, Layers
from src.layers.patch_embed import PatchSizes
from src.layers.precision import AMP_LEVELS, Precision
from src.layers.relative_position_bias import RelativePositionBias, relative_position_index
from src.layers.transformer_block import STREAMS_PER_BLOCK
from src.model.model_config import ModelConfig, TrainingOptions
from src.model.variants import Variant, get_variant, patch_grid
from src.runtime.kernel_library import kernel_library

IN_CHANS = 3


class VisionTransformer(nn.Cell):
    """BEiT; parameter names and numbers are those of the authors' `modeling_finetune.VisionTransformer`.

    Args:
        variant: the sizes of the transformer; its image size gives way to that of `model`.
        model: image size, classes, and the options that decide which parameters there are.
        training: settings that matter only while the network is trained, the seed of its initial weights among them.
        precision: number types of multiplications, activations and parameters.
        layers: the implementation of the layers.

    Raises:
        ValueError: for sizes that do not divide or rates outside [0, 1).
    """

    def __init__(
        self,
        variant: Variant,
        model: ModelConfig,
        training: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
        precision: Precision = AMP_LEVELS["O0"],
        layers: Layers = STOCK,
    ) -> None:
        super().__init__()
        dim, heads, eps, dtype = variant.embed_dim, variant.num_heads, model.layer_norm_eps, precision.weight
        self.layers = layers
        self.mean_pooling = model.mean_pooling
        sizes = PatchSizes(model.image_size, variant.patch_size, IN_CHANS, dim)
        self.patch_embed = layers.patch_embed(sizes, precision)
        grid = self.patch_embed.grid
        self.cls_token = Parameter(Tensor(np.zeros((1, 1, dim)), dtype))
        self.pos_embed = None
        if model.abs_pos_emb:
            self.pos_embed = Parameter(Tensor(np.zeros((1, grid * grid + 1, dim)), dtype))
        self.pos_drop = make_dropout(training.drop, stream=0)
        index = Tensor(relative_position_index(grid, grid).reshape(-1))
        self.rel_pos_bias = RelativePositionBias(grid, heads, index, dtype) if model.shared_rel_pos_bias else None
        block = BlockConfig(
            dim=dim,
            num_heads=heads,
            hidden_dim=int(dim * variant.mlp_ratio),
            grid=grid,
            rel_pos_bias=model.rel_pos_bias,
            layer_scale_init_value=training.layer_scale_init_value if model.layer_scale else 0.0,
            approximate_gelu=model.approximate_gelu,
            layer_norm_eps=eps,
            drop=training.drop,
            precision=precision,
        )
        self.blocks = nn.CellList(
            [
                layers.block(block, index, rate, first_stream=1 + layer * STREAMS_PER_BLOCK)
                for layer, rate in enumerate(drop_path_rates(training.drop_path, variant.depth))
            ]
        )
        self.norm = Identity() if model.mean_pooling else layers.layer_norm(dim, eps, precision)
        self.fc_norm = layers.layer_norm(dim, eps, precision) if model.mean_pooling else Identity()
        self.head = layers.linear(dim, model.num_classes, precision)
        if training.seed is not None:
            initialize(self, training.init_scale, training.seed)

    def construct(self, image: Tensor, key: Tensor | None = None) -> Tensor:
        """`image` float32 [B, 3, S, S] -> logits float32 [B, num_classes].

        `key` int32 [B], one random number per sample, is needed in training with `drop` or `drop_path` above 0.
        Raises `ValueError` for an image of another shape; in graph mode this happens at compile time.
        """
        x = self.embed(image, key)
        shared_bias = None
        if self.rel_pos_bias is not None:
            shared_bias = self.rel_pos_bias()
        for block in self.blocks:
            x = block(x, shared_bias, key)
        return self.classify(x)

    def embed(self, image: Tensor, key: Tensor | None) -> Tensor:
        """`image` [B, 3, S, S] -> float32 tokens [B, 1 + patches, embed_dim], the class token first."""
        patches = self.patch_embed(image)
        cls_token = ops.cast(self.cls_token, ms.float32)
        x = ops.concat((ops.broadcast_to(cls_token, (patches.shape[0], 1, patches.shape[2])), patches), 1)
        if self.pos_embed is not None:
            x = x + ops.cast(self.pos_embed, ms.float32)
        return self.pos_drop(x, key)

    def classify(self, x: Tensor) -> Tensor:
        """Tokens of the last block [B, N, embed_dim] -> logits float32 [B, num_classes]."""
        x = self.norm(x)
        cls_token, patches = ops.split(x, (1, x.shape[1] - 1), 1)
        pooled = ops.mean(patches, 1) if self.mean_pooling else ops.squeeze(cls_token, 1)
        return ops.cast(self.head(self.fc_norm(pooled)), ms.float32)


def create_model(
    model: ModelConfig,
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    amp_level: str = "O0",
    layers: Layers | None = None,
) -> VisionTransformer:
    """Build the network of `model` with its initial weights.

    Args:
        model: names a row of `src.model.variants.VARIANTS`.
        training: settings that matter only while the network is trained.
        amp_level: a key of `AMP_LEVELS`.
        layers: the implementation of the layers; by default the fastest one.

    Raises `UserError` for an unknown architecture, an image size that the patch does not divide, and an unknown level.
    """
    variant = get_variant(model.arch)
    patch_grid(variant, model.image_size)
    if amp_level not in AMP_LEVELS:
        raise UserError(f"amp_level '{amp_level}' is unknown: choose one of {', '.join(AMP_LEVELS)}")
    precision = AMP_LEVELS[amp_level]
    return VisionTransformer(variant, model, training, precision, layers or fastest_layers(precision))


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


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """Return the rate of each block: 0 in the first, `drop_path` in the last, linear between."""
    return [float(rate) for rate in np.linspace(0.0, drop_path, depth)]


def initialize(network: VisionTransformer, init_scale: float, seed: int) -> None:
    """Initialize every parameter of a BEiT like the authors' code.

    Matrices, class token and position embedding are normal with standard deviation 0.02 (the authors truncate at 100
    standard deviations, which removes nothing). The last matrix of each branch is divided by sqrt(2 * block number),
    and the head is multiplied by `init_scale`. The patch projection keeps PyTorch's uniform distribution for
    convolutions, because the authors' rule covers only linear layers. Biases, bias tables, layer norms and layer scale
    keep the constants that the cells set.
    """
    for name, parameter in network.parameters_and_names():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        value = initial_value(name, parameter.shape, network.patch_embed.proj.patch_features, init_scale, rng)
        if value is not None:
            parameter.set_data(Tensor(value, parameter.dtype))


def initial_value(
    name: str, shape: tuple[int, ...], patch_features: int, init_scale: float, rng: np.random.Generator
) -> np.ndarray | None:
    """Draw the first value of the parameter `name`, float32 of `shape`; `None` for a parameter that starts constant.

    `patch_features` is the number of values in a patch, the fan-in of the patch projection.
    """
    if name.startswith("patch_embed.proj."):
        bound = 1.0 / math.sqrt(patch_features)
        return rng.uniform(-bound, bound, shape).astype(np.float32)
    if name not in ("cls_token", "pos_embed") and not (name.endswith(".weight") and len(shape) == 2):
        return None
    deviation = 0.02
    if name.endswith((".attn.proj.weight", ".mlp.fc2.weight")):
        deviation /= math.sqrt(2.0 * (int(name.split(".")[1]) + 1))
    if name == "head.weight":
        deviation *= init_scale
    value = rng.standard_normal(shape, dtype=np.float32)
    value *= np.float32(deviation)
    return value
