"""How micro-batches reach the device: from the host step by step, or through the device's own queue (sink mode)."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import mindspore
import numpy as np
from mindspore import Tensor
from mindspore.dataset import GeneratorDataset

from src.trainer.loop import EpochSteps, StepOutput, running_step
from src.trainer.task import Loader

# Takes the tensors of a micro-batch, and returns the results of the step after its last micro-batch, None before it.
Step = Callable[..., tuple[Tensor, Tensor, Tensor] | None]


def host_steps(step: Step, loader: Loader) -> EpochSteps:
    """Return a function that runs the steps of an epoch, with each micro-batch handed over by the host."""

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        for batch in loader.epoch(epoch, start_step):
            with running_step():
                results = step(*(Tensor(array) for array in batch))
            if results is not None:
                yield *results, batch

    return epoch_steps


def sink_steps(step: Step, loader: Loader, fields: Sequence[str], epochs: int) -> EpochSteps:
    """Return the same function for `mindspore.data_sink` (GPU and Ascend): the device fills its queue ahead of time.

    The queue outlives an epoch, so one data set of the batch's `fields` serves the rest of the run.
    """
    sink: Step | None = None

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        nonlocal sink
        if sink is None:
            rest = _RestOfRun(loader, epoch, start_step, epochs)
            options = {"num_parallel_workers": 1, "python_multiprocessing": False, "shuffle": False}
            sink = mindspore.data_sink(step, GeneratorDataset(rest, column_names=list(fields), **options))
        for _ in range(start_step, loader.steps_per_epoch):
            results = None
            while results is None:
                with running_step():
                    results = sink()
            yield *results, None

    return epoch_steps


@dataclass(frozen=True)
class _RestOfRun:
    """All micro-batches from a step to the end of the run, with a length, as GeneratorDataset requires."""

    loader: Loader
    epoch: int
    start_step: int
    epochs: int

    def __len__(self) -> int:
        steps = (self.epochs - self.epoch) * self.loader.steps_per_epoch - self.start_step
        return steps * self.loader.accumulation_steps

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for epoch in range(self.epoch, self.epochs):
            for batch in self.loader.epoch(epoch, self.start_step if epoch == self.epoch else 0):
                yield tuple(batch)
