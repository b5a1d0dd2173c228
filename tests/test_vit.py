"""The whole network against the authors' code and timm, and what is particular to building it."""

from __future__ import annotations

import math
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.layers.layers import STOCK, Layers
from src.model.model_config import ModelConfig
from src.tools.criterion import SoftTargetCrossEntropy
from src.vit import VisionTransformer, create_model
from tests.golden.network_recipe import CASES, batch, weight
from tests.networks import IMPLEMENTATIONS, LIBRARY, small_network, variant_network

GOLDEN = Path(__file__).parent / "golden"
TINY = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "network.npz")


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def each_mode(request):
    ms.set_context(mode=request.param)
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(params=IMPLEMENTATIONS)
def layers(request):
    return IMPLEMENTATIONS[request.param]


def with_recipe_weights(case: str, layers: Layers) -> VisionTransformer:
    network = small_network(**CASES[case], layers=layers)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network


def loss_and_gradients(network: VisionTransformer, *inputs: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss, logits and gradients; the last of `inputs` is the target, the others are the network's."""
    criterion = SoftTargetCrossEntropy()

    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(*inputs[:-1])
        return criterion(logits, inputs[-1]), logits

    (loss, logits), gradients = ms.value_and_grad(forward, None, network.trainable_params(), has_aux=True)(*inputs)
    return loss, logits, gradients


def assert_agrees(case: str, layers: Layers, golden) -> None:
    """Tolerances: 1e-5 of the largest logit, 1e-4 of each parameter's largest gradient (float32, two libraries)."""
    network = with_recipe_weights(case, layers)
    images, targets = (Tensor(array) for array in batch(case))
    loss, logits, gradients = loss_and_gradients(network, images, targets)
    for reference in ("logits", "timm_logits"):
        expected = golden[f"{case}/{reference}"]
        assert np.abs(logits.asnumpy() - expected).max() <= 1e-5 * np.abs(expected).max(), reference
    assert float(loss) == pytest.approx(float(golden[f"{case}/loss"]), rel=1e-5)
    expected = {key.split("/")[-1]: golden[key] for key in golden.files if key.startswith(f"{case}/grad/")}
    assert {p.name for p in network.trainable_params()} == set(expected)
    for parameter, gradient in zip(network.trainable_params(), gradients):
        reference = expected[parameter.name]
        assert gradient.shape == reference.shape, parameter.name
        difference = np.abs(gradient.asnumpy() - reference).max()
        assert difference <= 1e-4 * np.abs(reference).max(), (parameter.name, difference)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_the_authors(case, layers, golden):
    assert_agrees(case, layers, golden)


@pytest.mark.parametrize("case", ["base", "shared_bias"])
def test_logits_and_gradients_are_the_authors_in_graph_mode(case, layers, golden, graph_mode):
    assert_agrees(case, layers, golden)


# Sizes


def parameter_count(network: VisionTransformer) -> int:
    return sum(parameter.size for parameter in network.get_parameters())


def test_beit_base_has_86530984_parameters():
    assert parameter_count(variant_network("beit_base_patch16_224")) == 86_530_984


def test_image_size_and_num_classes_override_the_variant():
    network = variant_network("beit_tiny_patch16_224", image_size=96, num_classes=7)
    assert network.patch_embed.num_patches == 36
    assert network.head.weight.shape == (7, 192)
    assert network.blocks[0].attn.relative_position_bias_table.shape == (11 * 11 + 3, 3)


def test_an_unknown_arch_or_a_size_that_the_patch_does_not_divide_is_the_users_mistake():
    with pytest.raises(UserError, match="arch 'beit_huge' is unknown: choose one of beit_base_patch16_224"):
        create_model(ModelConfig("beit_huge", 224, 1000))
    with pytest.raises(UserError, match="image_size 230 is not a multiple of the patch size 16: use 224"):
        variant_network("beit_tiny_patch16_224", image_size=230)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_is_trainable_and_knows_its_name(case):
    network = small_network(**CASES[case])
    names = [name for name, _ in network.parameters_and_names()]
    assert names == [parameter.name for parameter in network.trainable_params()]
    assert ("pos_embed" in names) == (case == "abs_pos_emb")
    assert ("norm.weight" in names) == ("fc_norm.weight" not in names) == (case == "class_token")


def test_an_image_of_another_size_is_refused_naming_both(each_mode):
    network = small_network(**TINY)
    with pytest.raises(ValueError, match=r"takes images of shape \(batch, 3, 16, 16\), but was given \(2, 3, 24, 24\)"):
        network(Tensor(np.zeros((2, 3, 24, 24), np.float32)))


def test_all_blocks_share_one_relative_position_index():
    network = small_network(**TINY, shared_rel_pos_bias=True)
    assert network.rel_pos_bias.index is network.blocks[0].attn.index is network.blocks[1].attn.index


# Initial weights: SIGMAS standard errors, as in test_layers

SIGMAS = 4.5


def assert_normal(values: np.ndarray, deviation: float) -> None:
    assert abs(values.mean()) < SIGMAS * deviation / math.sqrt(values.size)
    assert abs(values.std() / deviation - 1) < SIGMAS / math.sqrt(2 * values.size)
    assert values.std() > 0
    beyond = (np.abs(values) > 2 * deviation).mean()  # of a normal distribution 4.55% lie beyond two deviations
    assert abs(beyond - 0.0455) < SIGMAS * math.sqrt(0.0455 * 0.9545 / values.size)


@pytest.fixture(scope="module")
def initial():
    network = small_network(
        image_size=32, patch_size=4, embed_dim=64, depth=3, num_heads=4, num_classes=50, init_scale=0.01,
        layer_scale_init_value=1e-5, abs_pos_emb=True, shared_rel_pos_bias=True,
    )  # fmt: skip
    return {name: parameter.asnumpy() for name, parameter in network.parameters_and_names()}


def test_matrices_start_normal_with_deviation_0_02(initial):
    for layer in range(3):
        assert_normal(initial[f"blocks.{layer}.attn.qkv.weight"], 0.02)
        assert_normal(initial[f"blocks.{layer}.mlp.fc1.weight"], 0.02)
    assert_normal(initial["pos_embed"], 0.02)
    assert 0.01 < initial["cls_token"].std() < 0.03


def test_the_end_of_each_branch_starts_smaller_by_the_root_of_twice_its_depth(initial):
    for layer in range(3):
        for name in ("attn.proj", "mlp.fc2"):
            assert_normal(initial[f"blocks.{layer}.{name}.weight"], 0.02 / math.sqrt(2 * (layer + 1)))


def test_the_head_starts_scaled_by_init_scale(initial):
    assert_normal(initial["head.weight"], 0.02 * 0.01)
    assert not initial["head.bias"].any()


def test_the_patch_projection_keeps_pytorchs_uniform_start(initial):
    bound = 1 / math.sqrt(3 * 4 * 4)
    for name in ("weight", "bias"):
        values = initial[f"patch_embed.proj.{name}"]
        assert bound * (1 - 10 / values.size) - 0.01 < np.abs(values).max() <= bound
        assert abs(values.var() / (bound**2 / 3) - 1) < SIGMAS * math.sqrt(0.8 / values.size)


def test_biases_tables_norms_and_layer_scale_start_constant(initial):
    constants = {"norm1.weight": 1.0, "norm2.weight": 1.0, "fc_norm.weight": 1.0, "gamma_1": 1e-5, "gamma_2": 1e-5}
    constants |= dict.fromkeys(("q_bias", "v_bias", "norm1.bias", "norm2.bias", "fc_norm.bias"), 0.0)
    constants |= dict.fromkeys(("relative_position_bias_table", "proj.bias", "fc1.bias", "fc2.bias"), 0.0)
    checked = 0
    for name, values in initial.items():
        for suffix, constant in constants.items():
            if name.endswith(suffix) and not name.startswith("patch_embed"):
                assert (values == np.float32(constant)).all(), name
                checked += 1
    assert checked == 3 * 12 + 1 + 2  # per block; the shared table; fc_norm


def test_initial_weights_follow_from_the_seed_alone():
    first, same, other = (small_network(**TINY, seed=seed) for seed in (3, 3, 4))
    larger = small_network(**{**TINY, "num_classes": 9, "depth": 3}, seed=3, drop_path=0.5)
    for a, b, c in zip(first.get_parameters(), same.get_parameters(), other.get_parameters()):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())
        random = a.name in ("cls_token", "patch_embed.proj.bias") or (
            a.name.endswith("weight") and "norm" not in a.name
        )
        assert (a.asnumpy() == c.asnumpy()).all() != random, a.name
    values = {parameter.name: parameter.asnumpy() for parameter in larger.get_parameters()}
    for parameter in first.get_parameters():
        if not parameter.name.startswith("head."):
            np.testing.assert_array_equal(parameter.asnumpy(), values[parameter.name])


