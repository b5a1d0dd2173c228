"""The BEiT network for image classification (Bao et al. 2022), as its authors and timm have it."""

from __future__ import annotations

import math
import zlib

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.layers.custom_identity import Identity
from src.layers.drop_path_timm import make_dropout
from src.layers.layer_norm import LayerNorm
from src.layers.linear import Linear
from src.layers.patch_embed import PatchEmbed
from src.layers.relative_position_bias import RelativePositionBias, relative_position_index
from src.layers.transformer_block import STREAMS_PER_BLOCK, Block
from src.model.variants import get_variant, patch_grid

IN_CHANS = 3


class VisionTransformer(nn.Cell):
    """BEiT; parameter names and numbers are those of the authors' `modeling_finetune.VisionTransformer`.

    Args:
        image_size, patch_size: pixels along a side; the first is a multiple of the second.
        embed_dim, depth, num_heads, mlp_ratio: the sizes of the transformer.
        num_classes: how many logits.
        drop: dropout after the embeddings and at the end of both branches of a block.
        drop_path: stochastic depth of the last block; it grows linearly from 0 in the first.
        layer_scale_init_value: first value of `gamma_1` and `gamma_2`; 0 leaves them out.
        rel_pos_bias: a relative position bias table in every block.
        shared_rel_pos_bias: one table for all blocks, added to theirs.
        abs_pos_emb: a learned absolute position embedding.
        mean_pooling: classify the mean of the patch tokens (`fc_norm`); otherwise the class token (`norm`).
        approximate_gelu: the tanh form of GELU.
        init_scale: factor on the initial head.
        seed: decides the initial weights, alone: a parameter's values follow from it, the name and the shape.

    Raises:
        ValueError: for sizes that do not divide or rates outside [0, 1).
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 0.1,
        rel_pos_bias: bool = True,
        shared_rel_pos_bias: bool = False,
        abs_pos_emb: bool = False,
        mean_pooling: bool = True,
        approximate_gelu: bool = False,
        init_scale: float = 0.001,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.mean_pooling = mean_pooling
        self.patch_embed = PatchEmbed(image_size, patch_size, IN_CHANS, embed_dim)
        grid = self.patch_embed.grid
        self.cls_token = Parameter(Tensor(np.zeros((1, 1, embed_dim), np.float32)))
        self.pos_embed = None
        if abs_pos_emb:
            self.pos_embed = Parameter(Tensor(np.zeros((1, grid * grid + 1, embed_dim), np.float32)))
        self.pos_drop = make_dropout(drop, stream=0)
        index = Tensor(relative_position_index(grid, grid).reshape(-1))
        self.rel_pos_bias = RelativePositionBias(grid, num_heads, index) if shared_rel_pos_bias else None
        self.blocks = nn.CellList(
            [
                Block(
                    embed_dim,
                    num_heads,
                    mlp_ratio,
                    grid,
                    index,
                    rel_pos_bias,
                    layer_scale_init_value,
                    approximate_gelu,
                    drop,
                    rate,
                    first_stream=1 + layer * STREAMS_PER_BLOCK,
                )
                for layer, rate in enumerate(drop_path_rates(drop_path, depth))
            ]
        )
        self.norm = Identity() if mean_pooling else LayerNorm(embed_dim)
        self.fc_norm = LayerNorm(embed_dim) if mean_pooling else Identity()
        self.head = Linear(embed_dim, num_classes)
        initialize(self, init_scale, seed)

    def construct(self, image: Tensor, key: Tensor | None = None) -> Tensor:
        """`image` float32 [B, 3, S, S] -> logits float32 [B, num_classes].

        `key` int32 [B], one random number per sample, is needed in training with `drop` or `drop_path` above 0 and
        unused otherwise. An image of another shape raises `ValueError`, in graph mode when the graph is compiled.
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
        cls_token, patches = ops.split(x, (1, x.shape[1] - 1), 1)  # split: see Attention.queries_keys_values
        pooled = ops.mean(patches, 1) if self.mean_pooling else ops.squeeze(cls_token, 1)
        return ops.cast(self.head(self.fc_norm(pooled)), ms.float32)


def create_model(
    arch: str,
    *,
    image_size: int | None = None,
    num_classes: int = 1000,
    drop: float = 0.0,
    drop_path: float = 0.0,
    layer_scale_init_value: float = 0.1,
    rel_pos_bias: bool = True,
    shared_rel_pos_bias: bool = False,
    abs_pos_emb: bool = False,
    mean_pooling: bool = True,
    approximate_gelu: bool = False,
    init_scale: float = 0.001,
    seed: int = 0,
) -> VisionTransformer:
    """The network named `arch`, at the variant's own image size unless `image_size` is given.

    Raises `UserError` for an unknown name and for an image size that the patch does not divide. The other arguments
    are `VisionTransformer`'s.
    """
    variant = get_variant(arch)
    size = variant.image_size if image_size is None else image_size
    patch_grid(variant, size)
    return VisionTransformer(
        image_size=size,
        patch_size=variant.patch_size,
        embed_dim=variant.embed_dim,
        depth=variant.depth,
        num_heads=variant.num_heads,
        mlp_ratio=variant.mlp_ratio,
        num_classes=num_classes,
        drop=drop,
        drop_path=drop_path,
        layer_scale_init_value=layer_scale_init_value,
        rel_pos_bias=rel_pos_bias,
        shared_rel_pos_bias=shared_rel_pos_bias,
        abs_pos_emb=abs_pos_emb,
        mean_pooling=mean_pooling,
        approximate_gelu=approximate_gelu,
        init_scale=init_scale,
        seed=seed,
    )


def drop_path_rates(drop_path: float, depth: int) -> list[float]:
    """The rate of each block: 0 in the first, `drop_path` in the last, linear between (the stochastic depth rule)."""
    return [float(rate) for rate in np.linspace(0.0, drop_path, depth)]


def initialize(network: VisionTransformer, init_scale: float, seed: int) -> None:
    """Give every parameter of a BEiT its first value, as the authors' code does.

    Matrices, class token and position embedding come from a normal distribution of standard deviation 0.02 (the
    authors cut it at 100 standard deviations, where nothing is), the last matrix of each branch divided by
    sqrt(2 * block number) and the head multiplied by `init_scale`. The patch projection keeps PyTorch's uniform
    distribution for convolutions, since the authors' rule names only linear layers. Biases, bias tables, layer norms
    and layer scale keep the constants that the cells set.
    """
    for name, parameter in network.parameters_and_names():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        value = initial_value(name, parameter.shape, network.patch_embed.proj.patch_features, init_scale, rng)
        if value is not None:
            parameter.set_data(Tensor(value))


def initial_value(
    name: str, shape: tuple[int, ...], patch_features: int, init_scale: float, rng: np.random.Generator
) -> np.ndarray | None:
    """The random part of `initialize`: float32 of `shape` for the parameter `name`, `None` where it is a constant.

    `patch_features` is how many numbers a patch has, the fan-in of the patch projection.
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
