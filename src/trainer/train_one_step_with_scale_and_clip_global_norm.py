"""One training step: gradients at a loss scale, accumulated, averaged over ranks, clipped, applied or skipped.

All of it runs on the device without a branch, so the host never waits for a step to know what to send next.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype

from src.errors import UserError

GROWTH_FACTOR = 2.0
GROWTH_INTERVAL = 2000  # steps without overflow, as torch.amp.GradScaler
MIN_LOSS_SCALE = 1.0  # below it the scale would harm, and an overflow has another reason
# Float32 gradients would let the scale grow for ever. Apex stops at the same value: float16 gains nothing beyond it.
MAX_LOSS_SCALE = 2.0**24
CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_


class LossAndGradients(nn.Cell):
    """Loss of a micro-batch, and the gradients of the loss times a scale."""

    def __init__(self, network: nn.Cell, criterion: nn.Cell, weights: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.network = network
        self.criterion = criterion
        self.gradients = ops.value_and_grad(self.scaled_loss, None, ParameterTuple(weights), has_aux=True)
        self.map = ops.HyperMap()

    def scaled_loss(self, image: Tensor, target: Tensor, key: Tensor, loss_scale: Tensor) -> tuple[Tensor, Tensor]:
        """The loss times the scale, and the loss, both float32."""
        loss = self.criterion(self.network(image, key), target).astype(mstype.float32)
        return loss * loss_scale, loss

    def construct(
        self, image: Tensor, target: Tensor, key: Tensor, loss_scale: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss (float32 []) and float32 gradients in the order of the weights."""
        (_, loss), gradients = self.gradients(image, target, key, loss_scale)
        return loss, self.map(_widen, gradients)


class SumOfSquares(nn.Cell):
    """The sum of all squared elements of float32 tensors.

    On the CPU it is a product of each tensor with itself, read once: 17 times faster than square and sum, and, unlike
    the single-precision running sum of ops.L2Loss (2e-3 off for 28 million elements), accurate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.square_sum = _product_with_itself if mindspore.get_context("device_target") == "CPU" else _square_sum
        self.map = ops.HyperMap()

    def construct(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Float32 []; infinite or NaN if an element is, or if the sum is beyond float32."""
        return ops.stack(self.map(self.square_sum, tensors)).sum()


class LossScale(nn.Cell):
    """A loss scale that is fixed, or that grows and falls as `torch.amp.GradScaler`'s does.

    Dynamic: an overflow halves it, down to 1; `growth_interval` steps without one double it, up to 2 ** 24. Powers of
    two stay powers of two, and scaling by them changes no float32 gradient.

    State: `optimizer.loss_scale` (float32 []) and `optimizer.growth_tracker` (int32 [], steps since the last change).
    """

    def __init__(self, loss_scale: float, dynamic: bool, growth_interval: int = GROWTH_INTERVAL) -> None:
        super().__init__(auto_prefix=False)
        if not MIN_LOSS_SCALE <= loss_scale < np.inf:
            raise UserError(f"loss_scale {loss_scale:g} must be a number of at least {MIN_LOSS_SCALE:g}")
        self.dynamic = dynamic
        self.growth_interval = growth_interval
        self.value = Parameter(Tensor(loss_scale, mstype.float32), name="optimizer.loss_scale", requires_grad=False)
        self.growth_tracker = Parameter(Tensor(0, mstype.int32), name="optimizer.growth_tracker", requires_grad=False)

    def construct(self, finite: Tensor) -> None:
        """Take note of a step whose gradients were `finite` (bool [])."""
        if self.dynamic:
            tracker = self.growth_tracker + 1
            grows = tracker >= self.growth_interval
            larger = ops.where(grows & (self.value < MAX_LOSS_SCALE), self.value * GROWTH_FACTOR, self.value)
            smaller = ops.maximum(self.value / GROWTH_FACTOR, MIN_LOSS_SCALE)
            ops.assign(self.value, ops.where(finite, larger, smaller))
            ops.assign(self.growth_tracker, ops.where(finite & ops.logical_not(grows), tracker, 0))


