"""A training task: the data, network, objective and metrics that the trainer needs. It knows no task by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from mindspore import nn

from src.data.decode import UnreadableImages
from src.model.model_info import ModelInfo


class Batch(Protocol):
    """A NamedTuple of arrays: the inputs of the objective in their order, among them the images [B, 3, S, S]."""

    @property
    def image(self) -> np.ndarray: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


class Loader(Protocol):
    """Training data: `accumulation_steps` micro-batches for each of `steps_per_epoch` steps of `global_batch` images.

    `global_batch` counts the images of all ranks and micro-batches.
    """

    steps_per_epoch: int
    accumulation_steps: int
    global_batch: int
    unreadable: UnreadableImages

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Iterate over the micro-batches of an epoch from step `start_step`."""


class Metric(NamedTuple):
    """A number that describes the network after an epoch or within a step.

    Its column in metrics.csv and its curve have the `name`, printed lines have the `label`.
    """

    name: str
    label: str
    csv_format: str = ".4f"
    line_format: str = ".2f"

    def text(self, value: float) -> str:
        return f"{self.label} {value:{self.line_format}}"


GRADIENT_NORM = Metric("grad_norm", "grad norm", line_format=".3f")  # see `Task.reports_norm`
LOSS = Metric("loss", "loss", ".6f", ".4f")  # the first value of every objective

Charts = Mapping[str, Mapping[str, str]]
"""The columns of metrics.csv in each chart: chart title -> name of the line -> column."""


class Objective(nn.Cell):
    """A cell that takes the tensors of a batch and returns float32 [1 + M]: the mean loss, and the M `metrics`."""

    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is trained, on what, and how it is measured.

    `evaluate` is called after each epoch. It takes the number of batches, None for all, evaluates the network with its
    present weights over all ranks, and returns the `metrics` by name.
    """

    network: nn.Cell  # its parameters are trained and saved
    objective: Objective  # contains the network
    info: ModelInfo  # stored in the checkpoints
    train_loader: Loader
    batch_fields: tuple[str, ...]  # of the batches of the loader
    charts: Charts  # of curves.png
    evaluate: Callable[[int | None], Mapping[str, float]] = lambda batches: {}
    metrics: tuple[Metric, ...] = ()
    reports_norm: bool = False  # whether the norm of the gradients is a value of each step, after the objective's
    ema_decay: float | None = None  # of a moving average of the weights; None: without
    ranked_by: Metric | None = None  # highest for the best checkpoint; without it, the last checkpoint is the best
    val_images: int = 0  # in the whole validation set
    val_batches: int = 0  # on each rank

    @property
    def step_metrics(self) -> tuple[Metric, ...]:
        """The values of a step in their order."""
        return (LOSS, *self.objective.metrics, *((GRADIENT_NORM,) if self.reports_norm else ()))
