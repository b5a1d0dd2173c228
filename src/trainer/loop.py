"""The training loop, its state, and the hooks that it calls."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mindspore import Tensor

from src.errors import RunError, UserError
from src.trainer.task import LOSS, Batch, Metric

logger = logging.getLogger("beit")

# The results of a step on the device - the objective's values [1 + M], whether it was skipped, its loss scale - and
# the last micro-batch if the host has seen it.
StepOutput = tuple[Tensor, Tensor, Tensor, Batch | None]

# Runs the steps of an epoch from a step on, one for each item drawn; see src/trainer/feed.py.
EpochSteps = Callable[[int, int], Generator[StepOutput, None, None]]

# The results of a step are read two steps later: reading never waits, and an asynchronous device always has work.
STEPS_AHEAD = 2


METER_COUNTS = ("finite", "steps", "skipped", "nonfinite")


class TrainingDiverged(RunError):
    """The loss has not been finite for too many steps."""


class StepFailed(RunError):
    """A training step ended with an error of MindSpore. The weights may be half updated."""


@contextlib.contextmanager
def running_step() -> Iterator[None]:
    """Turn an error within a step into `StepFailed`, and write its traceback to the log file."""
    try:
        yield
    except Exception as error:
        logger.error("a training step failed", exc_info=error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StepFailed(
            f"a training step failed ({reason}): the log file has the traceback; if memory is short, lower batch_size "
            "or raise accumulation_steps, then continue with --resume auto"
        ) from error


@dataclass
class StepMeter:
    """Losses, metrics and overflows of the steps of an epoch, read from the device `STEPS_AHEAD` steps late."""

    nonfinite: int = 0  # steps without a finite loss in a row, up to the last one read, earlier epochs included
    sums: np.ndarray = field(default_factory=lambda: np.zeros(1))  # float64 [1 + M], over steps with a finite loss
    finite: int = 0  # number of steps with a finite loss
    steps: int = 0  # number of steps read
    skipped: int = 0  # because of an overflow
    last_values: Tensor | None = None  # the newest step's, on the device
    last_loss_scale: float = math.nan
    _pending: deque[tuple[Tensor, Tensor, Tensor]] = field(default_factory=deque)
    _begin: float = field(default_factory=time.perf_counter)

    @property
    def means(self) -> np.ndarray:
        """Means of the objective's values over the steps with a finite loss; NaN without such a step."""
        return self.sums / self.finite if self.finite else np.full_like(self.sums, math.nan)

    @property
    def seconds(self) -> float:
        """Seconds since the epoch began, those before a resume included."""
        return time.perf_counter() - self._begin

    def add(self, values: Tensor, skipped: Tensor, loss_scale: Tensor) -> None:
        """Add a step, and read an earlier one that has finished."""
        self.last_values = values
        self._pending.append((values, skipped, loss_scale))
        self.drain(STEPS_AHEAD)

    def drain(self, left: int = 0) -> None:
        """Read the steps added so far but for the last `left`; waits for the last one read to finish."""
        while len(self._pending) > left:
            with running_step():  # an asynchronous device reports its errors here
                values, skipped, loss_scale = (tensor.asnumpy() for tensor in self._pending.popleft())
            self.steps += 1
            self.skipped += bool(skipped)
            self.last_loss_scale = float(loss_scale)
            if math.isfinite(values[0]):
                self.sums = self.sums + values.astype(np.float64)
                self.finite += 1
                self.nonfinite = 0
            else:
                self.nonfinite += 1

    def as_json(self) -> dict[str, Any]:
        """Return the state that a resumed run continues from; drains."""
        self.drain()
        counts = {name: getattr(self, name) for name in METER_COUNTS}
        loss, *metrics = self.sums.tolist()
        return {"loss_sum": loss, "metric_sums": metrics, **counts, "seconds": self.seconds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StepMeter:
        """Invert `as_json`. Earlier versions stored no `metric_sums`."""
        sums = np.array([values["loss_sum"], *values.get("metric_sums", [])])
        counts = {name: values[name] for name in METER_COUNTS}
        return cls(**counts, sums=sums, _begin=time.perf_counter() - values["seconds"])


@dataclass
class RunState:
    """The progress of a run."""

    epochs: int
    steps_per_epoch: int
    images_per_step: int  # over all ranks and micro-batches
    learning_rates: np.ndarray  # one per step of the run
    step_metrics: tuple[Metric, ...] = (LOSS,)  # of the values that the objective returns
    max_nonfinite_steps: int = 10  # steps without a finite loss in a row that end the run
    epoch: int = 0  # from 0
    step: int = 0  # number of steps completed in this epoch
    meter: StepMeter = field(default_factory=StepMeter)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation; of averages as ema_NAME
    history: list[dict[str, float]] = field(default_factory=list)  # columns of metrics.csv for each finished epoch
    stop_signal: int | None = None  # asked this process to stop
    stopping: bool = False  # the run ends after this step, on all ranks

    @property
    def iteration(self) -> int:
        """Steps since the start of training, skipped ones included."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def unevaluated(self) -> bool:
        """Whether all steps of this epoch are done, but not its evaluation."""
        return self.step == self.steps_per_epoch and not (self.history and self.history[-1]["epoch"] > self.epoch)

    @property
    def epoch_text(self) -> str:
        """The epoch in printed lines."""
        return f"epoch {self.epoch + 1}/{self.epochs}"

    @property
    def steps_left(self) -> int:
        """Steps to the end of the run."""
        return self.epochs * self.steps_per_epoch - self.iteration

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step; before the first step, that of the first."""
        return float(self.learning_rates[max(self.iteration - 1, 0)])


class Callback:
    """Hooks called during training."""

    def on_train_begin(self, state: RunState) -> None:
        """Called before the first step."""

    def on_epoch_begin(self, state: RunState) -> None:
        """Called before the first step of an epoch."""

    def on_step_end(self, state: RunState, batch: Batch | None) -> None:
        """Called after a step; `batch` is its last micro-batch, None in sink mode."""

    def on_epoch_end(self, state: RunState) -> None:
        """Called after an epoch and its evaluation; `state.metrics` and `state.history` include them."""

    def on_train_end(self, state: RunState) -> None:
        """Called after the last step of the run, also if the run was asked to stop."""

    def on_exception(self, state: RunState) -> None:
        """Called instead of `on_train_end` when an exception ends the run between two steps."""


def train(
    epoch_steps: EpochSteps,
    evaluate: Callable[[], Mapping[str, float]],
    callbacks: Sequence[Callback],
    state: RunState,
    stop_vote: Callable[[bool], bool] = lambda asked: asked,
) -> None:
    """Train from the place of `state` to `state.epochs`, or until the run is asked to stop.

    Args:
        epoch_steps: see `EpochSteps`.
        evaluate: called after each epoch; returns metrics by name.
        stop_vote: takes whether this rank was asked to stop, and returns whether all ranks stop now.

    An exception of another kind between two steps, for example in a loader, ends the run after `on_exception` of the
    callbacks. Raises `TrainingDiverged` if the loss is not finite for `state.max_nonfinite_steps` steps in a row.
    """
    for callback in callbacks:
        callback.on_train_begin(state)
    try:
        _train(epoch_steps, evaluate, callbacks, state, stop_vote)
    except (TrainingDiverged, StepFailed):
        raise  # weights that are not worth keeping
    except Exception:  # of any kind: it is raised again after the state is saved
        for callback in callbacks:
            with contextlib.suppress(UserError):  # the disk may be what has failed
                callback.on_exception(state)
        raise
    for callback in callbacks:
        callback.on_train_end(state)


def _train(
    epoch_steps: EpochSteps,
    evaluate: Callable[[], Mapping[str, float]],
    callbacks: Sequence[Callback],
    state: RunState,
    stop_vote: Callable[[bool], bool],
) -> None:
    while state.epoch < state.epochs and not state.stopping:
        _train_epoch(epoch_steps, callbacks, state, stop_vote)
        if state.step < state.steps_per_epoch:
            break  # asked to stop in the middle
        record = _epoch_record(state)
        state.metrics = dict(evaluate())
        state.history.append(record | state.metrics)
        for callback in callbacks:
            callback.on_epoch_end(state)
        state.epoch, state.step = state.epoch + 1, 0
        state.stopping = stop_vote(state.stop_signal is not None) or state.stopping


def _train_epoch(
    epoch_steps: EpochSteps, callbacks: Sequence[Callback], state: RunState, stop_vote: Callable[[bool], bool]
) -> None:
    if state.step == 0:
        state.meter = StepMeter(state.meter.nonfinite)
    for callback in callbacks:
        callback.on_epoch_begin(state)
    with contextlib.closing(epoch_steps(state.epoch, state.step)) as outputs:
        for values, skipped, loss_scale, batch in outputs:
            state.step += 1
            state.meter.add(values, skipped, loss_scale)
            _check_loss(state)
            for callback in callbacks:
                callback.on_step_end(state, batch)
            state.stopping = stop_vote(state.stop_signal is not None)
            if state.stopping:
                break
    state.meter.drain()
    _check_loss(state)


def _check_loss(state: RunState) -> None:
    meter = state.meter
    if meter.nonfinite < state.max_nonfinite_steps:
        return
    learning_rate = state.learning_rates[state.epoch * state.steps_per_epoch + meter.steps - 1]
    raise TrainingDiverged(
        f"the loss was not finite for {meter.nonfinite} steps in a row, up to step {meter.steps} of epoch "
        f"{state.epoch + 1} (loss scale {meter.last_loss_scale:g}, learning rate {learning_rate:.3e}): lower base_lr, "
        f"turn use_clip_grad_norm on or raise warmup_length, and start again from an earlier checkpoint"
    )


def _epoch_record(state: RunState) -> dict[str, float]:
    """Return the columns of metrics.csv that training itself measures."""
    means, seconds = state.meter.means.tolist(), state.meter.seconds
    return {
        "epoch": state.epoch + 1,
        **{f"train_{metric.name}": mean for metric, mean in zip(state.step_metrics, means)},
        "learning_rate": state.learning_rate,
        "skipped_steps": state.meter.skipped,
        "images_per_second": state.meter.steps * state.images_per_step / seconds,
        "seconds": seconds,
    }