class UpdateWeights(nn.Cell):
    """The second half of a step: from the gradients of all its micro-batches to new weights.

    State: `optimizer.iteration` (int32 [], steps taken, skipped ones included: the schedule goes by it, as the
    authors' does), the loss scale's and the optimizer's.

    Args:
        optimizer: a cell (gradients, learning rate, applied), see `src.tools.optimizer`.
        learning_rates: [steps of the run].
        loss_scale: the scale that the gradients were computed at.
        clip_grad_norm: the largest global norm of the unscaled gradients; None for no clipping.
        micro_batches: how many micro-batches, over all ranks, a step has.
        ranks: devices that train together. Above 1, gradients and loss are summed over them.
        after_update: a cell without inputs that follows every step.
    """

    def __init__(
        self,
        optimizer: nn.Cell,
        learning_rates: np.ndarray,
        loss_scale: LossScale,
        clip_grad_norm: float | None,
        micro_batches: int,
        ranks: int,
        after_update: nn.Cell | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise UserError(f"clip_grad_norm {clip_grad_norm:g} must be above 0: turn use_clip_grad_norm off instead")
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.after_update = after_update
        self.clip_grad_norm = clip_grad_norm
        self.micro_batches = micro_batches
        self.ranks = ranks
        self.all_reduce: Any = ops.AllReduce() if ranks > 1 else None
        self.sum_of_squares = SumOfSquares()
        self.map = ops.HyperMap()
        # A Parameter, not a constant of the graph: a compiled graph serves any schedule.
        self.learning_rates = Parameter(
            Tensor(learning_rates, mstype.float32), name="learning_rates", requires_grad=False
        )
        self.iteration = Parameter(Tensor(0, mstype.int32), name="optimizer.iteration", requires_grad=False)

    def construct(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (float32 []) and scaled gradients, each summed over this rank's micro-batches -> see the train step."""
        if self.ranks > 1:
            loss = self.all_reduce(loss.reshape(1)).reshape(())
            gradients = self.map(ops.partial(_sum_over_ranks, self.all_reduce), gradients)
        loss_scale = self.loss_scale.value * 1.0  # a value of its own: the Parameter changes below
        unscale = 1.0 / (loss_scale * self.micro_batches)
        # The sum over all ranks, so that all of them decide alike. It is finite only if every gradient is; that it
        # overflows by itself takes a norm of 1e19, which is as good a reason to skip the step.
        square = self.sum_of_squares(gradients)
        finite = ops.isfinite(square)
        factor = unscale
        if self.clip_grad_norm is not None:
            norm = ops.sqrt(square) * unscale
            factor = unscale * ops.minimum(self.clip_grad_norm / (norm + CLIP_EPS), 1.0)
        factor = ops.where(finite, factor, 0.0)
        gradients = self.map(ops.partial(_multiply, factor), gradients)
        learning_rate = ops.gather(self.learning_rates, self.iteration, 0)
        self.optimizer(gradients, learning_rate, finite)
        self.loss_scale(finite)
        ops.assign_add(self.iteration, Tensor(1, mstype.int32))
        if self.after_update is not None:
            self.after_update()
        return loss / self.micro_batches, ops.logical_not(finite), loss_scale


class SingleBatchStep(nn.Cell):
    """A whole step of one micro-batch in one graph."""

    def __init__(self, gradients: LossAndGradients, update: UpdateWeights) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.update = update

    def construct(self, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `TrainOneStepWithScaleAndClipGlobalNorm.__call__`."""
        loss, gradients = self.gradients(image, target, key, self.update.loss_scale.value)
        return self.update(loss, gradients)


class Accumulator(nn.Cell):
    """Sums of losses and gradients over micro-batches. They are zero between two steps, so no checkpoint needs them."""

    def __init__(self, gradients: LossAndGradients, loss_scale: LossScale, weights: Sequence[Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.gradients = gradients
        self.loss_scale = loss_scale
        self.loss = Parameter(Tensor(0.0, mstype.float32), name="accumulated_loss", requires_grad=False)
        self.sums = ParameterTuple(
            [
                Parameter(
                    Tensor(np.zeros(weight.shape, np.float32)), name=f"accumulated.{weight.name}", requires_grad=False
                )
                for weight in weights
            ]
        )
        self.map = ops.HyperMap()

    def construct(self, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Add a micro-batch; gives its loss and the loss scale."""
        loss_scale = self.loss_scale.value * 1.0  # a value of its own: the Parameter changes when the step ends
        loss, gradients = self.gradients(image, target, key, loss_scale)
        ops.assign_add(self.loss, loss)
        self.map(_add, self.sums, gradients)
        return loss, loss_scale


class UpdateFromAccumulator(nn.Cell):
    """The update from an accumulator's sums, which it sets back to zero."""

    def __init__(self, accumulator: Accumulator, update: UpdateWeights) -> None:
        super().__init__(auto_prefix=False)
        self.loss = accumulator.loss
        self.sums = accumulator.sums
        self.update = update
        self.map = ops.HyperMap()

    def construct(self) -> tuple[Tensor, Tensor, Tensor]:
        """See `TrainOneStepWithScaleAndClipGlobalNorm.__call__`."""
        result = self.update(self.loss * 1.0, self.sums)
        ops.assign(self.loss, ops.zeros_like(self.loss))
        self.map(_clear, self.sums)
        return result


class TrainOneStepWithScaleAndClipGlobalNorm:
    """Trains a network by a micro-batch per call, and updates the weights after every `accumulation_steps` calls.

    One micro-batch per step is one graph. More are two, the network's and the update's: the network is compiled once,
    whatever their number.

    Args:
        network: a cell (image, key) -> logits.
        criterion: a cell (logits, target) -> mean loss.
        optimizer: of `src.tools.optimizer`; it owns the weights that are trained.
        learning_rates: [steps of the run], see `src.tools.schedulers`; a step's is found by its number.
        loss_scale: the scale, or the first one if `dynamic_loss_scale`. A step whose gradients overflow on any rank
            or in any micro-batch is skipped on all.
        clip_grad_norm: as `torch.nn.utils.clip_grad_norm_`, after the loss scale is taken out; None for no clipping.
        accumulation_steps: micro-batches per step; their gradients are averaged.
        ranks: devices that train together, each with its own micro-batches; needs `communication.init` before.
        growth_interval: steps without overflow after which a dynamic loss scale doubles.
        after_update: a cell without inputs that follows every step in the same graph.
        compiling: entered around every call, one of which compiles; see `src.tools.compile_cache`.

    Raises:
        UserError: for a loss scale below 1 and a clipping norm that is not above 0.
    """

    def __init__(
        self,
        network: nn.Cell,
        criterion: nn.Cell,
        optimizer: nn.Cell,
        *,
        learning_rates: np.ndarray,
        loss_scale: float = 1024.0,
        dynamic_loss_scale: bool = True,
        clip_grad_norm: float | None = None,
        accumulation_steps: int = 1,
        ranks: int = 1,
        growth_interval: int = GROWTH_INTERVAL,
        after_update: nn.Cell | None = None,
        compiling: contextlib.AbstractContextManager[None] = contextlib.nullcontext(),  # noqa: B008 (it has no state)
    ) -> None:
        self.network = network
        self.compiling = compiling
        self.optimizer = optimizer
        self.accumulation_steps = accumulation_steps
        self.micro_batch = 0
        self.loss_scale = LossScale(loss_scale, dynamic_loss_scale, growth_interval)
        self.update = UpdateWeights(
            optimizer,
            learning_rates,
            self.loss_scale,
            clip_grad_norm,
            accumulation_steps * ranks,
            ranks,
            after_update,
        )
        gradients = LossAndGradients(network, criterion, optimizer.weights)
        if accumulation_steps == 1:
            self.step = SingleBatchStep(gradients, self.update)
        else:
            self.accumulate = Accumulator(gradients, self.loss_scale, optimizer.weights)
            self.step = UpdateFromAccumulator(self.accumulate, self.update)

    def __call__(self, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Train by a micro-batch: image float32 [B, 3, S, S], target float32 [B, C], key int32 [B].

        Returns device tensors: the loss (float32 [], the mean over the step's micro-batches and ranks), whether the
        step was skipped (bool []) and the loss scale that it used (float32 []). A call that only accumulates gives
        its own micro-batch's loss, False, and the scale.
        """
        with self.compiling:
            return self._call(image, target, key)

    def _call(self, image: Tensor, target: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.accumulation_steps == 1:
            return self.step(image, target, key)
        loss, loss_scale = self.accumulate(image, target, key)
        self.micro_batch = (self.micro_batch + 1) % self.accumulation_steps
        if self.micro_batch == 0:
            return self.step()
        return loss, Tensor(False), loss_scale

    def state(self) -> dict[str, Parameter]:
        """Everything but the network's weights that a resumed run needs, by name; valid between two steps."""
        parameters = self.update.parameters_and_names()
        return {p.name: p for _, p in parameters if p.name.startswith(("optimizer.", "ema."))}


# Mapped over the tuples of all parameters. Loops would be unrolled, and those over the 391 of BEiT-large exceed the
# depth that MindSpore's compiler allows.

_product = ops.MatMul(transpose_b=True)
_multiply_no_nan = ops.MulNoNan()


def _widen(gradient: Tensor) -> Tensor:
    return gradient.astype(mstype.float32)


def _product_with_itself(tensor: Tensor) -> Tensor:
    row = tensor.reshape(1, -1)
    return _product(row, row).reshape(())


def _square_sum(tensor: Tensor) -> Tensor:
    return ops.square(tensor).sum()


def _sum_over_ranks(all_reduce: ops.AllReduce, tensor: Tensor) -> Tensor:
    return all_reduce(tensor)


def _multiply(factor: Tensor, gradient: Tensor) -> Tensor:
    return _multiply_no_nan(gradient, factor)  # infinity times 0 is 0: a skipped step hands the optimizer zeros


def _add(total: Parameter, gradient: Tensor) -> Tensor:
    return ops.assign_add(total, gradient)


def _clear(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))
