"""The recipe of pre-training: groups, schedules, 50 steps, MAE's loss; and files of the result for other libraries."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

import convert
from src.config import PretrainConfig
from src.data.assembly import describe_pretraining
from src.model.variants import VARIANTS, Variant
from src.runtime.distributed import Ranks
from src.tools.cell import weights_of
from src.tools.get_misc import build_train_step
from src.tools.masked_modeling import PixelRegression, TokenPrediction
from src.tools.optimizer import parameter_groups
from src.tools.schedulers import learning_rates, weight_decays
from src.tools.starting_point import load_weights
from src.trainer.train_one_step_with_scale_and_clip_global_norm import Schedules
from src.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from src.weights.foreign_writer import SUFFIXES
from tests.golden import pretraining_recipe as inputs
from tests.golden.mim_recipe import positions_and_weights
from tests.golden.network_recipe import weight
from tests.networks import small_network, small_pretraining_network
from tests.test_weights_names import read
from tests.weights_golden import assert_same

GOLDEN = np.load(Path(__file__).parent / "golden" / "pretraining_recipe.npz")
ARCH = "pretraining_golden"


@pytest.fixture(autouse=True, scope="module")
def _graph_mode():
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


class GivenTokens(nn.Cell):
    """A tokenizer whose images are the tokens."""

    vocab_size = 24

    def construct(self, token_image):
        return token_image


class GivenPrediction(nn.Cell):
    """A network whose prediction for every patch is a parameter [B, N, P]."""

    class PatchEmbed(nn.Cell):
        patch_size = 8

    def __init__(self, value: np.ndarray) -> None:
        super().__init__()
        self.patch_embed = self.PatchEmbed()
        self.value = Parameter(Tensor(value), name="value")

    def construct(self, image, mask, positions, key):
        indices = ops.broadcast_to(ops.expand_dims(positions, 2), (*positions.shape, self.value.shape[2]))
        return (ops.gather_elements(self.value, 1, indices),)


def recipe_network(version: str):
    """The network of the golden run with its first weights."""
    network = small_pretraining_network(**inputs.NETWORKS[version])
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(weight(parameter.name, parameter.shape)))
    return network.set_train()


def run_options(version: str) -> PretrainConfig:
    return PretrainConfig(
        target="pixels",  # no tokenizer file; the objective of the test has its own
        epochs=inputs.EPOCHS,
        base_lr=inputs.BASE_LR,
        min_lr=inputs.MIN_LR,
        warmup_length=5,
        warmup_steps=inputs.WARMUP_STEPS,
        warmup_lr=0.0,
        weight_decay=inputs.WEIGHT_DECAY,
        weight_decay_end=inputs.WEIGHT_DECAY_END,
        beta=inputs.BETA[version],
        eps=inputs.EPS,
        use_clip_grad_norm=True,
        clip_grad_norm=inputs.CLIP_GRAD_NORM,
    )


@pytest.mark.parametrize("version", inputs.NETWORKS)
def test_the_parameter_groups_are_the_authors(version):
    shapes = [(parameter.name, parameter.shape) for parameter in recipe_network(version).trainable_params()]
    groups = parameter_groups(shapes, layer_decay=PretrainConfig(target="pixels").layer_decay, depth=2)
    authors = dict(zip(GOLDEN[f"{version}/names"].tolist(), GOLDEN[f"{version}/groups"].tolist()))
    found = {name: group.decay_scale * inputs.WEIGHT_DECAY for name, group in groups.items()}
    assert found == authors
    assert {group.lr_scale for group in groups.values()} == {1.0}
    assert found["mask_token"] == found["rel_pos_bias.relative_position_bias_table"] == inputs.WEIGHT_DECAY
    assert found["cls_token"] == found["lm_head.bias"] == found["blocks.0.gamma_1"] == 0.0


@pytest.mark.parametrize("case", range(len(inputs.SCHEDULES)))
def test_learning_rate_and_weight_decay_are_the_authors(case):
    epochs, steps, warmup_epochs, warmup_steps, decay_end = inputs.SCHEDULES[case]
    config = PretrainConfig(
        target="pixels", epochs=epochs, warmup_length=warmup_epochs, warmup_steps=warmup_steps, warmup_lr=0.0,
        base_lr=1.5e-3, min_lr=1e-5, weight_decay=0.05, weight_decay_end=decay_end,
    )  # fmt: skip
    np.testing.assert_allclose(learning_rates(config, steps), GOLDEN[f"rates/{case}"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(weight_decays(config, steps), GOLDEN[f"decays/{case}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("version", inputs.NETWORKS)
def test_fifty_steps_have_the_authors_losses_and_end_at_their_weights(version):
    network, config = recipe_network(version), run_options(version)
    schedules = Schedules(learning_rates(config, inputs.STEPS_PER_EPOCH), weight_decays(config, inputs.STEPS_PER_EPOCH))
    objective = TokenPrediction(network, GivenTokens())
    step = build_train_step(config, network, objective, schedules, Ranks(), reports_norm=True)
    keys = Tensor(np.zeros(inputs.BATCH, np.int32))
    results = []
    for image, mask, tokens in zip(*inputs.batches(version)):
        positions, weights = positions_and_weights(mask, inputs.POSITIONS)
        arrays = (image, mask.astype(np.float32), positions, weights)
        results.append(step(*map(Tensor, arrays), keys, Tensor(tokens)))
    losses = np.array([values.asnumpy()[0] for values, _, _ in results])
    norms = np.array([values.asnumpy()[-1] for values, _, _ in results])
    assert not any(skipped.asnumpy() for _, skipped, _ in results)
    np.testing.assert_allclose(losses, GOLDEN[f"{version}/losses"], rtol=1e-4)
    np.testing.assert_allclose(norms, GOLDEN[f"{version}/norms"], rtol=1e-4)
    assert 5 < (norms > inputs.CLIP_GRAD_NORM).sum() < 45  # some steps are clipped and some are not
    expected = {key.split("/")[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"{version}/weight/")}
    assert {parameter.name for parameter in network.get_parameters()} == set(expected)
    for parameter in network.get_parameters():
        difference = np.abs(parameter.asnumpy() - expected[parameter.name]).max()
        # of the largest weight of the tensor, as in test_train_step.py
        assert difference <= 2e-5 * np.abs(expected[parameter.name]).max(), parameter.name


def test_the_loss_of_pixels_and_its_gradient_are_those_of_mae():
    images, predictions, masks = inputs.pixel_case()
    positions, weights = positions_and_weights(masks)
    network = GivenPrediction(predictions)
    objective = PixelRegression(network)
    arrays = (images, masks.astype(np.float32), positions, weights, np.zeros(len(images), np.int32))
    step = mindspore.value_and_grad(objective, None, network.trainable_params())
    loss, (gradient,) = step(*map(Tensor, arrays))
    assert float(loss.asnumpy()[0]) == pytest.approx(float(GOLDEN["mae/loss"]), rel=1e-6)
    expected = GOLDEN["mae/gradient"]
    # float32 rounds the pixels of the almost uniform patch at 1e-4 of its deviation
    assert np.abs(gradient.asnumpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    assert not gradient.asnumpy()[~masks].any()


# ---- from the result to fine-tuning ----


@pytest.fixture
def pretrained(request, tmp_path, monkeypatch) -> Path:
    """A checkpoint as a run of pretrain.py writes it, of the network `request.param`."""
    options = inputs.NETWORKS[request.param]
    monkeypatch.setitem(VARIANTS, ARCH, Variant(32, 8, options["embed_dim"], options["depth"], options["num_heads"]))
    layers = {name: options.get(name, 0) for name in ("early_layers", "head_layers")}
    config = PretrainConfig(target="pixels", arch=ARCH, image_size=32, disable_approximate_gelu=True, **layers)
    info = describe_pretraining(config, options["lm_head_outputs"])
    path = tmp_path / f"{request.param}.ckpt"
    save_checkpoint(path, Checkpoint(weights_of(recipe_network(request.param)), info))
    return path


both_versions = pytest.mark.parametrize("pretrained", inputs.NETWORKS, indirect=True)


@both_versions
def test_fine_tuning_takes_a_pretrained_checkpoint(pretrained):
    options = {name: inputs.NETWORKS["v1"][name] for name in ("image_size", "patch_size", "embed_dim", "num_heads")}
    network = small_network(**options, depth=2, num_classes=5)
    before, source = weights_of(network), weights_of(recipe_network(pretrained.stem))
    load_weights(network, pretrained, approximate_gelu=False)
    after = weights_of(network)
    table = source["rel_pos_bias.relative_position_bias_table"]
    for name, value in after.items():
        expected = table if name.endswith("relative_position_bias_table") else source.get(name, before[name])
        np.testing.assert_array_equal(value, expected, err_msg=name)
    # the norm and the head of a classifier that averages the patch tokens are new
    assert set(after) - set(source) == {
        "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias",
        *(f"blocks.{block}.attn.relative_position_bias_table" for block in range(2)),
    }  # fmt: skip


@both_versions
@pytest.mark.parametrize("target", SUFFIXES)
def test_a_converted_file_has_the_state_dict_that_strict_loading_requires(pretrained, target, tmp_path):
    """`make_pretraining_recipe.py --check` loads such files into the networks of the libraries."""
    path, version = tmp_path / f"{target}_{pretrained.stem}{SUFFIXES[target]}", pretrained.stem
    convert.main(["--input", str(pretrained), "--arch", ARCH, "--output", str(path), "--to", target])
    found = {name: list(array.shape) for name, array in read(path).items()}
    assert found == json.loads(str(GOLDEN[f"shapes/{target}/{version}"]))


@both_versions
def test_conversion_to_the_authors_format_and_back_keeps_every_weight(pretrained, tmp_path):
    there, back = tmp_path / "a.pth", tmp_path / "b.ckpt"
    convert.main(["--input", str(pretrained), "--arch", ARCH, "--output", str(there), "--to", "unilm"])
    convert.main(["--input", str(there), "--arch", ARCH, "--output", str(back)])
    assert_same(load_checkpoint(back).weights, load_checkpoint(pretrained).weights)
