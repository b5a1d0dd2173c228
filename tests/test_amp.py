"""Mixed precision: the distance of each level from float32, and the types inside the network."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.layers.layers import Layers
from src.model.model_config import ModelConfig
from src.tools.criterion import SoftTargetCrossEntropy
from src.vit import VisionTransformer, create_model
from tests.golden.network_recipe import CASES, batch, weight
from tests.networks import PORTABLE, small_network

LOSS_SCALE = 128.0  # keeps float16 gradients clear of the subnormal range


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(params=PORTABLE)
def layers(request):
    return PORTABLE[request.param]


def run(level: str, layers: Layers) -> tuple[VisionTransformer, Tensor, list[Tensor]]:
    """A network at `level`, its logits and its gradients multiplied by `LOSS_SCALE`."""
    network = small_network(**CASES["base"], amp_level=level, layers=layers)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape), parameter.dtype))
    criterion = SoftTargetCrossEntropy()

    def forward(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(image)
        return criterion(logits, target) * LOSS_SCALE, logits

    image, target = (Tensor(array) for array in batch("base"))
    (_, logits), gradients = ms.value_and_grad(forward, None, network.trainable_params(), has_aux=True)(image, target)
    return network, logits, gradients


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "network.npz") as arrays:
        return {key: arrays[key] for key in arrays.files if key.startswith("base/")}


# float16 rounds by 2^-11 = 5e-4 of a value; some ten roundings lie between image and logits, and twice as many on the
# way to the first gradients
@pytest.mark.parametrize(
    ("level", "logit_tolerance", "gradient_tolerance", "weight_type"),
    [
        ("O0", 1e-5, 1e-4, ms.float32),
        ("O1", 5e-3, 1e-2, ms.float32),
        ("O2", 5e-3, 1e-2, ms.float32),
        ("O3", 5e-3, 1e-2, ms.float16),
    ],
)
def test_each_level_stays_close_to_the_authors_float32(
    level, logit_tolerance, gradient_tolerance, weight_type, layers, golden
):
    network, logits, gradients = run(level, layers)
    assert logits.dtype == ms.float32
    expected = golden["base/logits"]
    error = np.abs(logits.asnumpy() - expected).max() / np.abs(expected).max()
    assert error <= logit_tolerance
    # float16 must have been used where it should: it cannot be as close as float32
    assert (error > 1e-5) == (level != "O0")
    for parameter, gradient in zip(network.trainable_params(), gradients):
        assert parameter.dtype == gradient.dtype == weight_type, parameter.name
        expected = golden[f"base/grad/{parameter.name}"]
        difference = np.abs(gradient.asnumpy().astype(np.float32) / LOSS_SCALE - expected).max()
        assert difference <= gradient_tolerance * np.abs(expected).max(), parameter.name


def types_inside(level: str, layers: Layers) -> dict[str, object]:
    """The types of what flows out of the parts of the first block."""
    network = small_network(**CASES["base"], amp_level=level, layers=layers)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    block = network.blocks[0]
    x = network.embed(Tensor(batch("base")[0]), None)
    normal = block.norm1(x)
    q, k, _ = block.attn.queries_keys_values(normal)
    return {
        "tokens": x.dtype,
        "norm": normal.dtype,
        "queries": q.dtype,
        "probabilities": block.attn.probabilities(q, k, None).dtype,
        "attention": block.attn(normal).dtype,
        "gelu": block.mlp.act(block.mlp.fc1(normal)).dtype,
        "block": block(x).dtype,
    }


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_levels_change_the_types_inside_a_branch_only(level, layers):
    types = types_inside(level, layers)
    inside = ms.float16 if level in ("O2", "O3") else ms.float32
    for part in ("norm", "queries", "attention", "gelu"):
        assert types[part] == inside, part
    for part in ("tokens", "probabilities", "block"):
        assert types[part] == ms.float32, part


def test_an_unknown_level_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"amp_level 'O4' .*O0, O1, O2, O3"):
        create_model(ModelConfig("beit_micro_patch8_32", 32, 3), amp_level="O4")
