"""Schedules as arrays: one float64 value per optimizer step of the whole run.

Every schedule of the learning rate begins with the same linear warm-up and counts its own steps from the end of the
warm-up, so none jumps there. Imports no MindSpore.
"""

import numpy as np

from src.config import RunConfig
from src.errors import UserError


def learning_rates(config: RunConfig, steps_per_epoch: int) -> np.ndarray:
    """Return the learning rates of a run, [epochs * steps_per_epoch], before any layer decay.

    Raises `UserError` for a `min_lr` above `base_lr`, except for constant_lr, which does not use it, and for a warm-up
    that is longer than the run.
    """
    name, base_lr, min_lr, lr_gamma = config.lr_scheduler, config.base_lr, config.min_lr, config.lr_gamma
    if name != "constant_lr" and min_lr > base_lr:
        raise UserError(
            f"min_lr is {min_lr:g} but base_lr is {base_lr:g}: {name} falls from base_lr, so set min_lr below it"
        )
    # a straight line from warmup_lr to base_lr, both included
    total = config.epochs * steps_per_epoch
    warmup_steps = config.warmup_steps or round(config.warmup_length * steps_per_epoch)
    if warmup_steps > total:
        raise UserError(f"warmup_steps is {warmup_steps} but the run has {total} steps; set at most {total}")
    warmup = np.linspace(config.warmup_lr, base_lr, warmup_steps)
    steps = np.arange(total - warmup_steps, dtype=np.float64)
    if name == "constant_lr":
        rates = np.full_like(steps, base_lr)
    elif name == "cosine_lr":
        rates = cosine(base_lr, min_lr, len(steps))
    elif name == "multistep_lr":  # torch.optim.lr_scheduler.StepLR with a floor
        stages = steps // (config.lr_adjust * steps_per_epoch)
        rates = np.maximum(base_lr * lr_gamma**stages, min_lr)
    else:  # exp_lr as in MindSpore's model zoo, a smooth curve: each epoch, not each step, multiplies by lr_gamma
        rates = np.maximum(base_lr * lr_gamma ** (steps / steps_per_epoch), min_lr)
    return np.concatenate([warmup, rates])


def weight_decays(config: RunConfig, steps_per_epoch: int) -> np.ndarray:
    """Return the weight decays of a run, [epochs * steps_per_epoch]: constant, or a cosine to `weight_decay_end`."""
    total = config.epochs * steps_per_epoch
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    return cosine(config.weight_decay, end, total)


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Return half a cosine from `start` to one step before `end`: unilm beit/utils.py, `cosine_scheduler`."""
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(steps, dtype=np.float64) / max(steps, 1)))
