"""Trying a run out: two steps of training and a batch of evaluation, timed, and what the whole run would then take."""

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
from mindspore import Tensor, nn

from src.data.imagenet import EvalLoader, TrainLoader
from src.errors import UserError
from src.trainer.loop import RunState, StepOutput

logger = logging.getLogger("beit")

STEPS = 2  # the first compiles, the second is what all others are like
BATCHES_TIMED = 2  # as many as are prepared at the same time


@dataclass(frozen=True)
class Timing:
    """Seconds. `prepare_step`: the loader alone, for the images of a step; `later_*`: without compilation."""

    prepare_step: float
    first_step: float
    later_step: float
    first_evaluation: float
    later_evaluation: float


@dataclass(frozen=True)
class Memory:
    """The most bytes taken so far: by this process, and on the device where that has memory of its own."""

    host: int
    device: int | None


def dry_run(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]],
    train_loader: TrainLoader,
    network: nn.Cell,
    eval_loader: EvalLoader,
    state: RunState,
    device_target: str,
) -> None:
    """Try the run out and log what it would take. Raises `UserError` where the run has no step left to take."""
    timing = try_out(epoch_steps, train_loader, network, eval_loader, state)
    for line in told(timing, memory_taken(device_target), state, len(eval_loader)):
        logger.info(line)


def try_out(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]],
    train_loader: TrainLoader,
    network: nn.Cell,
    eval_loader: EvalLoader,
    state: RunState,
) -> Timing:
    """Take two steps from where `state` stands (it is left as it is, the weights are not) and evaluate a batch, twice.

    Raises `UserError` where the run has no step left to take.
    """
    left = state.epochs * state.steps_per_epoch - state.iteration
    if not left:
        raise UserError(f"dry_run: all {state.epochs} epochs are done, so there is nothing left to try out")
    prepare_step = _time_loader(train_loader, state.epoch)
    with contextlib.closing(_steps(epoch_steps, state)) as outputs:
        steps = [_timed(lambda: next(outputs)[0].asnumpy()) for _ in range(min(STEPS, left))]
    image = Tensor(next(iter(eval_loader)).image)
    eval_loader.close()
    network.set_train(False)
    evaluations = [_timed(lambda: network(image).asnumpy()) for _ in range(2)]
    network.set_train(True)
    return Timing(prepare_step, steps[0], steps[-1], evaluations[0], evaluations[1])


def _time_loader(loader: TrainLoader, epoch: int) -> float:
    batches = min(BATCHES_TIMED, loader.steps_per_epoch * loader.accumulation_steps)
    seconds = _timed(lambda: list(islice(loader.epoch(epoch), batches)))
    loader.close()
    return seconds / batches * loader.accumulation_steps


def _steps(
    epoch_steps: Callable[[int, int], Generator[StepOutput, None, None]], state: RunState
) -> Generator[StepOutput, None, None]:
    """The steps from `state` on, beyond the end of an epoch too."""
    for epoch in range(state.epoch, state.epochs):
        yield from epoch_steps(epoch, state.step if epoch == state.epoch else 0)


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def memory_taken(device_target: str) -> Memory:
    """What this process and the device have taken at most until now."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    return Memory(host, None if device_target == "CPU" else int(mindspore.runtime.max_memory_allocated()))


def told(timing: Timing, memory: Memory, state: RunState, eval_batches: int) -> list[str]:
    """The lines that tell what was measured and what the rest of the run would take."""
    step = max(timing.later_step, timing.prepare_step)
    slower = "preparing images" if timing.prepare_step > timing.later_step else "the network"
    epochs, steps = state.epochs - state.epoch, state.epochs * state.steps_per_epoch - state.iteration
    training, evaluation = state.steps_per_epoch * step, eval_batches * timing.later_evaluation
    # steps of an almost instant network may vary by more than it takes to compile
    compilation = max(timing.first_step - timing.later_step + timing.first_evaluation - timing.later_evaluation, 0.0)
    total = compilation + steps * step + epochs * evaluation
    device = "" if memory.device is None else f", {memory.device / 1e9:.2g} GB of the device"
    return [
        f"dry run: {min(STEPS, steps)} steps of {state.images_per_step} images and an evaluation batch went through",
        f"  a step    {timing.later_step:.3g} s in the network, {timing.prepare_step:.3g} s to prepare its images: "
        f"{state.images_per_step / step:.1f} images/s, held up by {slower}",
        f"  an epoch  {state.steps_per_epoch} steps in {_duration(training)}, evaluation in {_duration(evaluation)}",
        f"  the run   {epochs} epochs in about {_duration(total)}, of which {_duration(compilation)} to compile",
        f"  memory    {memory.host / 1e9:.2g} GB of this machine{device}",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
