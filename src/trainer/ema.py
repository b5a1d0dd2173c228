"""An exponential moving average of the weights, evaluated and saved beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype


class WeightEMA(nn.Cell):
    """`ema = decay * ema + (1 - decay) * weight` after every optimizer step: timm's `ModelEma`.

    A step that an overflow skipped counts too, as in timm, where `update` follows the loss scaler in any case: the
    average then moves towards the weights as they stayed. It starts as a copy of the weights, so load those before.

    State: `ema.<name>` (float32, the weight's shape), in `averages`.
    """

    def __init__(self, weights: Sequence[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.weights = ParameterTuple(weights)
        self.averages = ParameterTuple(
            [
                Parameter(Tensor(weight.asnumpy(), mstype.float32), name=f"ema.{weight.name}", requires_grad=False)
                for weight in weights
            ]
        )
        self.rate = 1.0 - decay
        self.map = ops.HyperMap()

    def construct(self) -> None:
        """Move every average towards its weight."""
        self.map(ops.partial(_move, self.rate), self.averages, self.weights)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the network computes with the averages; afterwards it has its own weights again, to the bit.

        Only values move, so that no graph is compiled anew. Neither train nor save a checkpoint inside.
        """
        own = [weight.asnumpy().copy() for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages):
                weight.set_data(Tensor(average.asnumpy(), weight.dtype))
            yield
        finally:
            for weight, value in zip(self.weights, own):
                weight.set_data(Tensor(value))


def _move(rate: float, average: Parameter, weight: Parameter) -> Tensor:
    # rounds less than decay * ema + (1 - decay) * weight does, since 1 - decay is small
    return ops.assign_sub(average, (average - weight.astype(mstype.float32)) * rate)
