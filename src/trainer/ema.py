"""An exponential moving average of the weights, evaluated and saved beside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype

PREFIX = "ema."  # of the averages' names in a checkpoint
METRIC_PREFIX = "ema_"  # of the metrics that were measured with the averages


class WeightEMA(nn.Cell):
    """`ema = decay * ema + (1 - decay) * weight` after every optimizer step: timm's `ModelEma`.

    As in timm, a step that was skipped because of an overflow counts too and moves the average towards the unchanged
    weights. The average starts as a copy of the weights, so load the weights before.

    State: `ema.<name>` (float32, the weight's shape), in `averages`.
    """

    def __init__(self, weights: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.weights = ParameterTuple(weights)
        self.averages = ParameterTuple(
            [
                Parameter(Tensor(weight.asnumpy(), mstype.float32), name=PREFIX + weight.name, requires_grad=False)
                for weight in weights
            ]
        )
        self.rate = 1.0 - decay
        self.map = ops.HyperMap()

    def construct(self) -> None:
        """Move every average towards its weight."""
        self.map(ops.partial(_move, self.rate), self.averages, self.weights)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the averages under the names of the weights, float32."""
        return {average.name.removeprefix(PREFIX): average.asnumpy() for average in self.averages}

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the network computes with the averages; afterwards its own weights are back, to the bit.

        Only values move, so nothing is compiled again. Neither train nor save a checkpoint inside the block.
        """
        own = [weight.asnumpy().copy() for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages):
                weight.set_data(Tensor(average.asnumpy(), weight.dtype))
            yield
        finally:
            for weight, value in zip(self.weights, own):
                weight.set_data(Tensor(value))


def evaluate_with_average(evaluate: Callable[[], Mapping[str, float]], ema: WeightEMA | None) -> dict[str, float]:
    """Return the metrics of the weights and, with the prefix `ema_`, those of their average."""
    metrics = dict(evaluate())
    if ema is not None:
        with ema.swapped():
            metrics |= {METRIC_PREFIX + name: value for name, value in evaluate().items()}
    return metrics


def _move(rate: float, average: Parameter, weight: Parameter) -> Tensor:
    # this form rounds less than decay * ema + (1 - decay) * weight, because 1 - decay is small
    return ops.assign_sub(average, (average - weight.astype(mstype.float32)) * rate)
