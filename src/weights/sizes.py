"""Sizes and options of a network, derived from the names and shapes of its weights."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.variants import VARIANTS, Variant, get_variant
from src.weights.names import SHARED_TABLE, TABLE

Shape = tuple[int, ...]

CLASS_TOKEN_ROWS = 3  # of a bias table: class to patch, patch to class, class to class


@dataclass(frozen=True)
class Sizes:
    """Sizes that weights determine; 0 for `num_heads` and `grid` (patches along a side) without a position table.

    `model` has the options that weights determine, and no `arch`; its `image_size` is 0 if `grid` is.
    """

    patch_size: int
    embed_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    grid: int
    model: ModelConfig


def measure(weights: Mapping[str, np.ndarray], path: Path) -> Sizes:
    """Derive the sizes and check the shape of every parameter against them.

    Raises `UserError`, naming the first parameter that is missing, superfluous or of another shape.
    """
    for name, dimensions in (("cls_token", 3), ("patch_embed.proj.weight", 4), ("blocks.0.mlp.fc1.weight", 2)):
        if name not in weights:
            raise _missing(path, name)
        if weights[name].ndim != dimensions:
            raise _wrong_shape(path, name, weights[name].shape, f"{dimensions} dimensions")
    tables = [name for name in weights if name.endswith(TABLE)]
    patch_size = weights["patch_embed.proj.weight"].shape[-1]
    grid = _grid(weights, path, tables)
    sizes = Sizes(
        patch_size=patch_size,
        embed_dim=weights["cls_token"].shape[-1],
        depth=_count(weights, "blocks"),
        mlp_dim=weights["blocks.0.mlp.fc1.weight"].shape[0],
        num_heads=weights[tables[0]].shape[-1] if tables else 0,
        grid=grid,
        model=ModelConfig(
            arch="",
            image_size=grid * patch_size,
            num_classes=_outputs(weights, "head"),
            rel_pos_bias=any(re.fullmatch(rf"blocks\.\d+\.attn\.{TABLE}", name) for name in weights),
            shared_rel_pos_bias=SHARED_TABLE in weights,
            abs_pos_emb="pos_embed" in weights,
            layer_scale=any(re.fullmatch(r"blocks\.\d+\.gamma_[12]", name) for name in weights),
            mean_pooling="fc_norm.weight" in weights,
            lm_head_outputs=_outputs(weights, "lm_head"),
            head_layers=_count(weights, "cls_pt_layers"),
        ),
    )
    expected = network_shapes(sizes) | _pretraining_shapes(weights, sizes)
    for name, array in weights.items():
        if name not in expected:
            raise UserError(f"{path}: BEiT has no parameter '{name}' beside the others; give one of BEiT or BEiT v2")
        if array.shape != expected[name]:
            raise _wrong_shape(path, name, array.shape, str(expected[name]))
    for name in expected:
        if name not in weights:
            raise _missing(path, name)
    return sizes


def network_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Return the shape of every parameter of the classification network of `sizes`."""
    dim, grid, model = sizes.embed_dim, sizes.grid, sizes.model
    shapes: dict[str, Shape] = {"cls_token": (1, 1, dim)}
    if model.abs_pos_emb:
        shapes["pos_embed"] = (1, grid * grid + 1, dim)
    shapes |= _layer_shapes("patch_embed.proj", dim, 3, sizes.patch_size, sizes.patch_size)
    if model.shared_rel_pos_bias:
        shapes[SHARED_TABLE] = (table_rows(grid), sizes.num_heads)
    for layer in range(sizes.depth):
        shapes |= _block_shapes(f"blocks.{layer}.", sizes)
    shapes |= _layer_shapes("fc_norm" if model.mean_pooling else "norm", dim)
    if model.num_classes:
        shapes |= _layer_shapes("head", model.num_classes, dim)
    return shapes


def table_rows(grid: int) -> int:
    """Return the rows of a bias table: offsets of at most grid - 1 patches along both axes, and the class token's."""
    return (2 * grid - 1) ** 2 + CLASS_TOKEN_ROWS


def grid_of_table(rows: int) -> int:
    """Invert `table_rows`; 0 for a number of rows that no square grid has."""
    side = math.isqrt(max(rows - CLASS_TOKEN_ROWS, 0))
    grid = (side + 1) // 2
    return grid if grid and table_rows(grid) == rows else 0


