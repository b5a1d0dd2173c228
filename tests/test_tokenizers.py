"""The image tokenizers against the authors' code, read from files as they are published."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import UserError
from src.tokenizers.dalle import DalleDecoder, DalleSizes
from src.tokenizers.dvae import DiscreteVAE, DvaeSizes, scaled
from src.tokenizers.load import build_tokenizer
from src.tokenizers.tokenizer_file import DALLE, DVAE, VQKD, read_tokenizer_file
from src.tools.tokenizer_modeling import Reconstruction, gumbel
from tests.golden import tokenizer_recipe as recipe
from tests.tokenizer_files import vqkd_weights, write_dalle, write_state_dict

GOLDEN = np.load(Path(__file__).parent / "golden" / "tokenizers.npz")
DVAE_SIZES = DvaeSizes(*(recipe.DVAE[name] for name in ("num_tokens", "codebook_dim", "num_layers", "hidden_dim")))


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def dvae_weights() -> dict[str, np.ndarray]:
    network = DiscreteVAE(DVAE_SIZES, recipe.DVAE["image_size"])
    return {name: recipe.weight(name, parameter.shape) for name, parameter in network.parameters_and_names()}


def small_dvae() -> DiscreteVAE:
    network = DiscreteVAE(DVAE_SIZES, recipe.DVAE["image_size"])
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(recipe.weight(name, parameter.shape)))
    return network


def test_dalle_gives_the_authors_tokens_from_a_pickled_module(tmp_path):
    file = read_tokenizer_file(write_dalle(tmp_path / "encoder.pkl"))
    tokenizer = build_tokenizer(file, 14)
    assert (file.kind, tokenizer.vocab_size, tokenizer.image_size) == (DALLE, 512, 112)
    images = recipe.pixels(112, recipe.IMAGES["small"])
    tokens = tokenizer(Tensor(images)).asnumpy()
    np.testing.assert_array_equal(tokens, GOLDEN["dalle/small"].reshape(len(images), -1))
    logits = tokenizer.logits(Tensor(images[:2].astype(np.float32) / 255)).asnumpy()[:, :, ::4, ::4]
    assert np.abs(logits - GOLDEN["dalle/logits"]).max() <= 1e-5 * np.abs(logits).max()
    assert not tokenizer.trainable_params()
    assert all(parameter.name.startswith("tokenizer.blocks.") for parameter in tokenizer.get_parameters())


def test_the_decoder_of_dalle_gives_the_authors_images():
    decoder = DalleDecoder(DalleSizes(512, 64, 1, 16))
    for name, parameter in decoder.parameters_and_names():
        parameter.set_data(Tensor(recipe.weight(name, parameter.shape)))
    tokens = GOLDEN["dalle/small"][:1, ::7, ::7].astype(np.int32).reshape(1, -1)
    np.testing.assert_allclose(decoder(Tensor(tokens)).asnumpy(), GOLDEN["dalle/decoded"], atol=1e-5)


def test_vqkd_gives_the_authors_tokens_from_their_state_dict(tmp_path):
    weights = vqkd_weights(GOLDEN) | {"teacher_model.w": np.ones(3, np.float32)}
    file = read_tokenizer_file(write_state_dict(tmp_path / "vqkd.pth", weights))
    tokenizer = build_tokenizer(file, 4)
    assert (file.kind, tokenizer.vocab_size, tokenizer.image_size) == (VQKD, 64, 32)
    images = recipe.pixels(32, recipe.IMAGES["small"])
    np.testing.assert_array_equal(tokenizer(Tensor(images)).asnumpy(), GOLDEN["vqkd/small"])


def test_a_dvae_gives_the_authors_tokens_and_images(tmp_path):
    file = read_tokenizer_file(write_state_dict(tmp_path / "dvae.pth", dvae_weights()))
    tokenizer = build_tokenizer(file, 4)
    assert (file.kind, tokenizer.vocab_size, tokenizer.image_size) == (DVAE, 24, 16)
    tokens = tokenizer(Tensor(recipe.pixels(16, 3)))
    np.testing.assert_array_equal(tokens.asnumpy(), GOLDEN["dvae/tokens"].reshape(3, -1))
    decoded = tokenizer.decode(tokens).asnumpy()
    np.testing.assert_allclose(decoded, GOLDEN["dvae/decoded"], atol=1e-5 * np.abs(decoded).max())


@pytest.mark.parametrize("case", recipe.DVAE_CASES)
def test_loss_and_gradients_of_a_dvae_are_the_authors(case):
    """Tolerances: 1e-5 of loss and error, 1e-4 of each parameter's largest gradient."""
    options, network = recipe.DVAE_CASES[case], small_dvae()
    objective = Reconstruction(
        network,
        options["kl_div_loss_weight"],
        straight_through=options.get("straight_through", False),
        smooth_l1=options.get("smooth_l1_loss", False),
    )
    noise, temperature = Tensor(recipe.gumbel_noise((3, 24, 4, 4))), Tensor(np.float32(options["temperature"]))

    def loss(token_image: Tensor) -> Tensor:
        image = scaled(token_image)
        error, divergence = objective.terms(image, network.encoder(image), noise, temperature)
        return error + options["kl_div_loss_weight"] * divergence

    step = ms.value_and_grad(loss, None, network.trainable_params())
    value, gradients = step(Tensor(recipe.pixels(16, 3)))
    assert float(value) == pytest.approx(float(GOLDEN[f"dvae/{case}/loss"]), rel=1e-5)
    for parameter, gradient in zip(network.trainable_params(), gradients):
        expected = GOLDEN[f"dvae/{case}/grad/{parameter.name}"]
        assert np.abs(gradient.asnumpy() - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-9, parameter.name


def test_a_dvae_starts_with_pytorchs_distributions():
    network = DiscreteVAE(DvaeSizes(512, 128, 2, 64), 16, seed=1)
    for name, parameter in network.parameters_and_names():
        mean, deviation, largest = GOLDEN[f"dvae/init/{name}"]
        value = parameter.asnumpy().astype(np.float64)
        slack = 5 * deviation * np.sqrt(2 / value.size)
        assert value.mean() == pytest.approx(mean, abs=slack), name
        assert value.std() == pytest.approx(deviation, abs=slack), name
        if value.size > 30:
            assert np.abs(value).max() == pytest.approx(largest, rel=0.2), name


def test_gumbel_noise_has_its_distribution_and_follows_from_the_key():
    noise = gumbel(Tensor(np.arange(4, dtype=np.int32)), (4, 50, 10, 10)).asnumpy()
    assert noise.mean() == pytest.approx(0.5772, abs=0.03)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.05)
    other = gumbel(Tensor(np.array([2], np.int32)), (1, 50, 10, 10)).asnumpy()
    np.testing.assert_array_equal(other[0], noise[2])


