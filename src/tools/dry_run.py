"""Try out a run: two steps of training and a batch of evaluation, timed, and the time and memory of the whole run."""

from __future__ import annotations

import contextlib
import logging
import resource
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

import mindspore

from src.errors import UserError
from src.trainer.loop import EpochSteps, RunState, StepOutput
from src.trainer.task import Task

logger = logging.getLogger("beit")

STEPS = 2  # the first compiles, and the second takes as long as all others
BATCHES_TIMED = 2  # the loader prepares that many at a time


@dataclass(frozen=True)
class Timing:
    """Seconds of a step and of an evaluation batch, which includes the preparation of its images."""

    prepare_step: float  # the loader alone, for the images of a step
    first_step: float
    later_step: float  # without compilation
    first_evaluation: float
    later_evaluation: float


def dry_run(epoch_steps: EpochSteps, task: Task, state: RunState, device_target: str) -> None:
    """Try out the run and log its expected time and memory. Raises `UserError` if there is no step left to take."""
    timing = try_out(epoch_steps, task, state)
    memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2g} GB of this machine"
    if device_target != "CPU":
        memory += f", {mindspore.runtime.max_memory_allocated() / 1e9:.2g} GB of the device"
    for line in forecast(timing, memory, state, task.val_batches):
        logger.info(line)


def try_out(epoch_steps: EpochSteps, task: Task, state: RunState) -> Timing:
    """Take two steps from the place of `state` and evaluate a batch twice; `state` stays, the weights change.

    Raises `UserError` if there is no step left to take.
    """
    if not state.steps_left:
        raise UserError(f"dry_run has no step to try out: all {state.epochs} epochs are done; raise epochs")
    loader = task.train_loader
    batches = min(BATCHES_TIMED, loader.steps_per_epoch * loader.accumulation_steps)
    prepare_batch = _timed(lambda: list(islice(loader.epoch(state.epoch), batches))) / batches
    with contextlib.closing(_steps(epoch_steps, state)) as outputs:
        steps = [_timed(lambda: next(outputs)[0].asnumpy()) for _ in range(min(STEPS, state.steps_left))]
    evaluations = [_timed(lambda: task.evaluate(1)) for _ in range(2)]
    return Timing(prepare_batch * loader.accumulation_steps, steps[0], steps[-1], *evaluations)


def _steps(epoch_steps: EpochSteps, state: RunState) -> Generator[StepOutput, None, None]:
    """Run the steps from `state` on, across the ends of epochs."""
    for epoch in range(state.epoch, state.epochs):
        yield from epoch_steps(epoch, state.step if epoch == state.epoch else 0)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def forecast(timing: Timing, memory: str, state: RunState, eval_batches: int) -> list[str]:
    """Return lines with the measured times, the peak `memory`, and the time of the rest of the run."""
    step = max(timing.later_step, timing.prepare_step)
    slower = "image preparation" if timing.prepare_step > timing.later_step else "network"
    epochs, steps = state.epochs - state.epoch, state.steps_left
    training, evaluation = state.steps_per_epoch * step, eval_batches * timing.later_evaluation
    # the steps of a very small network may vary by more than the compilation takes
    compilation = max(timing.first_step - timing.later_step + timing.first_evaluation - timing.later_evaluation, 0.0)
    total = compilation + steps * step + epochs * evaluation
    evaluated = " and an evaluation batch" if eval_batches else ""
    return [
        f"dry run: {min(STEPS, steps)} steps of {state.images_per_step} images{evaluated} succeeded",
        f"  a step    {timing.later_step:.3g} s in the network, {timing.prepare_step:.3g} s to prepare its images: "
        f"{state.images_per_step / step:.1f} images/s, bottleneck: {slower}",
        f"  an epoch  {state.steps_per_epoch} steps in {_duration(training)}, evaluation in {_duration(evaluation)}",
        f"  the run   {epochs} epochs in about {_duration(total)}, including {_duration(compilation)} to compile",
        f"  memory    {memory}",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
