"""Learning-rate schedules as arrays: one float64 value per optimizer step of the whole run, ready to plot.

Every schedule begins with the same linear warm-up and starts counting where the warm-up ends, so that none of them
jumps there. Imports no MindSpore.
"""

from __future__ import annotations

import numpy as np

from src.errors import UserError

SCHEDULES = ("cosine_lr", "constant_lr", "multistep_lr", "exp_lr")


def learning_rates(
    name: str,
    *,
    base_lr: float,
    min_lr: float,
    warmup_lr: float,
    warmup_epochs: float,
    epochs: int,
    steps_per_epoch: int,
    lr_adjust: int,
    lr_gamma: float,
) -> np.ndarray:
    """The schedule called `name`: learning rates [epochs * steps_per_epoch], before any layer decay.

    `lr_adjust` (epochs) belongs to multistep_lr alone, `lr_gamma` to multistep_lr and exp_lr, `min_lr` to all but
    constant_lr. Raises `UserError` for an unknown name, a warm-up longer than the run and a `min_lr` above `base_lr`.
    """
    if name not in SCHEDULES:
        raise UserError(f"lr_scheduler '{name}' is unknown: choose one of {', '.join(SCHEDULES)}")
    warmup = warmup_learning_rates(base_lr, warmup_lr, warmup_epochs, epochs, steps_per_epoch)
    steps = epochs * steps_per_epoch - len(warmup)
    if name == "constant_lr":
        return np.concatenate([warmup, constant_lr(base_lr, steps)])
    if min_lr > base_lr:
        raise UserError(f"min_lr {min_lr:g} is above base_lr {base_lr:g}: {name} falls from base_lr towards min_lr")
    if name == "cosine_lr":
        schedule = cosine_lr(base_lr, min_lr, steps)
    elif name == "multistep_lr":
        schedule = multistep_lr(base_lr, min_lr, steps, lr_adjust * steps_per_epoch, lr_gamma)
    else:
        schedule = exp_lr(base_lr, min_lr, steps, steps_per_epoch, lr_gamma)
    return np.concatenate([warmup, schedule])


def warmup_learning_rates(
    base_lr: float, warmup_lr: float, warmup_epochs: float, epochs: int, steps_per_epoch: int
) -> np.ndarray:
    """A straight line from `warmup_lr` to `base_lr`, both reached, over `warmup_epochs` (rounded to whole steps)."""
    if not 0 <= warmup_epochs <= epochs:
        raise UserError(f"warmup_length {warmup_epochs:g} must lie between 0 and the {epochs} epochs of the run")
    return np.linspace(warmup_lr, base_lr, round(warmup_epochs * steps_per_epoch))


def cosine_lr(base_lr: float, min_lr: float, steps: int) -> np.ndarray:
    """Half a cosine from `base_lr` down to just above `min_lr`, [steps]: unilm beit/utils.py, `cosine_scheduler`."""
    return min_lr + 0.5 * (base_lr - min_lr) * (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1)))


def constant_lr(base_lr: float, steps: int) -> np.ndarray:
    """`base_lr` throughout, [steps]."""
    return np.full(steps, base_lr, np.float64)


def multistep_lr(base_lr: float, min_lr: float, steps: int, steps_per_stage: int, lr_gamma: float) -> np.ndarray:
    """`base_lr`, multiplied by `lr_gamma` after every `steps_per_stage` steps, never below `min_lr`, [steps].

    The same as `torch.optim.lr_scheduler.StepLR`, apart from the floor.
    """
    return np.maximum(base_lr * lr_gamma ** (np.arange(steps) // steps_per_stage), min_lr)


def exp_lr(base_lr: float, min_lr: float, steps: int, steps_per_epoch: int, lr_gamma: float) -> np.ndarray:
    """`base_lr` times `lr_gamma` to the power of the epochs done, a smooth curve, never below `min_lr`, [steps].

    As in MindSpore's model zoo the exponent is fractional: each epoch, not each step, multiplies by `lr_gamma`.
    """
    return np.maximum(base_lr * lr_gamma ** (np.arange(steps) / steps_per_epoch), min_lr)
