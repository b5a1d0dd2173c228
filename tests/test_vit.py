"""The whole network against the authors' code and timm, and what is particular to building it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.tools.criterion import SoftTargetCrossEntropy
from src.vit import VisionTransformer, create_model, drop_path_rates

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from network_recipe import CASES, batch, weight  # noqa: E402

TINY = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "network.npz")


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def with_recipe_weights(case: str) -> VisionTransformer:
    network = VisionTransformer(**CASES[case])
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network


def loss_and_gradients(network: VisionTransformer, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients; the last of `inputs` is the target, the others are the network's."""
    criterion = SoftTargetCrossEntropy()

    def forward(*inputs: Tensor) -> Tensor:
        return criterion(network(*inputs[:-1]), inputs[-1])

    return ms.value_and_grad(forward, None, network.trainable_params())(*inputs)


def assert_agrees(case: str, golden) -> None:
    """Tolerances: 1e-5 of the largest logit, 1e-4 of each parameter's largest gradient (float32, two libraries)."""
    network = with_recipe_weights(case)
    images, targets = (Tensor(array) for array in batch(case))
    logits = network(images).asnumpy()
    for reference in ("logits", "timm_logits"):
        expected = golden[f"{case}/{reference}"]
        assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max(), reference
    loss, gradients = loss_and_gradients(network, images, targets)
    assert float(loss) == pytest.approx(float(golden[f"{case}/loss"]), rel=1e-5)
    expected = {key.split("/")[-1]: golden[key] for key in golden.files if key.startswith(f"{case}/grad/")}
    assert {p.name for p in network.trainable_params()} == set(expected)
    for parameter, gradient in zip(network.trainable_params(), gradients):
        reference = expected[parameter.name]
        assert gradient.shape == reference.shape, parameter.name
        difference = np.abs(gradient.asnumpy() - reference).max()
        assert difference <= 1e-4 * np.abs(reference).max(), (parameter.name, difference)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_the_authors(case, golden):
    assert_agrees(case, golden)


@pytest.mark.parametrize("case", ["base", "shared_bias"])
def test_logits_and_gradients_are_the_authors_in_graph_mode(case, golden, graph_mode):
    assert_agrees(case, golden)
