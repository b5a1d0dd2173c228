"""The training loop, and what it tells its callbacks."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mindspore import Tensor

from src.data.imagenet import TrainBatch
from src.errors import RunError
from src.trainer.evaluate import EvalResult

# The loss of a step, whether it was skipped and the loss scale that it used, all three on the device, with the last
# micro-batch where the host has seen it.
StepOutput = tuple[Tensor, Tensor, Tensor, TrainBatch | None]

# So many steps are on their way while the host already prepares the next: reading the loss of an older one then waits
# for nothing, and a device that works asynchronously always has work queued.
STEPS_AHEAD = 2


class TrainingDiverged(RunError):
    """The loss stopped being a number."""


class StepMeter:
    """Losses and overflows of an epoch's steps, read from the device `STEPS_AHEAD` steps after they were taken.

    Attributes:
        loss_sum: over the steps whose loss is finite, of which there are `finite`, added one by one in their order.
        steps, skipped: how many steps were read, and how many of these an overflow had skipped.
        nonfinite: how many steps, up to the last one read and back into earlier epochs, had no finite loss in a row.
        seconds_before: what the epoch took before the run was resumed in the middle of it.
    """

    def __init__(self, nonfinite: int = 0) -> None:
        self.loss_sum = 0.0
        self.finite = 0
        self.steps = 0
        self.skipped = 0
        self.nonfinite = nonfinite
        self.seconds_before = 0.0
        self.last_loss: Tensor | None = None
        self.last_loss_scale = math.nan
        self._pending: deque[tuple[Tensor, Tensor, Tensor]] = deque()
        self._begin = time.perf_counter()

    @property
    def mean_loss(self) -> float:
        """Over the finite losses; NaN where there is none."""
        return self.loss_sum / self.finite if self.finite else math.nan

    @property
    def seconds(self) -> float:
        """Since the epoch began."""
        return self.seconds_before + time.perf_counter() - self._begin

    def add(self, loss: Tensor, overflow: Tensor, loss_scale: Tensor) -> None:
        """Take in a step, and read the one before the steps that may be on their way."""
        self.last_loss = loss
        self._pending.append((loss, overflow, loss_scale))
        if len(self._pending) > STEPS_AHEAD:
            self._read()

    def drain(self) -> None:
        """Read all steps taken in so far, which waits for the last of them to end."""
        while self._pending:
            self._read()

    def as_json(self) -> dict[str, float]:
        """What a resumed run needs to go on counting; drains."""
        self.drain()
        return {name: getattr(self, name) for name in METER_FIELDS} | {"seconds": self.seconds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StepMeter:
        """The meter that `as_json` described."""
        meter = cls()
        for name in METER_FIELDS:
            setattr(meter, name, values[name])
        meter.seconds_before = values["seconds"]
        return meter

    def _read(self) -> None:
        loss, overflow, loss_scale = self._pending.popleft()
        value = float(loss.asnumpy())
        self.steps += 1
        self.skipped += bool(overflow.asnumpy())
        self.last_loss_scale = float(loss_scale.asnumpy())
        if math.isfinite(value):
            self.loss_sum += value
            self.finite += 1
            self.nonfinite = 0
        else:
            self.nonfinite += 1


METER_FIELDS = ("loss_sum", "finite", "steps", "skipped", "nonfinite")


@dataclass
class RunState:
    """Where a run stands. `epoch` counts from 0; `step` is the number of steps that the epoch has behind it.

    `history` has an entry per finished epoch: the columns of metrics.csv. A run ends where `max_nonfinite_steps` steps
    in a row have no finite loss. `stop_signal` is what has asked this process to stop, `stopping` whether the run does
    so after the present step: all its ranks after the same one.
    """

    epochs: int
    steps_per_epoch: int
    images_per_step: int
    learning_rates: np.ndarray
    max_nonfinite_steps: int = 10
    epoch: int = 0
    step: int = 0
    meter: StepMeter = field(default_factory=StepMeter)
    history: list[dict[str, float]] = field(default_factory=list)
    result: EvalResult | None = None
    ema_result: EvalResult | None = None
    stop_signal: int | None = None
    stopping: bool = False

    @property
    def iteration(self) -> int:
        """Steps since the start of training, skipped ones included."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def learning_rate(self) -> float:
        """The rate of the last step taken (of the first, before it)."""
        return float(self.learning_rates[max(self.iteration - 1, 0)])


