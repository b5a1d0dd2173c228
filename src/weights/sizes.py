"""The network that a set of weights belongs to, read off their names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
    """What weights say of their network. `num_heads` and `grid` (patches along a side) are 0 where nothing says them,
    `num_classes` is 0 without a classification head."""

    patch_size: int
    embed_dim: int
    depth: int
    mlp_dim: int
    num_heads: int
    grid: int
    num_classes: int
    rel_pos_bias: bool
    shared_rel_pos_bias: bool
    abs_pos_emb: bool
    layer_scale: bool
    mean_pooling: bool


def measure(weights: Mapping[str, np.ndarray], path: Path) -> Sizes:
    """Read the sizes off and check every parameter's shape against them.

    Raises `UserError`, naming the first parameter that is missing or of another shape than the others ask for.
    """
    for name, dimensions in (("cls_token", 3), ("patch_embed.proj.weight", 4), ("blocks.0.mlp.fc1.weight", 2)):
        if name not in weights:
            raise UserError(f"{path}: parameter '{name}' is missing: give a whole BEiT checkpoint")
        if weights[name].ndim != dimensions:
            raise _wrong_shape(path, name, weights[name].shape, f"{dimensions} dimensions")
    tables = [name for name in weights if name.endswith(TABLE)]
    head = weights.get("head.weight")
    sizes = Sizes(
        patch_size=weights["patch_embed.proj.weight"].shape[-1],
        embed_dim=weights["cls_token"].shape[-1],
        depth=_count(weights, "blocks"),
        mlp_dim=weights["blocks.0.mlp.fc1.weight"].shape[0],
        num_heads=weights[tables[0]].shape[-1] if tables and weights[tables[0]].ndim == 2 else 0,
        grid=_grid(weights, path, tables),
        num_classes=len(head) if head is not None and head.ndim == 2 else 0,
        rel_pos_bias=any(re.fullmatch(rf"blocks\.\d+\.attn\.{TABLE}", name) for name in weights),
        shared_rel_pos_bias=SHARED_TABLE in weights,
        abs_pos_emb="pos_embed" in weights,
        layer_scale=any(re.fullmatch(r"blocks\.\d+\.gamma_[12]", name) for name in weights),
        mean_pooling="fc_norm.weight" in weights,
    )
    expected = network_shapes(sizes) | _pretraining_shapes(weights, sizes)
    for name, array in weights.items():
        if name not in expected:
            raise UserError(f"{path}: parameter '{name}' does not fit the others: it is damaged or of another network")
        if array.shape != expected[name]:
            raise _wrong_shape(path, name, array.shape, str(expected[name]))
    for name in expected:
        if name not in weights:
            raise UserError(f"{path}: parameter '{name}' is missing: give a whole BEiT checkpoint")
    return sizes


def network_shapes(sizes: Sizes) -> dict[str, Shape]:
    """Shape of every parameter of the classification network of `sizes`."""
    dim, grid = sizes.embed_dim, sizes.grid
    shapes: dict[str, Shape] = {"cls_token": (1, 1, dim)}
    if sizes.abs_pos_emb:
        shapes["pos_embed"] = (1, grid * grid + 1, dim)
    shapes |= {"patch_embed.proj.weight": (dim, 3, sizes.patch_size, sizes.patch_size), "patch_embed.proj.bias": (dim,)}
    if sizes.shared_rel_pos_bias:
        shapes[SHARED_TABLE] = (table_rows(grid), sizes.num_heads)
    for layer in range(sizes.depth):
        shapes |= _block_shapes(f"blocks.{layer}.", sizes)
    shapes |= _norm_shapes("fc_norm" if sizes.mean_pooling else "norm", dim)
    if sizes.num_classes:
        shapes |= {"head.weight": (sizes.num_classes, dim), "head.bias": (sizes.num_classes,)}
    return shapes


def table_rows(grid: int) -> int:
    """Rows of a bias table: an offset of up to grid - 1 patches either way along both axes, and the class token's."""
    return (2 * grid - 1) ** 2 + CLASS_TOKEN_ROWS


def grid_of_table(rows: int) -> int:
    """The inverse of `table_rows`, 0 for a number of rows that no square grid has."""
    side = math.isqrt(max(rows - CLASS_TOKEN_ROWS, 0))
    grid = (side + 1) // 2
    return grid if grid and table_rows(grid) == rows else 0


def find_arch(sizes: Sizes, arch: str | None, path: Path) -> str:
    """The variant of these sizes: `arch` itself if it fits, else the one of this image size, else of these sizes.

    Raises `UserError` where `arch` does not fit or none does.
    """
    if arch is not None:
        _check_arch(sizes, arch, path)
        return arch
    fitting = [name for name, variant in VARIANTS.items() if _fits(sizes, variant)]
    if not fitting:
        raise UserError(
            f"{path} is of a size that no arch has (patch {sizes.patch_size}, width {sizes.embed_dim}, "
            f"depth {sizes.depth}): use one of {', '.join(VARIANTS)}"
        )
    return next((name for name in fitting if _has_image_size(sizes, VARIANTS[name])), fitting[0])


