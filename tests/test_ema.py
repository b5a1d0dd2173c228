"""The moving average of the weights: timm's rule, and evaluation with it."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore import dtype as mstype

from src.config import Config
from src.tools.criterion import Classification
from src.tools.optimizer import ParameterGroup, create_optimizer
from src.trainer.ema import WeightEMA, evaluate_with_average
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import Schedules

MODES = {"graph": mindspore.GRAPH_MODE, "pynative": mindspore.PYNATIVE_MODE}


class Product(nn.Cell):
    """logits = image * weight; with `Total`, the gradient of the weight is the image."""

    def __init__(self, dtype=mstype.float32):
        super().__init__()
        self.weight = Parameter(Tensor([1.0, 2.0, 3.0], dtype), name="weight")

    def construct(self, image, key=None):
        return image * self.weight


class Total(nn.Cell):
    def construct(self, logits, target):
        return (logits * target).sum()


@pytest.fixture(autouse=True, scope="module")
def _graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture(params=MODES)
def mode(request):
    mindspore.set_context(mode=MODES[request.param])
    yield
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


def make_step(network, decay: float) -> TrainOneStepWithEMA:
    groups = {"weight": ParameterGroup(1.0, 0.0)}
    optimizer = create_optimizer(Config(optimizer="momentum", momentum=0.0), network.trainable_params(), groups)
    return TrainOneStepWithEMA(Classification(network, Total()), optimizer, Schedules(np.ones(10), np.zeros(10)), decay)


def feed(step, gradient) -> None:
    image = np.array([gradient], np.float32)
    step(Tensor(image), Tensor(np.ones_like(image)), Tensor(np.zeros(1, np.int32)))


@pytest.mark.usefixtures("mode")
def test_the_average_moves_after_every_step_also_after_a_skipped_one():
    network = Product()
    step = make_step(network, 0.75)
    average = step.ema.averages[0]
    assert average.name == "ema.weight"
    assert not average.requires_grad
    np.testing.assert_array_equal(average.asnumpy(), [1, 2, 3])
    feed(step, [4, 0, 0])  # weight 1 -> -3: 0.75 * 1 + 0.25 * -3
    np.testing.assert_array_equal(average.asnumpy(), [0, 2, 3])
    feed(step, [np.inf, 0, 0])  # the weight stays: 0.75 * 0 + 0.25 * -3
    np.testing.assert_array_equal(network.weight.asnumpy(), [-3, 2, 3])
    np.testing.assert_array_equal(average.asnumpy(), [-0.75, 2, 3])


@pytest.mark.usefixtures("mode")
def test_the_network_computes_with_the_averages_only_inside_the_block():
    network = Product()
    step = make_step(network, 0.75)
    image = Tensor(np.ones((1, 3), np.float32))
    feed(step, [4, 4, 4])
    own = network(image).asnumpy()
    with step.ema.swapped():
        averaged = network(image).asnumpy()
    np.testing.assert_array_equal(own, [[-3, -2, -1]])
    np.testing.assert_array_equal(averaged, [[0, 1, 2]])
    np.testing.assert_array_equal(network(image).asnumpy(), own)
    np.testing.assert_array_equal(step.ema.averages[0].asnumpy(), [0, 1, 2])
    feed(step, [1, 1, 1])  # and training goes on from the network's own weights
    np.testing.assert_array_equal(network.weight.asnumpy(), [-4, -3, -2])
    np.testing.assert_array_equal(step.ema.averages[0].asnumpy(), [-1, 0, 1])


def test_the_weights_come_back_when_the_evaluation_fails():
    network = Product()
    ema = WeightEMA(network.trainable_params(), 0.5)
    network.weight.set_data(Tensor([5.0, 6.0, 7.0], mstype.float32))
    inside = []

    def evaluate():
        with ema.swapped():
            inside.append(network.weight.asnumpy().copy())
            raise RuntimeError("evaluation")

    with pytest.raises(RuntimeError, match="evaluation"):
        evaluate()
    np.testing.assert_array_equal(inside, [[1, 2, 3]])
    np.testing.assert_array_equal(network.weight.asnumpy(), [5, 6, 7])


def test_the_average_of_float16_weights_is_kept_in_float32():
    network = Product(mstype.float16)
    ema = WeightEMA(network.trainable_params(), 0.9999)
    network.weight.set_data(Tensor([2.0, 2.0, 3.0], mstype.float16))
    ema()
    np.testing.assert_allclose(ema.averages[0].asnumpy(), [1.0001, 2, 3], rtol=1e-7)  # float16 has no 1.0001
    with ema.swapped():
        assert network.weight.dtype == mstype.float16
    np.testing.assert_array_equal(network.weight.asnumpy(), np.float16([2, 2, 3]))


def test_metrics_of_the_averages_have_a_prefix_and_only_a_run_with_them_has_any():
    network = Product()
    ema = WeightEMA(network.trainable_params(), 0.5)
    network.weight.set_data(Tensor([5.0, 6.0, 7.0], mstype.float32))

    def evaluate():
        return {"sum": float(network.weight.asnumpy().sum())}

    assert evaluate_with_average(evaluate, ema) == {"sum": 18.0, "ema_sum": 6.0}
    assert evaluate_with_average(evaluate, None) == {"sum": 18.0}
