"""How micro-batches reach the device: from the host step by step, or through the device's own queue (sink mode)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import mindspore
import numpy as np
from mindspore import Tensor
from mindspore.dataset import GeneratorDataset

from src.data.imagenet import TrainBatch, TrainLoader
from src.trainer.loop import StepOutput

# (image, target, key) -> (loss, skipped, loss scale): src/trainer/train_one_step_with_scale_and_clip_global_norm.py
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

COLUMNS = ("image", "target", "key")


def host_steps(
    step: Step, loader: TrainLoader, accumulation_steps: int
) -> Callable[[int, int], Generator[StepOutput, None, None]]:
    """A function of (epoch, first step) that takes the steps of the epoch, handing over each micro-batch in turn."""

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        for number, batch in enumerate(loader.epoch(epoch, start_step), start=1):
            output = step(Tensor(batch.image), Tensor(batch.target), Tensor(batch.key))
            if number % accumulation_steps == 0:  # the loss of a step comes with its last micro-batch
                yield *output, batch

    return epoch_steps


def sink_steps(
    step: Step, loader: TrainLoader, accumulation_steps: int, epochs: int
) -> Callable[[int, int], Generator[StepOutput, None, None]]:
    """The same through `mindspore.data_sink` (GPU and Ascend): a queue on the device that is filled ahead of time.

    The queue outlives an epoch, so one data set serves the rest of the run, from the first step asked for.
    """
    sinks: list[Callable[[], tuple[Tensor, Tensor, Tensor]]] = []

    def epoch_steps(epoch: int, start_step: int) -> Generator[StepOutput, None, None]:
        if not sinks:
            dataset = rest_of_run(loader, accumulation_steps, epoch, start_step, epochs)
            sinks.append(mindspore.data_sink(step, dataset))
        for _ in range(start_step, loader.steps_per_epoch):
            for _ in range(accumulation_steps):
                output = sinks[0]()
            yield *output, None

    return epoch_steps


def rest_of_run(
    loader: TrainLoader, accumulation_steps: int, epoch: int, start_step: int, epochs: int
) -> GeneratorDataset:
    """Every micro-batch from (`epoch`, `start_step`) to the end of `epochs`, as one data set."""
    return GeneratorDataset(
        _RestOfRun(loader, accumulation_steps, epoch, start_step, epochs),
        column_names=list(COLUMNS),
        num_parallel_workers=1,
        python_multiprocessing=False,
        shuffle=False,
    )


class _RestOfRun:
    """An iterable with a length, as GeneratorDataset wants it."""

    def __init__(self, loader: TrainLoader, accumulation_steps: int, epoch: int, start_step: int, epochs: int) -> None:
        self._loader, self._epoch, self._start_step, self._epochs = loader, epoch, start_step, epochs
        self._length = ((epochs - epoch) * loader.steps_per_epoch - start_step) * accumulation_steps

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for epoch in range(self._epoch, self._epochs):
            batch: TrainBatch
            for batch in self._loader.epoch(epoch, self._start_step if epoch == self._epoch else 0):
                yield batch.image, batch.target, batch.key
