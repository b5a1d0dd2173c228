"""Published checkpoints of every kind give the logits of their own libraries."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, IMAGENET_INCEPTION_MEAN_STD
from src.weights.network_parameters import parameter_shapes, set_weights
from src.weights.pretrained import load_pretrained
from src.weights.safetensors_file import write_safetensors
from src.weights.sizes import Sizes, find_model, grid_of_table, measure, network_shapes, table_rows
from src.weights.unilm_file import write_unilm_file
from tests.weights_golden import (
    ANY_ARCH,
    FOLDER,
    GOLDEN,
    assert_same,
    get_weights,
    load,
    make_network,
    measured,
    random_weights,
    refuses,
    small_weights,
)

# Of the largest logit: float32 rounds at 1e-7, and the measured differences are below 5e-7.
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def pynative():
    """Each file has another network, whose compilation would take longer than its run."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize(
    ("name", "format", "logits"),
    [
        ("unilm_base.pth", "unilm", "unilm_base.pth"),
        ("unilm_384.pth", "unilm", "unilm_384.pth"),
        ("unilm_large.pth", "unilm", "unilm_large.pth"),
        ("unilm_abs_pos.pth", "timm", "unilm_abs_pos.pth"),  # without tables the two formats are the same
        ("beitv2_training.pth", "unilm", "beitv2_training.pth"),
        ("timm_base.safetensors", "timm", "timm_base.safetensors"),
        ("timm_384.pth", "timm", "timm_384.pth"),
        ("timm_large.safetensors", "timm", "timm_large.safetensors"),
        ("timm_v2.pth", "timm", "timm_v2.pth"),
        ("timm_token.safetensors", "timm", "timm_token.safetensors"),
        ("timm_float16.pth", "timm", "timm_float16"),
        ("timm_float16.safetensors", "timm", "timm_float16"),
        ("timm_bfloat16.pth", "timm", "timm_bfloat16"),
        ("timm_bfloat16.safetensors", "timm", "timm_bfloat16"),
        ("hf_base.safetensors", "hf", "hf_base.safetensors"),
        ("hf_384.bin", "hf", "hf_384.bin"),
        ("hf_large.safetensors", "hf", "hf_large.safetensors"),
        ("hf_v2.safetensors", "hf", "hf_v2.safetensors"),
        ("hf_token.bin", "hf", "hf_token.bin"),
    ],
)
def test_a_published_file_gives_the_logits_of_its_library(monkeypatch, name, format, logits):
    checkpoint = load(monkeypatch, name)
    assert checkpoint.format == format
    assert_logits(checkpoint, GOLDEN[f"logits/{logits}"])


@pytest.mark.parametrize("name", ["beitv2_training.pth", "timm_384.pth"])
def test_averaged_weights_give_their_logits(monkeypatch, name):
    checkpoint = load(monkeypatch, name, ema=True)
    assert_logits(checkpoint, GOLDEN[f"logits/{name}/ema"])


def assert_logits(checkpoint, wanted: np.ndarray) -> None:
    sizes = measured(checkpoint.weights)
    network = make_network(sizes, num_classes=sizes.model.num_classes, grid=sizes.grid)
    weights = {name: checkpoint.weights[name] for name in parameter_shapes(network)}
    set_weights(network, weights)
    assert_same(get_weights(network), weights)
    image = GOLDEN[f"images/{checkpoint.info.model.image_size}"]
    found = network(ms.Tensor(image)).asnumpy()
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


# ---- information in a file ----


def test_the_options_are_derived_from_the_weights(monkeypatch):
    info = load(monkeypatch, "hf_token.bin").info
    assert (info.model.image_size, info.model.num_classes, info.model.approximate_gelu) == (48, 10, False)
    assert (info.model.rel_pos_bias, info.model.shared_rel_pos_bias, info.model.abs_pos_emb) == (False, True, True)
    assert (info.model.layer_scale, info.model.mean_pooling) == (True, False)
    info = load(monkeypatch, "unilm_abs_pos.pth").info
    assert (info.model.rel_pos_bias, info.model.abs_pos_emb, info.model.layer_scale) == (False, True, False)
    info = load(monkeypatch, "unilm_pt22k.pth").info
    assert (info.model.num_classes, info.model.shared_rel_pos_bias, info.model.rel_pos_bias) == (0, True, False)


def test_the_arguments_of_the_authors_script_are_read_from_their_file(monkeypatch):
    checkpoint = load(monkeypatch, "beitv2_training.pth")
    assert (checkpoint.info.mean, checkpoint.info.std) == IMAGENET_DEFAULT_MEAN_STD
    assert checkpoint.info.crop_pct == 0.875
    assert checkpoint.guessed == {"approximate_gelu", "class_names", "interpolation", "crop_mode"}


