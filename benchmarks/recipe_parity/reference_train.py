"""Train the recipe once in PyTorch with timm, as in the authors' run_class_finetuning.py.

    REFERENCE_PYTHON benchmarks/recipe_parity/reference_train.py --recipe FILE --data FOLDER --seed N --epochs N
        --output FILE.csv [--unilm FOLDER]

Writes one row per epoch. With `--unilm`, network, schedule and parameter groups are the authors' code (beit/ in that
checkout); otherwise timm's network and `reference_recipe`. This file uses only the config reader and the network sizes
of this project.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.suppress(ImportError):
    import reference_shim  # noqa: F401  (needed if torchvision has no compiled operators)
import torch
from timm.data import Mixup, create_transform
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.beit import Beit
from timm.utils import ModelEma
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from authors_code import authors_groups, authors_network, authors_schedule
from compare import FIELDS
from reference_recipe import cosine_schedule, parameter_groups

from src.config import read_config
from src.model.variants import get_variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--unilm", type=Path)
    options = parser.parse_args()
    recipe = read_config(options.recipe)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    random.seed(options.seed)

    train_loader, val_loader = loaders(recipe, options.data)
    steps = len(train_loader)
    model = timm_network(recipe) if options.unilm is None else authors_network(options.unilm, recipe)
    depth = get_variant(recipe.arch).depth
    if options.unilm is None:
        warmup = int(recipe.warmup_length * steps)
        rates = cosine_schedule(recipe.base_lr, recipe.min_lr, recipe.warmup_lr, warmup, options.epochs * steps)
        groups = parameter_groups(model, depth, recipe.weight_decay, recipe.layer_decay)
    else:
        rates = authors_schedule(options.unilm, recipe, options.epochs, steps)
        groups = authors_groups(options.unilm, model, recipe.weight_decay, recipe.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.base_lr, betas=tuple(recipe.beta), eps=recipe.eps)
    ema = ModelEma(model, decay=recipe.ema_decay)
    mixup, criterion = mixing(recipe)

    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for epoch in range(options.epochs):
            epoch_rates = rates[epoch * steps : (epoch + 1) * steps]
            clip = recipe.clip_grad_norm if recipe.use_clip_grad_norm else None
            train_loss = train_epoch(model, train_loader, mixup, criterion, optimizer, epoch_rates, clip, ema)
            loss, top1 = evaluate(model, val_loader)
            ema_loss, ema_top1 = evaluate(ema.ema, val_loader)
            row = (epoch + 1, epoch_rates[-1], train_loss, loss, top1, ema_loss, ema_top1)
            writer.writerow(dict(zip(FIELDS, row)))
            file.flush()
            print(f"epoch {epoch + 1}/{options.epochs} train loss {train_loss:.4f} top-1 {top1:.2f} ema {ema_top1:.2f}")


def loaders(recipe: Any, folder: Path) -> tuple[DataLoader, DataLoader]:
    """Return training and validation batches with timm's transforms, called as in the authors' code."""
    # the authors' default is 0.5 and 0.5
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if not recipe.imagenet_default_mean_and_std:
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    train = create_transform(
        input_size=recipe.image_size,
        is_training=True,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment,
        interpolation=recipe.aa_interpolation,
        scale=(recipe.min_crop, 1.0),
        hflip=recipe.hflip,
        re_prob=recipe.re_prob,
        re_mode=recipe.re_mode,
        re_count=recipe.re_count,
        mean=mean,
        std=std,
    )
    val = create_transform(
        input_size=recipe.image_size, interpolation="bicubic", crop_pct=recipe.crop_pct, mean=mean, std=std
    )
    return (
        DataLoader(ImageFolder(folder / recipe.train_dir, train), recipe.batch_size, shuffle=True, drop_last=True),
        DataLoader(ImageFolder(folder / recipe.val_dir, val), recipe.batch_size),
    )


def timm_network(recipe: Any) -> nn.Module:
    """Return timm's BEiT with the recipe's sizes and options and timm's initialization."""
    variant = get_variant(recipe.arch)
    return Beit(
        img_size=recipe.image_size,
        patch_size=variant.patch_size,
        embed_dim=variant.embed_dim,
        depth=variant.depth,
        num_heads=variant.num_heads,
        mlp_ratio=variant.mlp_ratio,
        num_classes=recipe.num_classes,
        global_pool="avg" if recipe.mean_pooling else "token",
        drop_path_rate=recipe.drop_path,
        init_values=recipe.layer_scale_init_value or None,
        use_abs_pos_emb=recipe.abs_pos_emb,
        use_rel_pos_bias=recipe.rel_pos_bias,
        use_shared_rel_pos_bias=recipe.shared_rel_pos_bias,
        head_init_scale=recipe.init_scale,
    )


def mixing(recipe: Any) -> tuple[Mixup | None, nn.Module]:
    """Return Mixup and the loss for its targets; without Mixup, label smoothing alone."""
    if recipe.mixup == 0 and recipe.cutmix == 0:
        return None, LabelSmoothingCrossEntropy(recipe.label_smoothing)
    mixup = Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.switch_prob,
        mode=recipe.mixup_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=recipe.num_classes,
    )
    return mixup, SoftTargetCrossEntropy()


def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    mixup: Mixup | None,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    rates: list[float],
    clip_grad_norm: float | None,
    ema: ModelEma,
) -> float:
    """Train on `batches`, with one learning rate per batch; return the mean loss."""
    model.train()
    losses = []
    for (image, target), rate in zip(batches, rates):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        if mixup is not None:
            image, target = mixup(image, target)
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        if clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
        optimizer.step()
        ema.update(model)
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Return the mean cross-entropy in nats and top-1 in percent."""
    model.eval()
    images, right, loss = 0, 0, 0.0
    for image, label in batches:
        logits = model(image)
        images += len(label)
        right += int((logits.argmax(1) == label).sum())
        loss += float(nn.functional.cross_entropy(logits, label, reduction="sum"))
    return loss / images, 100 * right / images


if __name__ == "__main__":
    main()