# Drop path and dropout in the whole network


def test_drop_path_grows_linearly_from_zero_with_depth():
    network = small_network(**{**TINY, "depth": 4}, drop_path=0.3)
    keep = [getattr(block.drop_path1, "keep_prob", 1.0) for block in network.blocks]
    assert keep == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert keep == [getattr(block.drop_path2, "keep_prob", 1.0) for block in network.blocks]


def test_every_random_layer_has_a_stream_of_its_own():
    network = small_network(**{**TINY, "depth": 4}, drop=0.1, drop_path=0.3)
    streams = [cell.stream for _, cell in network.cells_and_names() if hasattr(cell, "stream")]
    assert len(streams) == 1 + 4 * 2 + 3 * 2  # embeddings, dropout of every block, drop path of all but the first
    assert len(set(streams)) == len(streams)


@pytest.mark.parametrize(
    ("library", "amp_level", "expected"), [(LIBRARY, "O0", "compiled"), (LIBRARY, "O2", "cpu"), (None, "O0", "cpu")]
)
def test_a_network_on_a_cpu_is_built_of_compiled_layers_where_they_can_be(library, amp_level, expected, monkeypatch):
    monkeypatch.setattr("src.encoder.kernel_library", lambda: library)
    network = variant_network("beit_micro_patch8_32", num_classes=3, amp_level=amp_level)
    assert network.layers is IMPLEMENTATIONS[expected if LIBRARY else "cpu"]
    assert type(network.blocks[0]) is network.layers.block
    assert type(network.fc_norm) is network.layers.layer_norm


