"""How micro-batches reach the device: from the host step by step, or through the device's own queue (sink mode)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import mindspore
import numpy as np
from mindspore import Tensor
from mindspore.dataset import GeneratorDataset

from src.trainer.loop import EpochSteps, StepOutput
from src.trainer.task import Loader

# Takes the tensors of a micro-batch, and returns the results of the step after its last micro-batch, None before it.
Step = Callable[..., tuple[Tensor, Tensor, Tensor] | None]


def host_steps(step: Step, loader: Loader) -> EpochSteps:
    """Return a function that runs the steps of an epoch, with each micro-batch handed over by the host."""

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        for batch in loader.epoch(epoch, start_step):
            results = step(*(Tensor(array) for array in batch))
            if results is not None:
                yield *results, batch

    return epoch_steps


def sink_steps(step: Step, loader: Loader, fields: Sequence[str], epochs: int) -> EpochSteps:
    """Return the same function for `mindspore.data_sink` (GPU and Ascend): the device fills its queue ahead of time.

    The queue outlives an epoch, so one data set of the batch's `fields` serves the rest of the run.
    """
    sinks: list[Callable[[], tuple[Tensor, Tensor, Tensor] | None]] = []

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        if not sinks:
            dataset = rest_of_run(loader, fields, epoch, start_step, epochs)
            sinks.append(mindspore.data_sink(step, dataset))
        for _ in range(start_step, loader.steps_per_epoch):
            results = None
            while results is None:
                results = sinks[0]()
            yield *results, None

    return epoch_steps


def rest_of_run(loader: Loader, fields: Sequence[str], epoch: int, start_step: int, epochs: int) -> GeneratorDataset:
    """Return every micro-batch from (`epoch`, `start_step`) to the end of `epochs` as one data set."""
    return GeneratorDataset(
        _RestOfRun(loader, epoch, start_step, epochs),
        column_names=list(fields),
        num_parallel_workers=1,
        python_multiprocessing=False,
        shuffle=False,
    )


class _RestOfRun:
    """An iterable with a length, as GeneratorDataset requires."""

    def __init__(self, loader: Loader, epoch: int, start_step: int, epochs: int) -> None:
        self._loader, self._epoch, self._start_step, self._epochs = loader, epoch, start_step, epochs

    def __len__(self) -> int:
        steps = (self._epochs - self._epoch) * self._loader.steps_per_epoch - self._start_step
        return steps * self._loader.accumulation_steps

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for epoch in range(self._epoch, self._epochs):
            for batch in self._loader.epoch(epoch, self._start_step if epoch == self._epoch else 0):
                yield tuple(batch)
