"""PyTorch's optimizers, with a learning-rate scale for each parameter, and weight decay for some."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import Primitive

from src.config import RunConfig

# `VisionTransformer.no_weight_decay` of unilm beit/modeling_finetune.py
NO_WEIGHT_DECAY = ("pos_embed", "cls_token")


class ParameterGroup(NamedTuple):
    """The update of a parameter: `lr_scale` is the factor of its learning rate, `decay_scale` that of its decay."""

    lr_scale: float
    decay_scale: float


def layer_id(name: str, depth: int) -> int:
    """Return the layer of the parameter `name` in a BEiT with `depth` blocks: 0 (input) to depth + 1 (head).

    unilm beit/optim_factory.py, `get_num_layer_for_vit`.
    """
    if name in ("cls_token", "mask_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    if name.startswith("blocks"):
        return int(name.split(".")[1]) + 1
    return depth + 1  # rel_pos_bias (shared by all blocks), norm, fc_norm, head


def parameter_groups(
    names_and_shapes: Iterable[tuple[str, Sequence[int]]], *, layer_decay: float, depth: int
) -> dict[str, ParameterGroup]:
    """Return the factors of learning rate and weight decay of every parameter, as in unilm beit/optim_factory.py.

    One-dimensional parameters, biases and those of `NO_WEIGHT_DECAY` do not decay. The scale is
    layer_decay ** (depth + 1 - layer), so the head learns at the full rate.
    """
    groups = {}
    for name, shape in names_and_shapes:
        decays = len(shape) > 1 and not name.endswith(".bias") and name not in NO_WEIGHT_DECAY
        lr_scale = layer_decay ** (depth + 1 - layer_id(name, depth))
        groups[name] = ParameterGroup(lr_scale, 1.0 if decays else 0.0)
    return groups


def create_optimizer(
    config: RunConfig,
    parameters: Sequence[Parameter],
    groups: Mapping[str, ParameterGroup],
    adamw: Callable[[int], Primitive] | None = None,
) -> AdamW | Momentum:
    """Return the optimizer of the options `optimizer`, `beta`, `eps` and `momentum`.

    `adamw` is that of `src.layers.layers.Layers`.
    """
    if config.optimizer == "momentum":
        return Momentum(parameters, groups, config.momentum)
    beta1, beta2 = config.beta
    if adamw is not None:
        return AdamWInOneCall(parameters, groups, (beta1, beta2), config.eps, adamw)
    return AdamW(parameters, groups, (beta1, beta2), config.eps)


class _GroupedOptimizer(nn.Cell):
    """Base of the optimizers: parameters sorted by group, and float32 masters of float16 weights.

    `weights` are in the order of the groups, so that each group is one slice; gradients have the same order. Graphs map
    over whole tuples, because an unrolled loop over the 391 parameters of BEiT-large exceeds the depth that MindSpore's
    compiler allows.

    Float16 weights (amp_level O3) have a float32 copy, `optimizer.master.<name>`, that is updated in their place: late
    in a schedule the change of a weight is below the resolution of float16. Load the weights before, they are copied.
    """

    def __init__(self, parameters: Sequence[Parameter], groups: Mapping[str, ParameterGroup]) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        parameters = sorted(parameters, key=lambda parameter: groups[parameter.name])
        self.weights = ParameterTuple(parameters)
        kinds = [groups[parameter.name] for parameter in parameters]
        # of each group: lr_scale, decay_scale, and begin and end of its slice
        self.slices = tuple(
            (*kind, kinds.index(kind), kinds.index(kind) + kinds.count(kind)) for kind in sorted(set(kinds))
        )
        self.halves = ParameterTuple([p for p in parameters if p.dtype == mstype.float16])
        self.masters = ParameterTuple([_state("master", half, half.asnumpy()) for half in self.halves])
        masters = {half.name: master for half, master in zip(self.halves, self.masters)}
        self.updated = ParameterTuple([masters.get(parameter.name, parameter) for parameter in parameters])
        self.map = ops.HyperMap()

    def scaled(self, gradients: tuple[Tensor, ...], factor: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients times `factor`; a factor of 0 makes zeros of infinity and NaN."""
        return self.map(ops.partial(_multiply, factor), gradients)

    def round_masters(self) -> None:
        """Write the float32 masters into the float16 weights that the network computes with."""
        if len(self.halves) > 0:
            self.map(_round_master, self.halves, self.masters)


