"""Writes recipe.npz: schedules, parameter groups, optimizers, loss scale and 50 training steps, by the reference.

Run it in the reference environment (PyTorch, timm), from this folder:  python make_recipe.py --unilm DIR
DIR is a checkout of the authors' repository (github.com/microsoft/unilm); its folder beit/ is used.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import recipe_inputs as inputs

with contextlib.suppress(ImportError):
    import reference_shim  # noqa: F401  (needed where torchvision comes without its compiled half)
import timm.layers
import timm.models
import torch
from timm.utils import ModelEma

SCHEDULE_CASES = (  # base_lr, min_lr, epochs, steps_per_epoch, warmup_epochs, warmup_lr
    (2e-3, 1e-6, 100, 7, 20, 7e-6),
    (5e-4, 1e-6, 30, 11, 5, 0.0),
    (3e-3, 1e-5, 4, 5, 0, 1e-6),
    (3e-3, 1e-5, 4, 5, 4, 1e-6),
    (1e-3, 0.0, 1, 13, 1, 1e-6),
)


def authors_module(name: str) -> types.ModuleType:
    """Import a module of the authors' code; what it imports and this script does not need is a mock."""
    for missing in ("torch._six", "tensorboardX", "modeling_discrete_vae"):
        sys.modules.setdefault(missing, MagicMock())
    for old in ("adafactor", "adahessian", "adamp", "lookahead", "nadam", "novograd", "nvnovograd", "radam"):
        sys.modules[f"timm.optim.{old}"] = MagicMock()
    for old in ("rmsprop_tf", "sgdp"):
        sys.modules[f"timm.optim.{old}"] = MagicMock()
    sys.modules["timm.models.layers"] = timm.layers
    sys.modules["timm.models.registry"] = timm.models
    return importlib.import_module(name)


def schedules() -> dict[str, np.ndarray]:
    cosine = authors_module("utils").cosine_scheduler
    out = {"schedule_cases": np.array(SCHEDULE_CASES)}
    for number, (base, final, epochs, steps, warmup, start) in enumerate(SCHEDULE_CASES):
        with contextlib.redirect_stdout(io.StringIO()):
            out[f"schedule_{number}"] = cosine(base, final, epochs, steps, warmup, start)
    weight = torch.nn.Parameter(torch.zeros(1))
    for name, schedule in (
        ("step_lr", lambda sgd: torch.optim.lr_scheduler.StepLR(sgd, step_size=3, gamma=0.5)),
        ("exponential_lr", lambda sgd: torch.optim.lr_scheduler.ExponentialLR(sgd, gamma=0.97)),
    ):
        sgd = torch.optim.SGD([weight], lr=0.4)
        scheduler, rates = schedule(sgd), []
        for _ in range(10):  # epochs
            rates.append(sgd.param_groups[0]["lr"])
            sgd.step()
            scheduler.step()
        out[name] = np.array(rates)
    return out


def authors_groups(model: torch.nn.Module, weight_decay: float, layer_decay: float) -> list[dict]:
    """As run_class_finetuning.py calls optim_factory."""
    factory = authors_module("optim_factory")
    layers = model.get_num_layers()
    get_layer, get_scale = None, None
    if layer_decay < 1.0:
        assigner = factory.LayerDecayValueAssigner([layer_decay ** (layers + 1 - i) for i in range(layers + 2)])
        get_layer, get_scale = assigner.get_layer_id, assigner.get_scale
    with contextlib.redirect_stdout(io.StringIO()):
        return factory.get_parameter_groups(model, weight_decay, model.no_weight_decay(), get_layer, get_scale)


def parameter_groups() -> dict[str, np.ndarray]:
    """Name, number of dimensions, scale and decay of every parameter. Sizes are cut: rules see names and ranks."""
    out = {}
    vit = authors_module("modeling_finetune").VisionTransformer
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "num_heads": 2, "qkv_bias": True, "init_values": 0.1}
    cases = {
        "base": (12, 0.9, {"use_rel_pos_bias": True}),
        "large": (24, 0.75, {"use_rel_pos_bias": True}),
        "no_layer_decay": (2, 1.0, {"use_rel_pos_bias": True}),
        "shared": (3, 0.8, {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True, "use_mean_pooling": False}),
    }
    for name, (depth, layer_decay, more) in cases.items():
        model = vit(depth=depth, norm_layer=torch.nn.LayerNorm, **options, **{"use_abs_pos_emb": False, **more})
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        rows = [
            (names[id(parameter)], parameter.ndim, group["lr_scale"], group["weight_decay"])
            for group in authors_groups(model, inputs.WEIGHT_DECAY, layer_decay)
            for parameter in group["params"]
        ]
        assert len(rows) == len(names)
        out[f"groups_{name}_names"] = np.array([row[0] for row in rows])
        out[f"groups_{name}_values"] = np.array([row[1:] for row in rows], np.float64)
        out[f"groups_{name}_options"] = np.array([depth, layer_decay])
    return out