def find_model(sizes: Sizes, arch: str | None, path: Path) -> ModelConfig:
    """Return the network of `sizes` with its architecture: `arch`, else one of this image size, else of these sizes.

    Options that weights do not determine keep their defaults. Raises `UserError` if `arch` or every architecture
    contradicts `sizes`.
    """
    fitting = [name for name, variant in VARIANTS.items() if not _differences(sizes, variant)]
    exact = [name for name in fitting if sizes.grid in (0, VARIANTS[name].image_size // VARIANTS[name].patch_size)]
    if arch is None:
        if not fitting:
            raise UserError(
                f"{path} has sizes of no known arch (patch {sizes.patch_size}, width {sizes.embed_dim}, "
                f"depth {sizes.depth}): give a file of one of {', '.join(VARIANTS)}"
            )
        arch = (exact or fitting)[0]
    variant = get_variant(arch)
    if differences := _differences(sizes, variant):
        raise UserError(f"{path} is not a {arch} ({differences[0]}): give the arch of the file")
    if exact and arch not in exact:
        raise UserError(
            f"{path} is for images of {sizes.model.image_size} pixels, but arch {arch} for {variant.image_size}: "
            f"use --arch {exact[0]}"
        )
    return replace(sizes.model, arch=arch, image_size=sizes.model.image_size or variant.image_size)


def _differences(sizes: Sizes, variant: Variant) -> list[str]:
    """Describe the sizes that contradict `variant`."""
    pairs = {
        "patch size": (sizes.patch_size, variant.patch_size),
        "width": (sizes.embed_dim, variant.embed_dim),
        "depth": (sizes.depth, variant.depth),
        "MLP width": (sizes.mlp_dim, round(variant.embed_dim * variant.mlp_ratio)),
        "number of heads": (sizes.num_heads or variant.num_heads, variant.num_heads),
    }
    return [f"its {name} is {found}, not {wanted}" for name, (found, wanted) in pairs.items() if found != wanted]


def _layer_shapes(name: str, *weight: int) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _block_shapes(prefix: str, sizes: Sizes) -> dict[str, Shape]:
    dim, mlp_dim = sizes.embed_dim, sizes.mlp_dim
    shapes: dict[str, Shape] = {"attn.q_bias": (dim,), "attn.v_bias": (dim,), "attn.qkv.weight": (3 * dim, dim)}
    shapes |= _layer_shapes("attn.proj", dim, dim) | _layer_shapes("norm1", dim) | _layer_shapes("norm2", dim)
    shapes |= _layer_shapes("mlp.fc1", mlp_dim, dim) | _layer_shapes("mlp.fc2", dim, mlp_dim)
    if sizes.model.layer_scale:
        shapes |= {"gamma_1": (dim,), "gamma_2": (dim,)}
    if sizes.model.rel_pos_bias:
        shapes[f"attn.{TABLE}"] = (table_rows(sizes.grid), sizes.num_heads)
    return {prefix + name: shape for name, shape in shapes.items()}


def _pretraining_shapes(weights: Mapping[str, np.ndarray], sizes: Sizes) -> dict[str, Shape]:
    """Return the shapes of the parameters in `weights` that only pre-training uses."""
    dim = sizes.embed_dim
    shapes: dict[str, Shape] = {"mask_token": (1, 1, dim)} if "mask_token" in weights else {}
    for head in ("lm_head", "cls_pt_lm_head"):
        if f"{head}.weight" in weights:
            shapes |= _layer_shapes(head, *weights[f"{head}.weight"].shape[:1], dim)
    if "cls_pt_norm.weight" in weights:
        shapes |= _layer_shapes("cls_pt_norm", dim)
    for layer in range(sizes.model.head_layers):
        shapes |= _block_shapes(f"cls_pt_layers.{layer}.", sizes)
    return shapes


def _outputs(weights: Mapping[str, np.ndarray], layer: str) -> int:
    weight = weights.get(f"{layer}.weight")
    return len(weight) if weight is not None and weight.ndim == 2 else 0


def _count(weights: Mapping[str, np.ndarray], blocks: str) -> int:
    return len({match[1] for name in weights if (match := re.match(rf"{blocks}\.(\d+)\.", name))})


def _grid(weights: Mapping[str, np.ndarray], path: Path, tables: list[str]) -> int:
    if tables:
        shape = weights[tables[0]].shape
        if len(shape) != 2 or not grid_of_table(shape[0]):
            raise _wrong_shape(path, tables[0], shape, "(2 x patches along a side - 1)² + 3 rows")
        return grid_of_table(shape[0])
    if "pos_embed" in weights:
        shape = weights["pos_embed"].shape
        grid = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
        if not grid or grid * grid + 1 != shape[1]:
            raise _wrong_shape(path, "pos_embed", shape, "a square number of positions plus one")
        return grid
    return 0


def _missing(path: Path, name: str) -> UserError:
    return UserError(f"{path} has no parameter '{name}': give a complete BEiT checkpoint")


def _wrong_shape(path: Path, name: str, shape: Shape, wanted: str) -> UserError:
    return UserError(
        f"{path}: parameter '{name}' has shape {tuple(shape)}, but the other parameters require {wanted}; give an "
        "undamaged BEiT checkpoint"
    )