class AdamW(_GroupedOptimizer):
    """`torch.optim.AdamW`: Adam with bias correction and decoupled weight decay (Loshchilov and Hutter, 2019).

    MindSpore's fused kernel AdamWeightDecay has no bias correction; it computes
        w -= rate * (m / (sqrt(v) + eps) + decay * w).
    With c1 = 1 - beta1 ** t and c2 = 1 - beta2 ** t, feeding it rate = lr * sqrt(c2) / c1, eps * sqrt(c2) and
    decay * c1 / sqrt(c2) makes it w -= lr * ((m / c1) / (sqrt(v / c2) + eps) + decay * w), which is AdamW.

    State: `optimizer.step` (int32 [], applied updates), `optimizer.exp_avg.<name>` and `optimizer.exp_avg_sq.<name>`
    (float32, the weight's shape).
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        groups: Mapping[str, ParameterGroup],
        beta: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(parameters, groups)
        # The kernel's betas are float32, and 1 - float32(0.999) differs from 0.001 by 1.3e-5 (relative). The bias
        # correction uses the rounded betas too, which cancels this.
        self.beta1, self.beta2 = float(np.float32(beta[0])), float(np.float32(beta[1]))
        self.log_beta1, self.log_beta2 = math.log(self.beta1), math.log(self.beta2)
        self.eps = eps
        self.step = Parameter(Tensor(0, mstype.int32), name="optimizer.step", requires_grad=False)
        self.exp_avg = ParameterTuple([_state("exp_avg", weight) for weight in self.weights])
        self.exp_avg_sq = ParameterTuple([_state("exp_avg_sq", weight) for weight in self.weights])
        self.expm1 = ops.Expm1()

    def construct(
        self,
        gradients: tuple[Tensor, ...],
        factor: Tensor,
        learning_rate: Tensor,
        weight_decay: Tensor,
        applied: Tensor,
    ) -> None:
        """Update the weights in place: float32 `gradients` in the order of `weights`, otherwise float32 scalars.

        The gradients are multiplied by `factor`. If the bool scalar `applied` is false, `factor` must be 0; weights and
        state then do not change by a bit. There is no branch, so the host does not wait.
        """
        gradients = self.scaled(gradients, factor)
        step = self.step + 1
        t = step.astype(mstype.float32)
        # 1 - beta ** t, exact to float32 rounding even in the first steps
        c1 = -self.expm1(t * self.log_beta1)
        c2_root = ops.sqrt(-self.expm1(t * self.log_beta2))
        rate = ops.where(applied, learning_rate * c2_root / c1, 0.0)
        beta1 = ops.where(applied, Tensor(self.beta1, mstype.float32), 1.0)
        beta2 = ops.where(applied, Tensor(self.beta2, mstype.float32), 1.0)
        eps = c2_root * self.eps
        decay = weight_decay * c1 / c2_root
        for lr_scale, decay_scale, begin, end in self.slices:
            numbers = (rate * lr_scale, beta1, beta2, eps, decay * decay_scale)
            self.map(
                ops.partial(_adamw, numbers),
                self.updated[begin:end],
                self.exp_avg[begin:end],
                self.exp_avg_sq[begin:end],
                gradients[begin:end],
            )
        ops.assign(self.step, ops.where(applied, step, self.step))
        self.round_masters()


class AdamWInOneCall(AdamW):
    """`AdamW` for float32 weights by one operator, which `update` makes for their number."""

    def __init__(
        self,
        parameters: Sequence[Parameter],
        groups: Mapping[str, ParameterGroup],
        beta: tuple[float, float],
        eps: float,
        update: Callable[[int], Primitive],
    ) -> None:
        super().__init__(parameters, groups, beta, eps)
        self.update = update(len(self.weights))
        self.settings = Tensor([self.beta1, self.beta2, eps], mstype.float32)
        kinds = [groups[weight.name] for weight in self.weights]
        self.lr_scales = Tensor([kind.lr_scale for kind in kinds], mstype.float32)
        self.decay_scales = Tensor([kind.decay_scale for kind in kinds], mstype.float32)

    def construct(
        self,
        gradients: tuple[Tensor, ...],
        factor: Tensor,
        learning_rate: Tensor,
        weight_decay: Tensor,
        applied: Tensor,
    ) -> None:
        """Update the weights in place; arguments as those of `AdamW`."""
        step = self.step + 1
        scales = (self.settings, self.lr_scales, self.decay_scales)
        numbers = (learning_rate, weight_decay, factor, step, applied)
        self.update(*scales, *numbers, *self.weights, *self.exp_avg, *self.exp_avg_sq, *gradients)
        ops.assign(self.step, ops.where(applied, step, self.step))


class Momentum(_GroupedOptimizer):
    """`torch.optim.SGD` with momentum, no Nesterov, and weight decay added to the gradient (unilm's `momentum`).

    State: `optimizer.momentum_buffer.<name>` (float32, the weight's shape).
    """

    def __init__(self, parameters: Sequence[Parameter], groups: Mapping[str, ParameterGroup], momentum: float) -> None:
        super().__init__(parameters, groups)
        self.momentum = momentum
        self.momentum_buffer = ParameterTuple([_state("momentum_buffer", weight) for weight in self.weights])

    def construct(
        self,
        gradients: tuple[Tensor, ...],
        factor: Tensor,
        learning_rate: Tensor,
        weight_decay: Tensor,
        applied: Tensor,
    ) -> None:
        """Update the weights in place; arguments as those of `AdamW`."""
        gradients = self.scaled(gradients, factor)
        rate = ops.where(applied, learning_rate, 0.0)
        momentum = ops.where(applied, Tensor(self.momentum, mstype.float32), 1.0)
        decay = ops.where(applied, weight_decay, 0.0)
        for lr_scale, decay_scale, begin, end in self.slices:
            update = ops.partial(_momentum, rate * lr_scale, momentum, decay * decay_scale)
            self.map(update, self.updated[begin:end], self.momentum_buffer[begin:end], gradients[begin:end])
        self.round_masters()


_multiply_no_nan = ops.MulNoNan()
_adamw_kernel = ops.AdamWeightDecay()
_momentum_kernel = ops.ApplyMomentum()


def _multiply(factor: Tensor, gradient: Tensor) -> Tensor:
    return _multiply_no_nan(gradient, factor)


def _adamw(
    numbers: tuple[Tensor, ...], weight: Parameter, exp_avg: Parameter, exp_avg_sq: Parameter, gradient: Tensor
) -> Tensor:
    rate, beta1, beta2, eps, decay = numbers
    return _adamw_kernel(weight, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, decay, gradient)


def _momentum(
    rate: Tensor, momentum: Tensor, decay: Tensor, weight: Parameter, momentum_buffer: Parameter, gradient: Tensor
) -> Tensor:
    return _momentum_kernel(weight, momentum_buffer, rate, gradient + weight * decay, momentum)


def _round_master(half: Parameter, master: Parameter) -> Tensor:
    return ops.assign(half, master.astype(mstype.float16))


def _state(kind: str, parameter: Parameter, value: np.ndarray | None = None) -> Parameter:
    """Return a float32 Parameter `optimizer.<kind>.<name>` with `value`, or with zeros of the weight's shape."""
    value = np.zeros(parameter.shape) if value is None else value
    return Parameter(Tensor(value, mstype.float32), name=f"optimizer.{kind}.{parameter.name}", requires_grad=False)