def optimizers() -> dict[str, np.ndarray]:
    """The values after every step, float64 computed from float32 inputs."""
    out = {}
    for name in ("adamw", "momentum"):
        values, gradients = inputs.optimizer_values()
        weights = {key: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for key, value in values.items()}
        groups = [
            {"params": [weights[key]], "weight_decay": decay, "lr_scale": scale}
            for key, (scale, decay) in inputs.OPTIMIZER_GROUPS.items()
        ]
        if name == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=0.1, betas=inputs.BETA, eps=inputs.OPTIMIZER_EPS)
        else:
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=inputs.MOMENTUM, nesterov=False)
        trace = {key: [] for key in weights}
        for rate, gradient in zip(inputs.OPTIMIZER_LRS, gradients, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            for key, weight in weights.items():
                weight.grad = torch.tensor(gradient[key], dtype=torch.float64)
            optimizer.step()
            for key, weight in weights.items():
                trace[key].append(weight.detach().numpy().copy())
        out |= {f"{name}_{key}": np.array(steps) for key, steps in trace.items()}
    return out


def loss_scale() -> dict[str, np.ndarray]:
    """The scale that each step used, whether it was applied, and the weights after it."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=inputs.SCALER_LR, momentum=inputs.MOMENTUM)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=inputs.SCALER_INIT, growth_interval=inputs.SCALER_INTERVAL, enabled=True
    )
    scales, applied, weights = [], [], []
    for gradient in inputs.scaler_gradients():
        optimizer.zero_grad()
        scaler.scale((weight * torch.tensor(gradient)).sum()).backward()
        scales.append(scaler.get_scale())
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        applied.append(not torch.equal(before, weight.detach()))
        weights.append(weight.detach().numpy().copy())
    return {
        "scaler_scales": np.array(scales),
        "scaler_applied": np.array(applied),
        "scaler_weights": np.array(weights),
    }


def training() -> dict[str, np.ndarray]:
    """50 steps of the authors' network: AdamW, layer decay, cosine with warm-up, clipping, EMA."""
    sizes = inputs.SIZES
    model = authors_module("modeling_finetune").VisionTransformer(
        img_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        embed_dim=sizes["embed_dim"],
        depth=sizes["depth"],
        num_heads=sizes["num_heads"],
        num_classes=sizes["num_classes"],
        qkv_bias=True,
        init_values=0.1,
        use_rel_pos_bias=True,
        use_abs_pos_emb=False,
        use_mean_pooling=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(inputs.model_weight(name, tuple(parameter.shape))))
    with contextlib.redirect_stdout(io.StringIO()):
        rates = authors_module("utils").cosine_scheduler(
            inputs.BASE_LR,
            inputs.MIN_LR,
            inputs.EPOCHS,
            inputs.STEPS_PER_EPOCH,
            inputs.WARMUP_EPOCHS,
            inputs.WARMUP_LR,
        )
    groups = authors_groups(model, inputs.WEIGHT_DECAY, inputs.LAYER_DECAY)
    optimizer = torch.optim.AdamW(groups, lr=inputs.BASE_LR, betas=inputs.BETA, eps=inputs.EPS)
    ema = ModelEma(model, decay=inputs.EMA_DECAY)
    model.train()
    losses, norms = [], []
    for rate, image, target in zip(rates, *inputs.model_batches(), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        optimizer.zero_grad()
        logits = model(torch.from_numpy(image))
        loss = -(torch.from_numpy(target) * logits.log_softmax(-1)).sum(-1).mean()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), inputs.CLIP_GRAD_NORM)))
        optimizer.step()
        ema.update(model)
        losses.append(float(loss))
    out = {"training_losses": np.array(losses), "training_norms": np.array(norms)}
    averages = dict(ema.ema.named_parameters())
    for name, parameter in model.named_parameters():
        out[f"weight_{name}"] = parameter.detach().numpy()
        out[f"ema_{name}"] = averages[name].detach().numpy()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unilm", type=Path, required=True, help="checkout of the authors' repository")
    sys.path.insert(0, str(parser.parse_args().unilm / "beit"))
    torch.set_num_threads(1)
    values = schedules() | parameter_groups() | optimizers() | loss_scale() | training()
    np.savez_compressed(Path(__file__).with_name("recipe.npz"), **values)
    print("losses", values["training_losses"].round(3))
    print("gradient norms", values["training_norms"].round(2))
    print("loss scales", values["scaler_scales"])


if __name__ == "__main__":
    main()
