"""Network, schedule and parameter groups of the authors, imported from a checkout of microsoft/unilm."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import timm.layers
from torch import nn

from src.model.variants import get_variant

OPTIMIZERS = ("adafactor", "adahessian", "adamp", "lookahead", "nadam", "novograd", "nvnovograd", "radam")
UNUSED = (
    "torch._six",
    "tensorboardX",
    "modeling_discrete_vae",
    *(f"timm.optim.{name}" for name in (*OPTIMIZERS, "rmsprop_tf", "sgdp")),
)


@functools.cache
def authors_module(unilm: Path, name: str) -> types.ModuleType:
    """Import a module of the authors' beit/. Modules that it imports but this benchmark does not call are mocked."""
    sys.modules["timm.models.layers"] = timm.layers
    sys.modules["timm.models.registry"] = MagicMock(register_model=lambda function: function)
    for unused in UNUSED:
        sys.modules[unused] = MagicMock()
    folder = str(unilm / "beit")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def authors_network(unilm: Path, recipe: Any) -> nn.Module:
    """Return the authors' VisionTransformer with the recipe's sizes and options and the authors' initialization."""
    variant = get_variant(recipe.arch)
    return authors_module(unilm, "modeling_finetune").VisionTransformer(
        img_size=recipe.image_size,
        patch_size=variant.patch_size,
        embed_dim=variant.embed_dim,
        depth=variant.depth,
        num_heads=variant.num_heads,
        mlp_ratio=variant.mlp_ratio,
        num_classes=recipe.num_classes,
        qkv_bias=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        drop_path_rate=recipe.drop_path,
        init_values=recipe.layer_scale_init_value,
        use_abs_pos_emb=recipe.abs_pos_emb,
        use_rel_pos_bias=recipe.rel_pos_bias,
        use_shared_rel_pos_bias=recipe.shared_rel_pos_bias,
        use_mean_pooling=recipe.mean_pooling,
        init_scale=recipe.init_scale,
    )


def authors_schedule(unilm: Path, recipe: Any, epochs: int, steps_per_epoch: int) -> list[float]:
    """Return the learning rate of every step."""
    with contextlib.redirect_stdout(io.StringIO()):
        schedule = authors_module(unilm, "utils").cosine_scheduler(
            recipe.base_lr, recipe.min_lr, epochs, steps_per_epoch, int(recipe.warmup_length), recipe.warmup_lr
        )
    return [float(rate) for rate in schedule]


def authors_groups(unilm: Path, model: nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """Return groups with `lr_scale` and `weight_decay`, as in run_class_finetuning.py."""
    factory = authors_module(unilm, "optim_factory")
    layers = model.get_num_layers()
    scales = [layer_decay ** (layers + 1 - layer) for layer in range(layers + 2)]
    assigner = factory.LayerDecayValueAssigner(scales)
    with contextlib.redirect_stdout(io.StringIO()):
        return factory.get_parameter_groups(
            model, weight_decay, model.no_weight_decay(), assigner.get_layer_id, assigner.get_scale
        )
