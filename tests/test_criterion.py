"""The loss agrees with a hand calculation; test_vit compares it with timm's on the golden logits."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.tools.criterion import Classification, SoftTargetCrossEntropy


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def each_mode(request):
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_loss_is_the_mean_cross_entropy_against_the_soft_target(each_mode):
    # first row: softmax 1/4, 3/4; second row: softmax 1/2, 1/2
    logits = Tensor(np.array([[0.0, math.log(3.0)], [5.0, 5.0]], np.float32))
    target = Tensor(np.array([[0.3, 0.7], [1.0, 0.0]], np.float32))
    expected = (0.3 * math.log(4) + 0.7 * math.log(4 / 3) + math.log(2)) / 2
    # MindSpore's exp is good to 6e-6 on the CPU
    assert float(SoftTargetCrossEntropy()(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_large_logits_do_not_overflow():
    logits = Tensor(np.array([[1000.0, 0.0, -1000.0]], np.float32))
    target = Tensor(np.array([[0.0, 1.0, 0.0]], np.float32))
    assert float(SoftTargetCrossEntropy()(logits, target)) == pytest.approx(1000.0)


def test_gradient_is_softmax_minus_target_over_the_batch(each_mode):
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((4, 6)) * 3, rng.dirichlet(np.ones(6), 4)
    gradient = ms.grad(SoftTargetCrossEntropy())(Tensor(logits.astype(np.float32)), Tensor(target.astype(np.float32)))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(gradient.asnumpy(), (softmax - target) / 4, atol=2e-6)


def test_the_loss_of_float16_logits_is_float32():
    logits = Tensor(np.array([[0.0, 20.0]], np.float16))
    loss = SoftTargetCrossEntropy()(logits, Tensor(np.array([[1.0, 0.0]], np.float32)))
    assert loss.dtype == ms.float32
    assert float(loss) == pytest.approx(20.0, rel=1e-6)


def test_the_objective_is_the_loss_of_the_networks_logits_as_a_vector():
    logits, target = Tensor(np.array([[0.0, math.log(3.0)]], np.float32)), Tensor(np.array([[1.0, 0.0]], np.float32))

    class Given(nn.Cell):
        def construct(self, image, key):
            return image + key

    values = Classification(Given(), SoftTargetCrossEntropy())(logits, target, Tensor(np.zeros(2, np.float32)))
    assert values.dtype == ms.float32
    assert values.shape == (1,)
    assert float(values[0]) == pytest.approx(math.log(4), rel=1e-5)