class Callback:
    """What may happen at the seams of a run; each method does nothing until a subclass says otherwise."""

    def on_train_begin(self, state: RunState) -> None:
        """Before the first step."""

    def on_epoch_begin(self, state: RunState) -> None:
        """Before the first step of an epoch."""

    def on_step_end(self, state: RunState, batch: TrainBatch | None) -> None:
        """After a step; `batch` is its last micro-batch, None where the device fetches its data itself."""

    def on_epoch_end(self, state: RunState) -> None:
        """After an epoch and its evaluation: `state.result` is set."""

    def on_train_end(self, state: RunState) -> None:
        """After the last step, or after the one at which the run was asked to stop."""


def train(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]],
    validate: Callable[[RunState], None],
    callbacks: Sequence[Callback],
    state: RunState,
    stop_vote: Callable[[bool], bool] = lambda asked: asked,
) -> None:
    """Train from where `state` stands to `state.epochs`, or until the run is asked to stop.

    Args:
        epoch_steps: takes the steps of an epoch from a step on, one per item drawn (see src/trainer/feed.py).
        validate: sets `state.result` (and `state.ema_result`) after an epoch.
        stop_vote: takes whether this rank was asked to stop and says whether the run stops now, the same on all ranks.

    Raises `TrainingDiverged` where the loss stops being a number.
    """
    for callback in callbacks:
        callback.on_train_begin(state)
    while state.epoch < state.epochs and not state.stopping:
        _train_epoch(epoch_steps, callbacks, state, stop_vote)
        if state.step < state.steps_per_epoch:
            break  # asked to stop in the middle
        seconds = state.meter.seconds
        validate(state)
        state.history.append(_epoch_record(state, seconds))
        for callback in callbacks:
            callback.on_epoch_end(state)
        state.epoch, state.step = state.epoch + 1, 0
        state.stopping = stop_vote(state.stop_signal is not None) or state.stopping
    for callback in callbacks:
        callback.on_train_end(state)


def _train_epoch(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]],
    callbacks: Sequence[Callback],
    state: RunState,
    stop_vote: Callable[[bool], bool],
) -> None:
    if state.step == 0:
        state.meter = StepMeter(state.meter.nonfinite)
    for callback in callbacks:
        callback.on_epoch_begin(state)
    with contextlib.closing(epoch_steps(state.epoch, state.step)) as outputs:
        for loss, overflow, loss_scale, batch in outputs:
            state.step += 1
            state.meter.add(loss, overflow, loss_scale)
            _check_loss(state)
            for callback in callbacks:
                callback.on_step_end(state, batch)
            state.stopping = stop_vote(state.stop_signal is not None)
            if state.stopping:
                break
    state.meter.drain()
    _check_loss(state)


def _check_loss(state: RunState) -> None:
    if state.meter.nonfinite < state.max_nonfinite_steps:
        return
    last = state.epoch * state.steps_per_epoch + state.meter.steps
    raise TrainingDiverged(
        f"the loss was no finite number for {state.meter.nonfinite} steps in a row, up to step {state.meter.steps} of "
        f"epoch {state.epoch + 1} (loss scale {state.meter.last_loss_scale:g}, learning rate "
        f"{state.learning_rates[last - 1]:.3e}): lower base_lr, clip gradients (use_clip_grad_norm) or use a longer "
        f"warm-up, and start again from an earlier checkpoint"
    )


def _epoch_record(state: RunState, seconds: float) -> dict[str, float]:
    """The columns of metrics.csv; those of the moving average are missing without one."""
    record = {
        "epoch": state.epoch + 1,
        "train_loss": state.meter.mean_loss,
        "learning_rate": state.learning_rate,
        "skipped_steps": state.meter.skipped,
        "images_per_second": state.meter.steps * state.images_per_step / seconds,
        "seconds": seconds,
    }
    for prefix, result in (("", state.result), ("ema_", state.ema_result)):
        if result is not None:
            record |= {f"{prefix}loss": result.loss, f"{prefix}top1": result.top1, f"{prefix}top5": result.top5}
    return record