@pytest.mark.parametrize("device", ["GPU", "Ascend"])
def test_a_network_on_another_device_is_built_of_the_stock_layers(device, monkeypatch):
    monkeypatch.setattr("src.vit.ms.get_context", {"device_target": device}.__getitem__)
    network = variant_network("beit_micro_patch8_32", num_classes=3)
    modules = {type(cell).__module__ for _, cell in network.cells_and_names()}
    assert not modules & {"src.layers.cpu", "src.layers.compiled"}
    assert type(network.blocks[0]) is STOCK.block


def recipe_network(**options) -> VisionTransformer:
    network = small_network(**TINY, **options)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weight(name, parameter.shape)))
    return network


def test_a_samples_logits_in_training_follow_its_key_and_not_its_place(each_mode, layers):
    network = recipe_network(layers=layers, drop=0.2, drop_path=0.5).set_train()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((6, 3, 16, 16)).astype(np.float32)
    key = rng.integers(-(2**31), 2**31, 6).astype(np.int32)
    order = np.array([4, 2, 0, 5, 1, 3])
    logits = network(Tensor(image), Tensor(key)).asnumpy()
    np.testing.assert_array_equal(network(Tensor(image), Tensor(key)).asnumpy(), logits)
    moved = network(Tensor(image[order]), Tensor(key[order])).asnumpy()
    np.testing.assert_allclose(moved, logits[order], atol=2e-6 * np.abs(logits).max())
    other = network(Tensor(image), Tensor(key + 1)).asnumpy()
    assert (np.abs(other - logits).max(1) > 1e-3).all()


def test_evaluation_ignores_drop_path_dropout_and_key(each_mode):
    image = Tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32))
    expected = recipe_network()(image).asnumpy()
    network = recipe_network(drop=0.5, drop_path=0.5).set_train(False)
    np.testing.assert_array_equal(network(image, Tensor(np.arange(2, dtype=np.int32))).asnumpy(), expected)


def test_a_dropped_sample_gives_the_dropped_branch_no_gradient():
    network = recipe_network(drop_path=0.5).set_train()
    image = Tensor(np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32))
    target = Tensor(np.eye(4, dtype=np.float32)[:1])
    seen = set()
    for key in range(12):
        _, _, gradients = loss_and_gradients(network, image, Tensor(np.array([key], np.int32)), target)
        by_name = {p.name: g.asnumpy() for p, g in zip(network.trainable_params(), gradients)}
        alive = tuple(bool(by_name[f"blocks.1.{name}"].any()) for name in ("attn.qkv.weight", "mlp.fc1.weight"))
        assert by_name["blocks.0.mlp.fc1.weight"].any()
        seen.add(alive)
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_training_with_drop_path_needs_a_key(each_mode):
    network = small_network(**TINY, drop_path=0.5).set_train()
    with pytest.raises(ValueError, match="training with drop_path > 0 needs `key`"):
        network(Tensor(np.zeros((2, 3, 16, 16), np.float32)))


def test_evaluation_and_training_without_drop_path_need_no_key():
    image = Tensor(np.zeros((2, 3, 16, 16), np.float32))
    assert small_network(**TINY, drop_path=0.5).set_train(False)(image).shape == (2, 4)
    assert small_network(**TINY).set_train()(image).shape == (2, 4)