@pytest.mark.parametrize(
    ("name", "mean_std"),
    [
        ("beit_base_patch16_224_pt22k_ft22kto1k.pth", IMAGENET_INCEPTION_MEAN_STD),
        ("beitv2_base_patch16_224_pt1k_ft21kto1k.pth", IMAGENET_DEFAULT_MEAN_STD),
        ("beit_base_patch16_224_pt1k_800ep.pth", IMAGENET_DEFAULT_MEAN_STD),
    ],
)
def test_the_authors_file_names_determine_mean_and_std(monkeypatch, tmp_path, name, mean_std):
    shutil.copy(FOLDER / "unilm_base.pth", tmp_path / name)
    checkpoint = load(monkeypatch, tmp_path / name)
    assert (checkpoint.info.mean, checkpoint.info.std) == mean_std
    assert {"mean", "std", "crop_pct"} <= checkpoint.guessed


def test_the_whole_image_is_evaluated_from_384_pixels_on(tmp_path):
    for grid, crop_pct in ((14, 0.9), (24, 1.0)):
        weights = random_weights(patch_size=16, embed_dim=8, depth=1, num_heads=2, grid=grid)
        write_weights(tmp_path / "a.safetensors", weights)
        with refuses("a.safetensors", "patch 16", "width 8", "depth 1"):
            load_pretrained(tmp_path / "a.safetensors")
        assert measured(weights).grid == grid
        with pytest.MonkeyPatch.context() as patch:
            info = load(patch, tmp_path / "a.safetensors").info
        assert (info.model.image_size, info.crop_pct) == (16 * grid, crop_pct)