def model_config(sizes: Sizes, arch: str) -> ModelConfig:
    """Return the network that the weights describe; fields that weights do not show keep their defaults."""
    return ModelConfig(
        arch=arch,
        image_size=sizes.grid * sizes.patch_size or get_variant(arch).image_size,
        num_classes=sizes.num_classes,
        rel_pos_bias=sizes.rel_pos_bias,
        shared_rel_pos_bias=sizes.shared_rel_pos_bias,
        abs_pos_emb=sizes.abs_pos_emb,
        layer_scale=sizes.layer_scale,
        mean_pooling=sizes.mean_pooling,
    )


def _check_arch(sizes: Sizes, arch: str, path: Path) -> None:
    variant = get_variant(arch)
    pairs = {
        "a patch size of": (sizes.patch_size, variant.patch_size),
        "a width of": (sizes.embed_dim, variant.embed_dim),
        "a depth of": (sizes.depth, variant.depth),
        "an MLP width of": (sizes.mlp_dim, round(variant.embed_dim * variant.mlp_ratio)),
        "heads numbering": (sizes.num_heads or variant.num_heads, variant.num_heads),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise UserError(f"{path} has {what} {found}, arch {arch} {wanted}: give the arch of the file")
    better = [name for name, row in VARIANTS.items() if _fits(sizes, row) and _has_image_size(sizes, row)]
    if better and arch not in better:
        raise UserError(
            f"{path} is for images of {sizes.grid * sizes.patch_size} pixels, arch {arch} for {variant.image_size}: "
            f"use --arch {better[0]}"
        )


def _fits(sizes: Sizes, variant: Variant) -> bool:
    return (
        (sizes.patch_size, sizes.embed_dim, sizes.depth) == (variant.patch_size, variant.embed_dim, variant.depth)
        and sizes.mlp_dim == round(variant.embed_dim * variant.mlp_ratio)
        and sizes.num_heads in (0, variant.num_heads)
    )


def _has_image_size(sizes: Sizes, variant: Variant) -> bool:
    return sizes.grid in (0, variant.image_size // variant.patch_size)


def _block_shapes(prefix: str, sizes: Sizes) -> dict[str, Shape]:
    dim, mlp_dim = sizes.embed_dim, sizes.mlp_dim
    shapes: dict[str, Shape] = {
        "attn.q_bias": (dim,),
        "attn.v_bias": (dim,),
        "attn.qkv.weight": (3 * dim, dim),
        "attn.proj.weight": (dim, dim),
        "attn.proj.bias": (dim,),
        "mlp.fc1.weight": (mlp_dim, dim),
        "mlp.fc1.bias": (mlp_dim,),
        "mlp.fc2.weight": (dim, mlp_dim),
        "mlp.fc2.bias": (dim,),
        **_norm_shapes("norm1", dim),
        **_norm_shapes("norm2", dim),
    }
    if sizes.layer_scale:
        shapes |= {"gamma_1": (dim,), "gamma_2": (dim,)}
    if sizes.rel_pos_bias:
        shapes[f"attn.{TABLE}"] = (table_rows(sizes.grid), sizes.num_heads)
    return {prefix + name: shape for name, shape in shapes.items()}


def _norm_shapes(name: str, dim: int) -> dict[str, Shape]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _pretraining_shapes(weights: Mapping[str, np.ndarray], sizes: Sizes) -> dict[str, Shape]:
    """Shapes of what only pre-training uses, where the weights hold it."""
    dim = sizes.embed_dim
    shapes: dict[str, Shape] = {"mask_token": (1, 1, dim)} if "mask_token" in weights else {}
    for head in ("lm_head", "cls_pt_lm_head"):
        if f"{head}.weight" in weights:
            vocabulary = weights[f"{head}.weight"].shape[:1]
            shapes |= {f"{head}.weight": (*vocabulary, dim), f"{head}.bias": vocabulary}
    if "cls_pt_norm.weight" in weights:
        shapes |= _norm_shapes("cls_pt_norm", dim)
    for layer in range(_count(weights, "cls_pt_layers")):
        shapes |= _block_shapes(f"cls_pt_layers.{layer}.", sizes)
    return shapes


def _count(weights: Mapping[str, np.ndarray], blocks: str) -> int:
    return len({match[1] for name in weights if (match := re.match(rf"{blocks}\.(\d+)\.", name))})


def _grid(weights: Mapping[str, np.ndarray], path: Path, tables: list[str]) -> int:
    if tables:
        grid = grid_of_table(len(weights[tables[0]])) if weights[tables[0]].ndim == 2 else 0
        if not grid:
            raise _wrong_shape(path, tables[0], weights[tables[0]].shape, "(2 x patches along a side - 1)² + 3 rows")
        return grid
    if "pos_embed" in weights:
        shape = weights["pos_embed"].shape
        grid = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
        if not grid or grid * grid + 1 != shape[1]:
            raise _wrong_shape(path, "pos_embed", shape, "one more than a square number of positions")
        return grid
    return 0


def _wrong_shape(path: Path, name: str, shape: Shape, wanted: str) -> UserError:
    return UserError(
        f"{path}: parameter '{name}' has shape {tuple(shape)}, the others ask for {wanted}: "
        "it is damaged or of another network"
    )
