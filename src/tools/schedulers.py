"""Learning-rate schedules as arrays: one float64 value per optimizer step of the whole run.

Every schedule begins with the same linear warm-up and counts its own steps from the end of the warm-up, so none jumps
there. Imports no MindSpore.
"""

import numpy as np

from src.config import Config
from src.errors import UserError


def learning_rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """Return the learning rates of a run, [epochs * steps_per_epoch], before any layer decay.

    Raises `UserError` for a `min_lr` above `base_lr`, except for constant_lr, which does not use it.
    """
    name, base_lr, min_lr, lr_gamma = config.lr_scheduler, config.base_lr, config.min_lr, config.lr_gamma
    if name != "constant_lr" and min_lr > base_lr:
        raise UserError(
            f"min_lr is {min_lr:g} but base_lr is {base_lr:g}: {name} falls from base_lr, so set min_lr below it"
        )
    # a straight line from warmup_lr to base_lr, both included
    warmup = np.linspace(config.warmup_lr, base_lr, round(config.warmup_length * steps_per_epoch))
    steps = np.arange(config.epochs * steps_per_epoch - len(warmup), dtype=np.float64)
    if name == "constant_lr":
        rates = np.full_like(steps, base_lr)
    elif name == "cosine_lr":  # half a cosine down to just above min_lr: unilm beit/utils.py, cosine_scheduler
        rates = min_lr + 0.5 * (base_lr - min_lr) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    elif name == "multistep_lr":  # torch.optim.lr_scheduler.StepLR with a floor
        stages = steps // (config.lr_adjust * steps_per_epoch)
        rates = np.maximum(base_lr * lr_gamma**stages, min_lr)
    else:  # exp_lr as in MindSpore's model zoo, a smooth curve: each epoch, not each step, multiplies by lr_gamma
        rates = np.maximum(base_lr * lr_gamma ** (steps / steps_per_epoch), min_lr)
    return np.concatenate([warmup, rates])
