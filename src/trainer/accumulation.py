"""A training step of several micro-batches in two graphs: the network's and the update's.

The network is compiled once, whatever the number of micro-batches.
"""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.trainer.train_one_step_with_scale_and_clip_global_norm import TrainOneStepWithScaleAndClipGlobalNorm


class AccumulatedStep:
    """`step` over `accumulation_steps` micro-batches, one per call; `state` and `ema` as in `step`."""

    def __init__(self, step: TrainOneStepWithScaleAndClipGlobalNorm, accumulation_steps: int) -> None:
        self.add = AddMicroBatch(step)
        self.update = UpdateFromSums(step, self.add)
        self.accumulation_steps = accumulation_steps
        self.calls = 0
        self.state = step.state
        self.ema = step.ema

    def __call__(self, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Add a micro-batch. The last one of a step also updates the weights and returns the results of the step."""
        self.add(*batch)
        self.calls += 1
        return self.update() if self.calls % self.accumulation_steps == 0 else None


class AddMicroBatch(nn.Cell):
    """Sums of values and gradients over micro-batches. They are zero between two steps, so checkpoints omit them."""

    def __init__(self, step: TrainOneStepWithScaleAndClipGlobalNorm) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        weights = step.optimizer.weights
        self.sums = ParameterTuple([_zeros(f"accumulated.{weight.name}", weight.shape) for weight in weights])
        self.values = _zeros("accumulated_values", (1 + len(step.objective.metrics),))
        self.map = ops.HyperMap()

    def construct(self, *batch: Tensor) -> Tensor:
        """Add the micro-batch's values and gradients, and return the sum of the values."""
        values, gradients = self.step.values_and_gradients(*batch)
        self.map(ops.assign_add, self.sums, gradients)
        return ops.assign_add(self.values, values)


class UpdateFromSums(nn.Cell):
    """The update of a step from the sums, which it sets to zero."""

    def __init__(self, step: TrainOneStepWithScaleAndClipGlobalNorm, accumulated: AddMicroBatch) -> None:
        super().__init__(auto_prefix=False)
        self.step = step
        self.values = accumulated.values
        self.sums = accumulated.sums
        self.map = ops.HyperMap()

    def construct(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the results of `step`."""
        results = self.step.update(self.values * 1.0, self.sums)  # a copy: the Parameter changes below
        ops.assign(self.values, ops.zeros_like(self.values))
        self.map(_clear, self.sums)
        return results


TrainStep = TrainOneStepWithScaleAndClipGlobalNorm | AccumulatedStep


def _zeros(name: str, shape: tuple[int, ...]) -> Parameter:
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)


def _clear(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))