def test_the_objective_of_a_dvae_counts_the_tokens_in_use():
    objective = Reconstruction(small_dvae(), 0.0)
    images = recipe.pixels(16, 3)
    key, temperature = Tensor(np.arange(3, dtype=np.int32)), Tensor(np.full(3, 0.9, np.float32))
    values = objective(Tensor(images), key, temperature).asnumpy()
    assert values.shape == (2,)
    assert values[0] == values[1]
    used = set(np.flatnonzero(objective.codes_used.asnumpy()).tolist())
    assert used == set(GOLDEN["dvae/tokens"].ravel().tolist())


DECODER = {name: np.ones(shape, np.float32) for name, shape in (
    ("blocks.input.w", (4, 64, 1, 1)), ("blocks.output.conv.w", (6, 4, 1, 1))
)}  # fmt: skip


def narrow(shape: tuple[int, ...]) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("dvae", {"encoder.0.0.weight": narrow((10**6, 1, 1, 1))}, "encoder.1.net.0.weight"),
        ("dvae", {"codebook.weight": narrow((10**6, 1))}, "encoder.4.weight"),
        ("vqkd", {"encoder.pos_embed": narrow((1, 17, 64 * 10**4))}, "encoder.patch_embed.proj.weight"),
        ("vqkd", {f"encoder.blocks.{n}.norm1.bias": narrow((1,)) for n in range(2, 5000)}, "encoder.blocks.2.attn"),
        ("vqkd", {"encoder.pos_embed": narrow((1, 17, 100))}, "100"),
        ("dalle", {"blocks.input.w": narrow((10**6, 3, 1, 1))}, "blocks.group_1.block_1.res_path.conv_2.w"),
    ],
    ids=["wide", "tokens", "vectors", "deep", "heads", "channels"],
)
def test_a_small_file_cannot_ask_for_a_large_network(tmp_path, kind, changes, named, monkeypatch):
    """A network of these sizes would take gigabytes to petabytes."""
    path = tmp_path / "file.pth"
    if kind == "dalle":
        weights = dict(read_tokenizer_file(write_dalle(tmp_path / "encoder.pkl")).weights)
    else:
        weights = vqkd_weights(GOLDEN) if kind == "vqkd" else dvae_weights()
    for network in ("DalleEncoder", "DiscreteVAE", "VQKD"):
        monkeypatch.setattr(f"src.tokenizers.load.{network}", None)  # must not be built
    with pytest.raises(UserError) as error:
        build_tokenizer(read_tokenizer_file(write_state_dict(path, weights | changes)), 4)
    assert all(part in str(error.value) for part in (str(path), named)), error.value


def broken(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {other: array for other, array in weights.items() if other != name}


@pytest.mark.parametrize(
    ("content", "grid", "named"),
    [
        (b"text", 14, ("does not hold weights", "encoder.pkl")),
        ({"cls_token": np.ones((1, 1, 4), np.float32)}, 14, ("known tokenizer", "encoder.pkl")),
        ({"patch_embed.proj.weight": np.ones((4, 3, 4, 4), np.float32)}, 14, ("a BEiT network",)),
        ("vqkd", 14, ("4 x 4 tokens", "14 x 14 patches", "image_size")),
        ("vqkd encoder.pos_embed", 4, ("encoder.pos_embed", "VQ-KD")),
        ("dvae decoder.0.0.weight", 4, ("decoder.0.0.weight", "dVAE")),
        (DECODER, 14, ("decoder", "encoder.pkl")),
    ],
    ids=["text", "other", "beit", "grid", "vqkd", "dvae", "decoder"],
)  # fmt: skip
def test_a_file_that_is_no_fitting_tokenizer_gives_one_line(tmp_path, content, grid, named):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        kind, _, missing = content.partition(" ")
        weights = vqkd_weights(GOLDEN) if kind == "vqkd" else dvae_weights()
        write_state_dict(path, broken(weights, missing))
    else:
        write_state_dict(path, content)
    with pytest.raises(UserError) as error:
        build_tokenizer(read_tokenizer_file(path), grid)
    assert all(part in str(error.value) for part in (str(path), *named)), error.value
    assert "\n" not in str(error.value)