def write_weights(path: Path, weights: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        if path.suffix == ".safetensors":
            write_safetensors(file, weights, {})
        else:
            write_unilm_file(file, weights)


def test_configuration_beside_a_file_of_timm_is_read(monkeypatch, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(FOLDER / "timm_base.safetensors", path)
    names = [f"class {label}" for label in range(10)]
    config = {"architecture": "beitv2_large", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1],
              "crop_pct": 0.95, "label_names": names}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = load(monkeypatch, path)
    assert (checkpoint.info.mean, checkpoint.info.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert (checkpoint.info.crop_pct, checkpoint.info.class_names) == (0.95, tuple(names))
    assert checkpoint.guessed == {"approximate_gelu", "interpolation", "crop_mode"}
    (tmp_path / "config.json").write_text("{")
    with refuses("config.json"):
        load(monkeypatch, path)
    config["pretrained_cfg"]["label_names"] = names[:-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with refuses("config.json", 9, 10):
        load(monkeypatch, path)
    shutil.move(path, tmp_path / "mine.safetensors")  # the config.json beside another name may belong to another file
    assert load(monkeypatch, tmp_path / "mine.safetensors").info.mean == IMAGENET_INCEPTION_MEAN_STD[0]


def test_configuration_beside_a_file_of_transformers_is_read(monkeypatch, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    shutil.copy(FOLDER / "hf_token.bin", path)
    labels = {str(label): f"class {label}" for label in range(10)}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "beit", "hidden_act": "gelu", "id2label": labels}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    checkpoint = load(monkeypatch, path)
    assert (checkpoint.info.std, checkpoint.info.class_names[9]) == ((0.25, 0.25, 0.25), "class 9")
    assert checkpoint.guessed == {"crop_pct", "crop_mode"}
    labels = {str(label): f"LABEL_{label}" for label in range(10)}
    config = {"model_type": "beit", "hidden_act": "gelu_new", "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = load(monkeypatch, path)
    assert (checkpoint.info.class_names, checkpoint.info.model.approximate_gelu) == ((), True)


# ---- architectures ----


def test_the_arch_is_found_by_sizes_and_compared_with_the_given_one(tmp_path):
    path = tmp_path / "a.pth"
    write_weights(path, random_weights())
    assert load_pretrained(path).info.model.arch == ANY_ARCH
    assert load_pretrained(path, arch=ANY_ARCH).info.model.image_size == 32
    with refuses("a.pth", "patch size", 4, 16, "beit_base_patch16_224"):
        load_pretrained(path, arch="beit_base_patch16_224")
    with refuses("'beit'", "beit_base_patch16_224"):
        load_pretrained(path, arch="beit")


def base_sizes(grid: int = 14, **changes: int) -> Sizes:
    """Return the sizes of BEiT-base with `grid` x `grid` patches."""
    sizes = Sizes(16, 768, 12, 3072, 12, grid, measured(small_weights()).model)
    model = replace(sizes.model, image_size=16 * grid, num_classes=1000)
    return replace(sizes, model=model, **changes)


def test_the_image_size_decides_between_two_archs_of_the_same_sizes():
    for grid, arch in ((14, "beit_base_patch16_224"), (24, "beit_base_patch16_384"), (16, "beit_base_patch16_224")):
        for given in (None, arch):
            model = find_model(base_sizes(grid), given, Path("a"))
            assert (model.arch, model.image_size) == (arch, 16 * grid)
    with refuses(384, 224, "--arch beit_base_patch16_384"):
        find_model(base_sizes(24), "beit_base_patch16_224", Path("a"))
    for wrong in ({"depth": 24}, {"embed_dim": 1024}, {"num_heads": 16}, {"mlp_dim": 2048}):
        (value,) = wrong.values()
        with refuses("a", value, "beit_base_patch16_224"):
            find_model(base_sizes(**wrong), "beit_base_patch16_224", Path("a"))


def test_base_has_the_number_of_parameters_of_the_authors():
    assert sum(int(np.prod(shape)) for shape in network_shapes(base_sizes()).values()) == 86_530_984


def test_the_rows_of_a_table_are_the_offsets_of_its_grid():
    assert [table_rows(grid) for grid in (1, 2, 14, 24)] == [4, 12, 732, 2212]
    assert [grid_of_table(rows) for rows in (4, 12, 732, 2212)] == [1, 2, 14, 24]
    assert [grid_of_table(rows) for rows in (0, 3, 5, 7, 11, 731, 733)] == [0] * 7


# ---- invalid contents ----


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls_token": None}, ["'cls_token'"]),
        ({"blocks.1.attn.v_bias": None}, ["'blocks.1.attn.v_bias'"]),
        ({"blocks.0.gamma_2": None}, ["'blocks.0.gamma_2'"]),
        ({"head.bias": None}, ["'head.bias'"]),
        ({"blocks.3.norm1.weight": (8,)}, ["'blocks.3.norm1.weight'"]),
        ({"blocks.1.norm1.weight": (9,)}, ["'blocks.1.norm1.weight'", "(9,)", "(8,)"]),
        ({"head.weight": (24,)}, ["'head."]),
        ({"cls_token": (8,)}, ["'cls_token'", "(8,)", 3]),
        ({"pos_embed": (1, 9, 8)}, ["'pos_embed'", "(1, 9, 8)", "(1, 10, 8)"]),
        ({"blocks.0.attn.relative_position_bias_table": (27, 2)}, ["relative_position_bias_table'", "(27, 2)"]),
        ({"blocks.0.attn.qkv.bias": (24,)}, ["'blocks.0.attn.qkv.bias'"]),
        ({"blocks.0.mlp.w12.weight": (3, 8)}, ["'blocks.0.mlp.w12.weight'"]),
    ],
)
def test_an_invalid_parameter_is_named(tmp_path, change, words, suffix):
    weights = small_weights()
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape, np.float32)
    path = tmp_path / f"a{suffix}"
    write_weights(path, weights)
    with refuses(path, *words):
        load_pretrained(path)


def test_the_weights_of_another_network_are_refused(tmp_path):
    resnet = {"conv1.weight": np.zeros((2, 3, 7, 7), np.float32), "fc.bias": np.zeros(2, np.float32)}
    write_weights(tmp_path / "a.pth", resnet)
    with refuses("a.pth", "'cls_token'", "BEiT"):
        load_pretrained(tmp_path / "a.pth")
    segmenter = {
        "beit.embeddings.cls_token": np.zeros((1, 1, 8), np.float32),
        "decode_head.classifier.weight": np.zeros((2, 8), np.float32),
    }
    write_weights(tmp_path / "b.safetensors", segmenter)
    with refuses("b.safetensors", "'decode_head.classifier.weight'"):
        load_pretrained(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    with refuses("c.safetensors", "no parameters"):
        load_pretrained(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ["Git LFS", "git lfs pull"]),
        (b"<!DOCTYPE html><html>", ["web page"]),
        (b"GIF89a" + bytes(100), ["MindSpore", "safetensors", "PyTorch"]),
        (b"PK\x03\x04" + bytes(100), ["damaged"]),
    ],
)
def test_files_without_weights_are_refused(tmp_path, content, words):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with refuses(path, *words):
        load_pretrained(path)


def test_nan_and_integers_in_a_published_file_are_refused_by_name(tmp_path):
    weights = small_weights()
    weights["head.weight"][1, 2] = np.nan
    write_weights(tmp_path / "a.safetensors", weights)
    with refuses("a.safetensors", "'head.weight'", "NaN"):
        load_pretrained(tmp_path / "a.safetensors")
    write_weights(tmp_path / "b.safetensors", small_weights() | {"head.bias": np.zeros(3, np.int32)})
    with refuses("b.safetensors", "'head.bias'", "int32"):
        load_pretrained(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "flags",
    [{}, {"shared_rel_pos_bias": True, "rel_pos_bias": False}, {"abs_pos_emb": True, "layer_scale": False}],
)
def test_measure_returns_the_sizes_and_options_of_the_weights(flags):
    weights = small_weights(**flags)
    sizes = measure(weights, Path("a"))
    assert (sizes.patch_size, sizes.embed_dim, sizes.depth, sizes.num_heads, sizes.grid) == (2, 8, 2, 2, 3)
    assert all(getattr(sizes.model, name) == value for name, value in flags.items())
    assert network_shapes(sizes) == {name: array.shape for name, array in weights.items()}
