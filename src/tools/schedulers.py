"""Learning-rate schedules as arrays: one float64 value per optimizer step of the whole run.

Every schedule begins with the same linear warm-up and counts its own steps from the end of the warm-up, so none jumps
there. Imports no MindSpore.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from src.config import Config
from src.errors import UserError

SCHEDULES = ("cosine_lr", "constant_lr", "multistep_lr", "exp_lr")


@dataclass(frozen=True)
class Schedule:
    """The options of a learning-rate schedule, under their names in the config.

    Attributes:
        lr_scheduler: one of `SCHEDULES`.
        min_lr: not used by constant_lr.
        warmup_length: in epochs.
        lr_adjust: epochs between two steps of multistep_lr.
        lr_gamma: factor of multistep_lr and exp_lr.
    """

    lr_scheduler: str
    base_lr: float
    min_lr: float
    warmup_lr: float
    warmup_length: float
    epochs: int
    lr_adjust: int
    lr_gamma: float

    @staticmethod
    def of(config: Config) -> Schedule:
        """Take the options from `config`."""
        return Schedule(**{field.name: getattr(config, field.name) for field in fields(Schedule)})


def learning_rates(schedule: Schedule, steps_per_epoch: int) -> np.ndarray:
    """Return the learning rates of a run, [epochs * steps_per_epoch], before any layer decay.

    Raises `UserError` for an unknown name, a warm-up longer than the run and a `min_lr` above `base_lr`.
    """
    name, base_lr, min_lr = schedule.lr_scheduler, schedule.base_lr, schedule.min_lr
    if name not in SCHEDULES:
        raise UserError(f"lr_scheduler '{name}' is unknown: choose one of {', '.join(SCHEDULES)}")
    if not 0 <= schedule.warmup_length <= schedule.epochs:
        raise UserError(
            f"warmup_length is {schedule.warmup_length:g}: set it between 0 and epochs, which is {schedule.epochs}"
        )
    if name != "constant_lr" and min_lr > base_lr:
        raise UserError(
            f"min_lr is {min_lr:g} but base_lr is {base_lr:g}: {name} falls from base_lr, so set min_lr below it"
        )
    # a straight line from warmup_lr to base_lr, both included
    warmup = np.linspace(schedule.warmup_lr, base_lr, round(schedule.warmup_length * steps_per_epoch))
    steps = np.arange(schedule.epochs * steps_per_epoch - len(warmup), dtype=np.float64)
    if name == "constant_lr":
        rates = np.full_like(steps, base_lr)
    elif name == "cosine_lr":  # half a cosine down to just above min_lr: unilm beit/utils.py, cosine_scheduler
        rates = min_lr + 0.5 * (base_lr - min_lr) * (1 + np.cos(np.pi * steps / max(len(steps), 1)))
    elif name == "multistep_lr":  # torch.optim.lr_scheduler.StepLR with a floor
        stages = steps // (schedule.lr_adjust * steps_per_epoch)
        rates = np.maximum(base_lr * schedule.lr_gamma**stages, min_lr)
    else:  # as in MindSpore's model zoo, a smooth curve: each epoch, not each step, multiplies by lr_gamma
        rates = np.maximum(base_lr * schedule.lr_gamma ** (steps / steps_per_epoch), min_lr)
    return np.concatenate([warmup, rates])
