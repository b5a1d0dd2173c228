"""A training step: gradients at a loss scale, averaged over micro-batches and ranks, clipped, and applied or skipped.

The step runs on the device without a branch, so the host never waits for one step before it starts the next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype

from src.layers.layers import STOCK
from src.trainer.ema import WeightEMA
from src.trainer.task import Objective

GROWTH_FACTOR = 2.0
MIN_LOSS_SCALE = 1.0  # a smaller scale would make float16 gradients underflow, and the overflow has another cause
# Apex stops at the same value. Float32 gradients would let the scale grow without end.
MAX_LOSS_SCALE = 2.0**24
CLIP_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class LossScaling:
    """A loss scale of at least 1 that is fixed, or follows overflows (`dynamic`): see `LossScale`."""

    loss_scale: float = 1024.0
    dynamic: bool = True
    growth_interval: int = 2000  # the default of torch.amp.GradScaler


@dataclass(frozen=True)
class StepOptions:
    """Settings of a training step."""

    loss_scaling: LossScaling = LossScaling()
    clip_grad_norm: float | None = None  # largest global norm of the unscaled gradients; None for no clipping
    accumulation_steps: int = 1  # micro-batches of each rank whose gradients are averaged into one step
    ranks: int = 1  # devices that train together; above 1, communication.init must come before
    reports_norm: bool = False  # whether the norm is one more value of a step; 0 for a skipped one
    square_sum: Callable[[tuple[Tensor, ...]], Tensor] = STOCK.square_sum  # see src.layers.layers.Layers


class Schedules(NamedTuple):
    """One value per step of the run; see `src.tools.schedulers`."""

    learning_rates: np.ndarray
    weight_decays: np.ndarray


class LossScale(nn.Cell):
    """The loss scale and its changes, which are those of `torch.amp.GradScaler`.

    A dynamic scale halves with an overflow, down to 1, and doubles after `growth_interval` steps without one, up to
    2 ** 24. It stays a power of two if it starts as one, and then scaling changes no float32 gradient.

    State: `optimizer.loss_scale` (float32 []) and `optimizer.growth_tracker` (int32 [], steps since the last change).
    """

    def __init__(self, scaling: LossScaling) -> None:
        super().__init__(auto_prefix=False)
        self.dynamic = scaling.dynamic
        self.growth_interval = scaling.growth_interval
        self.value = _state("loss_scale", scaling.loss_scale, mstype.float32)
        self.growth_tracker = _state("growth_tracker", 0, mstype.int32)

    def construct(self, finite: Tensor) -> None:
        """Change the scale after a step; `finite` (bool []) is false for an overflow."""
        if self.dynamic:
            tracker = self.growth_tracker + 1
            grows = tracker >= self.growth_interval
            larger = ops.where(grows & (self.value < MAX_LOSS_SCALE), self.value * GROWTH_FACTOR, self.value)
            smaller = ops.maximum(self.value / GROWTH_FACTOR, MIN_LOSS_SCALE)
            ops.assign(self.value, ops.where(finite, larger, smaller))
            ops.assign(self.growth_tracker, ops.where(finite & ops.logical_not(grows), tracker, 0))


class TrainOneStepWithScaleAndClipGlobalNorm(nn.Cell):
    """A training step of one micro-batch in one graph; for more, see `src.trainer.accumulation`.

    A step whose gradients overflow, on any rank or in any micro-batch, is skipped on all ranks. Clipping is that of
    `torch.nn.utils.clip_grad_norm_`.

    State: `optimizer.iteration` (int32 [], steps taken including skipped ones; like the authors' schedule, the
    learning rate follows it), the state of the loss scale and that of the optimizer.

    Args:
        objective: takes the tensors of a batch and returns the mean loss and M metrics, float32 [1 + M].
        optimizer: a cell (gradients, their factor, learning rate, weight decay, applied) that owns the trained weights;
            see `src.tools.optimizer`.
        schedules: values for every step of the run.
        ema: updated after every step, in the same graph.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: nn.Cell,
        schedules: Schedules,
        options: StepOptions = StepOptions(),
        ema: WeightEMA | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.objective = objective
        self.optimizer = optimizer
        self.ema = ema
        self.loss_scale = LossScale(options.loss_scaling)
        self.clip_grad_norm = options.clip_grad_norm
        self.micro_batches = options.accumulation_steps * options.ranks
        self.all_reduce: Any = ops.AllReduce() if options.ranks > 1 else None
        self.square_sum = options.square_sum
        self.reports_norm = options.reports_norm
        self.gradients = ops.value_and_grad(self.scaled_loss, None, ParameterTuple(optimizer.weights), has_aux=True)
        # Mapped over the tuples of all parameters. MindSpore unrolls loops, and a loop over the 391 parameters of
        # BEiT-large exceeds the depth that its compiler allows.
        self.map = ops.HyperMap()
        # Parameters and not constants, so that a compiled graph serves any schedule.
        self.learning_rates = _schedule("learning_rates", schedules.learning_rates)
        self.weight_decays = _schedule("weight_decays", schedules.weight_decays)
        self.iteration = _state("iteration", 0, mstype.int32)

    def construct(self, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Train on a batch, the same number of images on every rank.

        Returns the objective's values (float32 [1 + M], means over the step's micro-batches and ranks; with
        `reports_norm` the norm of the gradients before clipping comes last), whether the step was skipped (bool []) and
        its loss scale (float32 []).
        """
        values, gradients = self.values_and_gradients(*batch)
        return self.update(values, gradients)

    def values_and_gradients(self, *batch: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the objective's values and the float32 gradients of the scaled loss, in the order of the weights."""
        (_, values), gradients = self.gradients(self.loss_scale.value, *batch)
        return values, self.map(_widen, gradients)

    def scaled_loss(self, loss_scale: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss times the scale, and the objective's values, all float32."""
        values = self.objective(*batch)
        return values[0] * loss_scale, values

    def update(self, values: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Update the weights from `values` and scaled `gradients`, both summed over this rank's micro-batches."""
        if self.all_reduce is not None:
            values = self.all_reduce(values)
            gradients = self.map(self.all_reduce, gradients)
        loss_scale = self.loss_scale.value * 1.0  # a copy: the Parameter changes below
        unscale = 1.0 / (loss_scale * self.micro_batches)
        # Every rank has the same sum, so all decide alike. It is finite only if every gradient is. It overflows by
        # itself only at a norm of 1e19, and then the step is skipped too.
        square = self.square_sum(gradients)
        finite = ops.isfinite(square)
        factor = unscale
        norm = ops.sqrt(square) * unscale
        if self.clip_grad_norm is not None:
            factor = unscale * ops.minimum(self.clip_grad_norm / (norm + CLIP_EPS), 1.0)
        factor = ops.where(finite, factor, 0.0)
        learning_rate = ops.gather(self.learning_rates, self.iteration, 0)
        weight_decay = ops.gather(self.weight_decays, self.iteration, 0)
        self.optimizer(gradients, factor, learning_rate, weight_decay, finite)
        self.loss_scale(finite)
        ops.assign_add(self.iteration, Tensor(1, mstype.int32))
        if self.ema is not None:
            self.ema()
        values = values / self.micro_batches
        if self.reports_norm:
            values = ops.concat((values, ops.where(finite, norm, 0.0).reshape(1)))
        return values, ops.logical_not(finite), loss_scale

    def state(self) -> dict[str, Parameter]:
        """Return everything that a resumed run needs beside the network's weights, by name; valid between two steps."""
        parameters = (parameter for _, parameter in self.parameters_and_names())
        return {p.name: p for p in parameters if p.name.startswith(("optimizer.", "ema."))}


def _widen(gradient: Tensor) -> Tensor:
    return gradient.astype(mstype.float32)


def _schedule(name: str, values: np.ndarray) -> Parameter:
    return Parameter(Tensor(values, mstype.float32), name=name, requires_grad=False)


def _state(name: str, value: float, dtype: mstype.Type) -> Parameter:
    return Parameter(Tensor(value, dtype), name=f"optimizer.{name}", requires_grad=False)
