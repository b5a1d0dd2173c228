"""Published checkpoints of every kind give the logits that their own libraries give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src.errors import UserError
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, IMAGENET_INCEPTION_MEAN_STD
from src.weights.fit import match_weights
from src.weights.network_parameters import get_weights, parameter_shapes, set_weights
from src.weights.pretrained import load_pretrained
from src.weights.safetensors_file import write_safetensors
from src.weights.sizes import find_arch, grid_of_table, measure, network_shapes, table_rows
from src.weights.torch_file import write_torch_file
from tests.weights_golden import (
    ANY_ARCH,
    FOLDER,
    GOLDEN,
    load,
    make_network,
    measured,
    random_weights,
    small_weights,
)

# of the largest logit; float32 rounds at 1e-7, and the readings are below 5e-7
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def pynative():
    """Each file is another network: compiling it would take longer than running it."""
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
def test_a_published_file_gives_its_own_librarys_logits(monkeypatch, name, format, logits):
    checkpoint = load(monkeypatch, name)
    assert checkpoint.format == format
    assert_logits(checkpoint, GOLDEN[f"logits/{logits}"])


@pytest.mark.parametrize("name", ["beitv2_training.pth", "timm_384.pth"])
def test_averaged_weights_give_their_own_logits(monkeypatch, name):
    checkpoint = load(monkeypatch, name, ema=True)
    assert_logits(checkpoint, GOLDEN[f"logits/{name}/ema"])


def assert_logits(checkpoint, wanted: np.ndarray) -> None:
    sizes = measured(checkpoint.weights)
    network = make_network(sizes, num_classes=sizes.num_classes, grid=sizes.grid)
    matched = match_weights(checkpoint.weights, parameter_shapes(network), "file")
    set_weights(network, matched)
    for name, value in get_weights(network).items():
        np.testing.assert_array_equal(value, matched[name], err_msg=name)
    image = GOLDEN[f"images/{checkpoint.info.model.image_size}"]
    found = network(ms.Tensor(image)).asnumpy()
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


# ---- what a file says of itself ----


def test_the_information_is_read_off_the_weights(monkeypatch):
    info = load(monkeypatch, "hf_token.bin").info
    assert (info.model.image_size, info.model.num_classes, info.model.approximate_gelu) == (48, 10, False)
    assert (info.model.rel_pos_bias, info.model.shared_rel_pos_bias, info.model.abs_pos_emb) == (False, True, True)
    assert (info.model.layer_scale, info.model.mean_pooling) == (True, False)
    info = load(monkeypatch, "unilm_abs_pos.pth").info
    assert (info.model.rel_pos_bias, info.model.abs_pos_emb, info.model.layer_scale) == (False, True, False)
    info = load(monkeypatch, "unilm_pt22k.pth").info
    assert (info.model.num_classes, info.model.shared_rel_pos_bias, info.model.rel_pos_bias) == (0, True, False)


def test_what_the_authors_script_was_told_is_read_from_their_file(monkeypatch):
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
def test_the_authors_file_names_say_how_images_were_normalized(monkeypatch, tmp_path, name, mean_std):
    shutil.copy(FOLDER / "unilm_base.pth", tmp_path / name)
    checkpoint = load(monkeypatch, tmp_path / name)
    assert (checkpoint.info.mean, checkpoint.info.std) == mean_std
    assert {"mean", "std", "crop_pct"} <= checkpoint.guessed


def test_the_whole_image_is_evaluated_from_384_pixels_on(tmp_path):
    for grid, crop_pct in ((14, 0.9), (24, 1.0)):
        weights = random_weights(patch_size=16, embed_dim=8, depth=1, num_heads=2, grid=grid)
        write_weights(tmp_path / "a.safetensors", weights)
        with pytest.raises(UserError, match="of a size that no arch has"):
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
            write_torch_file(file, weights, None)


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
    with pytest.raises(UserError, match=r"config\.json cannot be read .*: mend it or move the weights"):
        load(monkeypatch, path)
    config["pretrained_cfg"]["label_names"] = names[:-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json beside it names 9 classes, the head has 10"):
        load(monkeypatch, path)
    shutil.move(path, tmp_path / "mine.safetensors")  # a config.json beside any other name may be anybody's
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


def test_the_arch_is_found_by_sizes_and_checked_against_what_the_user_says(tmp_path):
    path = tmp_path / "a.pth"
    write_weights(path, random_weights())
    assert load_pretrained(path).info.model.arch == ANY_ARCH
    assert load_pretrained(path, arch=ANY_ARCH).info.model.image_size == 32
    with pytest.raises(UserError, match=r"a\.pth has a patch size of 4, arch beit_base_patch16_224 16: give the arch"):
        load_pretrained(path, arch="beit_base_patch16_224")
    with pytest.raises(UserError, match="arch 'beit' is unknown: choose one of"):
        load_pretrained(path, arch="beit")


def sizes_of(arch_weights: dict, **changes):
    from dataclasses import replace

    return replace(measured(arch_weights), **changes)


def test_of_two_archs_of_the_same_sizes_the_image_size_decides():
    base = {"patch_size": 16, "embed_dim": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12}
    sizes = sizes_of(small_weights(), **base)
    for grid, arch in ((14, "beit_base_patch16_224"), (24, "beit_base_patch16_384"), (16, "beit_base_patch16_224")):
        assert find_arch(sizes_of(small_weights(), **base, grid=grid), None, Path("a")) == arch
        assert find_arch(sizes_of(small_weights(), **base, grid=grid), arch, Path("a")) == arch
    with pytest.raises(
        UserError, match="for images of 384 pixels, arch beit_base_patch16_224 for 224: use --arch beit_ba"
    ):
        find_arch(sizes_of(small_weights(), **base, grid=24), "beit_base_patch16_224", Path("a"))
    for wrong in ({"depth": 24}, {"embed_dim": 1024}, {"num_heads": 16}, {"mlp_dim": 2048}):
        with pytest.raises(UserError, match=r"a has .*, arch beit_base_patch16_224 .*: give the arch of the file"):
            find_arch(sizes_of(small_weights(), **{**base, **wrong}), "beit_base_patch16_224", Path("a"))
    assert sizes.depth == 12


def test_base_has_as_many_parameters_as_the_authors():
    shapes = network_shapes(
        sizes_of(
            small_weights(),
            patch_size=16,
            embed_dim=768,
            depth=12,
            mlp_dim=3072,
            num_heads=12,
            grid=14,
            num_classes=1000,
        )
    )
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 86_530_984


def test_the_rows_of_a_table_are_the_offsets_of_its_grid():
    assert [table_rows(grid) for grid in (1, 2, 14, 24)] == [4, 12, 732, 2212]
    assert [grid_of_table(rows) for rows in (4, 12, 732, 2212)] == [1, 2, 14, 24]
    assert [grid_of_table(rows) for rows in (0, 3, 5, 7, 11, 731, 733)] == [0] * 7


# ---- wrong contents ----


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"cls_token": None}, "parameter 'cls_token' is missing: give a whole BEiT checkpoint"),
        ({"blocks.1.attn.v_bias": None}, r"parameter 'blocks\.1\.attn\.v_bias' is missing"),
        ({"blocks.0.gamma_2": None}, r"parameter 'blocks\.0\.gamma_2' is missing"),
        ({"head.bias": None}, r"parameter 'head\.bias' is missing"),
        ({"blocks.3.norm1.weight": (8,)}, r"parameter 'blocks\.3\.norm1\.weight' does not fit the others"),
        ({"blocks.1.norm1.weight": (9,)}, r"'blocks\.1\.norm1\.weight' has shape \(9,\), the others ask for \(8,\)"),
        ({"head.weight": (24,)}, r"parameter 'head\.weight' does not fit the others"),
        ({"cls_token": (8,)}, r"'cls_token' has shape \(8,\), the others ask for 3 dimensions"),
        ({"pos_embed": (1, 9, 8)}, r"'pos_embed' has shape \(1, 9, 8\), the others ask for \(1, 10, 8\)"),
        ({"blocks.0.attn.relative_position_bias_table": (27, 2)}, r"has shape \(27, 2\), the others ask for .* 3 rows"),
        ({"blocks.0.attn.qkv.bias": (24,)}, r"parameter 'blocks\.0\.attn\.qkv\.bias' is unknown to BEiT"),
        ({"blocks.0.mlp.w12.weight": (3, 8)}, r"parameter 'blocks\.0\.mlp\.w12\.weight' is unknown to BEiT"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(tmp_path, change, text, suffix):
    weights = small_weights()
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape, np.float32)
    path = tmp_path / f"a{suffix}"
    write_weights(path, weights)
    with pytest.raises(UserError, match=text) as raised:
        load_pretrained(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_another_network_is_no_beit(tmp_path):
    resnet = {"conv1.weight": np.zeros((2, 3, 7, 7), np.float32), "fc.bias": np.zeros(2, np.float32)}
    write_weights(tmp_path / "a.pth", resnet)
    with pytest.raises(UserError, match=r"a\.pth is no BEiT: parameter 'conv1\.weight' is unknown to it"):
        load_pretrained(tmp_path / "a.pth")
    segmenter = {
        "beit.embeddings.cls_token": np.zeros((1, 1, 8), np.float32),
        "decode_head.classifier.weight": np.zeros((2, 8), np.float32),
    }
    write_weights(tmp_path / "b.safetensors", segmenter)
    with pytest.raises(UserError, match=r"parameter 'decode_head\.classifier\.weight' is unknown to BEiT"):
        load_pretrained(tmp_path / "b.safetensors")
    write_weights(tmp_path / "c.safetensors", {})
    with pytest.raises(UserError, match=r"c\.safetensors holds no parameters"):
        load_pretrained(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty: download or copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer; fetch the file itself"),
        (b"<!DOCTYPE html><html>", "is no checkpoint: it seems to be a web page; download the file itself"),
        (b"GIF89a" + bytes(100), "is neither a MindSpore, a safetensors nor a PyTorch file, or it is damaged"),
        (b"PK\x03\x04" + bytes(100), "is cut short or damaged"),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, content, text):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=text) as raised:
        load_pretrained(path)
    assert str(raised.value).startswith(str(path))


def test_nan_in_a_published_file_is_refused_by_name(tmp_path):
    weights = small_weights()
    weights["head.weight"][1, 2] = np.nan
    write_weights(tmp_path / "a.safetensors", weights)
    with pytest.raises(UserError, match=r"a\.safetensors: parameter 'head\.weight' holds NaN"):
        load_pretrained(tmp_path / "a.safetensors")
    write_weights(tmp_path / "b.safetensors", small_weights() | {"head.bias": np.zeros(3, np.int32)})
    with pytest.raises(UserError, match=r"b\.safetensors: parameter 'head\.bias' holds int32"):
        load_pretrained(tmp_path / "b.safetensors")


def test_measure_gives_back_the_sizes_that_weights_were_made_of():
    for flags in (
        {},
        {"shared_rel_pos_bias": True, "rel_pos_bias": False},
        {"abs_pos_emb": True, "layer_scale": False},
    ):
        weights = small_weights(**flags)
        sizes = measure(weights, Path("a"))
        assert (sizes.patch_size, sizes.embed_dim, sizes.depth, sizes.num_heads, sizes.grid) == (2, 8, 2, 2, 3)
        assert network_shapes(sizes) == {name: array.shape for name, array in weights.items()}
