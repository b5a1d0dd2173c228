"""The training loop, and what it tells its callbacks."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Tensor

from src.data.imagenet import TrainBatch
from src.errors import RunError
from src.trainer.evaluate import EvalResult

# The loss of a step and whether it was skipped, both on the device, with the micro-batch where the host has seen it.
StepOutput = tuple[Tensor, Tensor, TrainBatch | None]


class TrainingDiverged(RunError):
    """The loss stopped being a number."""


@dataclass
class StepMeter:
    """Losses and overflows of steps, kept on the device until somebody asks.

    Reading a loss waits for its step to end, so the loop only stores it, and a device that works asynchronously is
    never held up except where a line is printed.
    """

    pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    last_loss: Tensor | None = None
    loss_sum: float = 0.0
    steps: int = 0
    skipped: int = 0

    def add(self, loss: Tensor, overflow: Tensor) -> None:
        """Store a step's float32 loss and whether it was skipped."""
        self.last_loss = loss
        self.pending.append((loss, overflow))

    def drain(self) -> tuple[float, int]:
        """Mean loss and number of skipped steps since the last call; raises `TrainingDiverged` for a loss of NaN."""
        losses = [float(loss.asnumpy()) for loss, _ in self.pending]
        skipped = sum(bool(overflow.asnumpy()) for _, overflow in self.pending)
        self.pending.clear()
        self.loss_sum += sum(losses)
        self.steps += len(losses)
        self.skipped += skipped
        mean = sum(losses) / len(losses) if losses else math.nan
        if losses and not math.isfinite(mean):
            raise TrainingDiverged(
                f"the loss is {mean}: lower base_lr, clip gradients (use_clip_grad_norm) or use a longer warm-up, "
                f"and start again from an earlier checkpoint"
            )
        return mean, skipped


@dataclass
class RunState:
    """Where a run stands. `epoch` counts from 0; `step` is the number of steps that the epoch has behind it."""

    epochs: int
    steps_per_epoch: int
    images_per_step: int
    learning_rates: np.ndarray
    epoch: int = 0
    step: int = 0
    meter: StepMeter = field(default_factory=StepMeter)
    epoch_seconds: float = 0.0
    result: EvalResult | None = None
    ema_result: EvalResult | None = None
    stop_signal: int | None = None

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has asked the run to end after its step."""
        return self.stop_signal is not None

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
) -> None:
    """Train from where `state` stands to `state.epochs`, or until `state.stop_requested`.

    Args:
        epoch_steps: takes the steps of an epoch from a step on, one per item drawn (see src/trainer/feed.py).
        validate: sets `state.result` (and `state.ema_result`) after an epoch.

    Raises `TrainingDiverged` where the loss stops being a number.
    """
    for callback in callbacks:
        callback.on_train_begin(state)
    while state.epoch < state.epochs and not state.stop_requested:
        _train_epoch(epoch_steps, callbacks, state)
        if state.step < state.steps_per_epoch:
            break  # asked to stop in the middle
        validate(state)
        for callback in callbacks:
            callback.on_epoch_end(state)
        state.epoch, state.step = state.epoch + 1, 0
    for callback in callbacks:
        callback.on_train_end(state)


def _train_epoch(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]], callbacks: Sequence[Callback], state: RunState
) -> None:
    begin = time.perf_counter()
    state.meter = StepMeter()
    for callback in callbacks:
        callback.on_epoch_begin(state)
    with contextlib.closing(epoch_steps(state.epoch, state.step)) as outputs:
        for loss, overflow, batch in outputs:
            state.step += 1
            state.meter.add(loss, overflow)
            for callback in callbacks:
                callback.on_step_end(state, batch)
            if state.stop_requested:
                break
    state.meter.drain()
    state.epoch_seconds = time.perf_counter() - begin
