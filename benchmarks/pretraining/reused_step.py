"""Training runs in one process that share their compiled graphs: compilation takes longer than many of the runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mindspore import Tensor, nn

from src.config import RunConfig
from src.runtime.distributed import Ranks
from src.tools.cell import weights_of
from src.tools.get_misc import build_train_step
from src.tools.schedulers import learning_rates, weight_decays
from src.trainer.accumulation import TrainStep
from src.trainer.feed import host_steps
from src.trainer.loop import RunState, train
from src.trainer.task import Task
from src.trainer.train_one_step_with_scale_and_clip_global_norm import Schedules
from src.weights.network_parameters import set_weights


class Trained(NamedTuple):
    """Result of a run: the history of `RunState`, the weights by name, and the seconds of its steps and evaluations."""

    history: list[dict[str, float]]
    weights: dict[str, np.ndarray]
    seconds: float


@dataclass(frozen=True)
class Compiled:
    """A network, the step that trains it, and the step's state before the first run, by name."""

    network: nn.Cell
    step: TrainStep
    initial: Mapping[str, np.ndarray]


class Trainer:
    """Trains tasks, all of one `kind` with the step of the first one, which must differ in weights and images only.

    Schedules may differ too, if their runs have the same number of steps.
    """

    def __init__(self) -> None:
        self._compiled: dict[Hashable, Compiled] = {}

    def __call__(
        self,
        kind: str,
        config: RunConfig,
        task: Task,
        evaluate: Callable[[nn.Cell, int], Mapping[str, float]] = lambda network, epoch: {},
    ) -> Trained:
        """Train `task` from its present weights; `evaluate` gets the trained network and the finished epochs."""
        steps = task.train_loader.steps_per_epoch
        schedules = Schedules(learning_rates(config, steps), weight_decays(config, steps))
        compiled = self._restart(kind, config, task, schedules)
        state = RunState(
            epochs=config.epochs,
            steps_per_epoch=steps,
            images_per_step=task.train_loader.global_batch,
            learning_rates=schedules.learning_rates,
            step_metrics=task.step_metrics,
        )
        begin = time.perf_counter()
        feed = host_steps(compiled.step, task.train_loader)
        train(feed, lambda: evaluate(compiled.network, state.epoch + 1), [], state)
        return Trained(state.history, weights_of(compiled.network), time.perf_counter() - begin)

    def _restart(self, kind: str, config: RunConfig, task: Task, schedules: Schedules) -> Compiled:
        """Return the step of this kind with the weights and schedules of `task` and the optimizer's first state."""
        key = (kind, len(schedules.learning_rates))
        if key not in self._compiled:
            step = build_train_step(
                config, task.network, task.objective, schedules, Ranks(), reports_norm=task.reports_norm
            )
            initial = {name: parameter.asnumpy().copy() for name, parameter in step.state().items()}
            self._compiled[key] = Compiled(task.network, step, initial)
            return self._compiled[key]
        compiled = self._compiled[key]
        parameters = {parameter.name: parameter for parameter in compiled.step.get_parameters()}
        own = {parameter.name: parameter.asnumpy() for parameter in task.objective.get_parameters()}
        set_weights(compiled.step, own)  # network, tokenizer and counters of the objective
        for name, value in compiled.initial.items():
            parameters[name].set_data(Tensor(value, parameters[name].dtype))
        for parameter, values in (
            (compiled.step.learning_rates, schedules.learning_rates),
            (compiled.step.weight_decays, schedules.weight_decays),
        ):
            parameter.set_data(Tensor(values, parameter.dtype))
        return compiled
