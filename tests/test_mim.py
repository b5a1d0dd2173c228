"""The networks for masked image modeling against the authors' code."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from src.layers.layers import Layers
from src.mim import MaskedImageModeling
from src.model.model_config import ModelConfig, TrainingOptions
from tests.golden.mim_recipe import CASES, images, masks, positions_and_weights, tokens
from tests.golden.network_recipe import weight
from tests.networks import IMPLEMENTATIONS, small_pretraining_network

GOLDEN = Path(__file__).parent / "golden"
AUTHORS = {"lm_head_outputs": 8192, "num_classes": 0, "rel_pos_bias": False, "shared_rel_pos_bias": True}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "mim.npz")


@pytest.fixture(params=IMPLEMENTATIONS)
def layers(request):
    return IMPLEMENTATIONS[request.param]


def with_recipe_weights(case: str, layers: Layers) -> MaskedImageModeling:
    network = small_pretraining_network(**CASES[case], layers=layers)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_are_the_authors(case, layers, golden):
    """Tolerances: 1e-5 of the largest logit, 1e-4 of each parameter's largest gradient (float32, two libraries)."""
    network = with_recipe_weights(case, layers)
    mask = masks(case)
    positions, weights = positions_and_weights(mask)
    labels = Tensor(np.take_along_axis(tokens(case), positions, 1).reshape(-1))
    shares = Tensor((weights / weights.sum()).reshape(-1))

    def loss_and_logits(*inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits = network(*inputs)
        losses = [ops.cross_entropy(each.reshape(-1, each.shape[2]), labels, reduction="none") for each in logits]
        return sum((each * shares).sum() for each in losses), logits

    inputs = (Tensor(images(case)), Tensor(mask.astype(np.float32)), Tensor(positions))
    step = ms.value_and_grad(loss_and_logits, None, network.trainable_params(), has_aux=True)
    (loss, logits), gradients = step(*inputs)
    assert len(logits) == (2 if case.startswith("v2") else 1)
    for head, each in enumerate(logits):
        expected = golden[f"{case}/logits{head}"]
        found = each.asnumpy()[weights > 0]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), head
    assert float(loss) == pytest.approx(float(golden[f"{case}/loss"]), rel=1e-5)
    expected = {key.split("/")[-1]: golden[key] for key in golden.files if key.startswith(f"{case}/grad/")}
    assert {parameter.name for parameter in network.trainable_params()} == set(expected)
    for parameter, gradient in zip(network.trainable_params(), gradients):
        reference = expected[parameter.name]
        assert gradient.shape == reference.shape, parameter.name
        assert np.abs(gradient.asnumpy() - reference).max() <= 1e-4 * np.abs(reference).max(), parameter.name


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_initial_values_have_the_authors_distribution(version, golden):
    sizes = {"image_size": 224, "patch_size": 16, "embed_dim": 192, "depth": 3, "num_heads": 3}
    extra = {"early_layers": 2, "head_layers": 2} if version == "v2" else {}
    network = small_pretraining_network(**sizes, lm_head_outputs=512, **extra)
    expected = {key.removeprefix(f"init/{version}/"): golden[key] for key in golden if f"init/{version}/" in key}
    assert {name for name, _ in network.parameters_and_names()} == set(expected)
    for name, parameter in network.parameters_and_names():
        value, (mean, deviation, largest) = parameter.asnumpy().astype(np.float64), expected[name]
        # the estimates of both sides vary with the number of values: five of their standard deviations
        slack = 5 * deviation * np.sqrt(2 / value.size)
        assert value.mean() == pytest.approx(mean, abs=slack + 1e-9), name
        assert value.std() == pytest.approx(deviation, abs=slack + 1e-9), name
        assert np.abs(value).max() == pytest.approx(largest, rel=0.05), name
        if deviation and not name.startswith("cls_pt_layers"):
            depth = (
                int(name.split(".")[1]) + 1 if name.endswith(("proj.weight", "fc2.weight")) and "blocks" in name else 0
            )
            bound = 0.02 / np.sqrt(2 * depth) if depth else 0.02
            assert np.abs(value).max() <= bound * (1 + 1e-6), name


@pytest.mark.parametrize(
    ("name", "early_layers"), [("beit_base_patch16_224", 0), ("beitv2_base_patch16_224", 9)], ids=["v1", "v2"]
)
def test_base_has_the_authors_number_of_parameters(name, early_layers, golden):
    model = ModelConfig(
        "beit_base_patch16_224", 224, early_layers=early_layers, head_layers=2 if early_layers else 0, **AUTHORS
    )
    network = MaskedImageModeling.create(model, TrainingOptions(seed=None))
    assert sum(parameter.size for parameter in network.get_parameters()) == golden[f"parameters/{name}"]


def test_only_masked_patches_are_replaced():
    network = small_pretraining_network(**CASES["v1"])
    patches = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    mask = np.zeros((2, 16), np.float32)
    mask[0, 3] = mask[1, 15] = 1
    found = network.replace_masked(Tensor(patches), Tensor(mask)).asnumpy()
    token = network.mask_token.asnumpy().reshape(-1)
    assert (found[mask == 0] == patches[mask == 0]).all()
    assert (found[mask == 1] == token).all()
