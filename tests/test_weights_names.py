"""Parameter names: files for timm, the authors and transformers have exactly the names of their networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.weights import foreign_writer
from src.weights.foreign_writer import SUFFIXES, write_foreign
from src.weights.names import HF_FILES, HF_NETWORK, recognize, to_authors, to_hugging_face
from src.weights.safetensors_file import read_safetensors
from src.weights.state_dict import find_state_dict
from src.weights.torch_file import open_torch_file
from tests.weights_golden import FOLDER, assert_same, load, refuses, shapes_of, small_weights


def read(path: Path) -> dict[str, np.ndarray]:
    """Return every array of a foreign file under its own name."""
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path)[1])
    with open_torch_file(path) as (content, read_tensors):
        return dict(read_tensors(find_state_dict(content, False, path)))


# The file to read, and a network of the same sizes in the library to write for.
@pytest.mark.parametrize(
    ("source", "target", "network"),
    [
        ("timm_base.safetensors", "unilm", "unilm_base.pth"),
        ("unilm_base.pth", "timm", "timm_base.safetensors"),
        ("unilm_384.pth", "timm", "timm_384.pth"),
        ("beitv2_training.pth", "hf", "hf_base.safetensors"),
        ("beitv2_training.pth", "hf4", "hf_base.safetensors/files"),
        ("hf_base.safetensors", "unilm", "beitv2_training.pth"),
        ("unilm_pt22k.pth", "unilm", "unilm_pt22k.pth"),
        ("hf_pt22k.safetensors", "unilm", "unilm_pt22k.pth"),
        ("unilm_pt22k.pth", "hf", "hf_pt22k.safetensors"),
        ("hf_token.bin", "hf", "hf_token.bin"),
    ],
)
def test_a_written_file_has_the_state_dict_that_strict_loading_requires(monkeypatch, tmp_path, source, target, network):
    path = tmp_path / f"a{SUFFIXES[target]}"
    assert write_foreign(path, load(monkeypatch, source).weights, target) == []
    assert {name: array.shape for name, array in read(path).items()} == shapes_of(network)


ALL_FILES = sorted(path.name for path in FOLDER.iterdir() if path.name.startswith(("unilm", "timm", "hf_", "beit")))


@pytest.mark.parametrize("name", ALL_FILES)
def test_conversion_to_every_format_and_back_is_bit_identical(monkeypatch, tmp_path, name):
    weights = load(monkeypatch, name).weights
    for target, suffix in SUFFIXES.items():
        path = tmp_path / f"a{suffix}"
        left_out = write_foreign(path, weights, target)
        kept = {key: array for key, array in weights.items() if key not in left_out}
        assert_same(load(monkeypatch, path).weights, kept)


@pytest.mark.parametrize(
    "name", ["unilm_base.pth", "timm_base.safetensors", "hf_base.safetensors", "hf_pt22k.safetensors"]
)
def test_a_file_of_a_library_is_reproduced_bit_for_bit(monkeypatch, tmp_path, name):
    target = {"unilm": "unilm", "timm": "timm", "hf": "hf4"}[name.partition("_")[0]]
    path = tmp_path / f"a{Path(name).suffix}"
    write_foreign(path, load(monkeypatch, name).weights, target)
    assert_same(read(path), read(FOLDER / name))  # index buffers included


def test_parameters_that_a_library_does_not_have_are_left_out_and_returned(monkeypatch, tmp_path):
    weights = load(monkeypatch, "beitv2_pt1k.pth").weights
    left_out = write_foreign(tmp_path / "a.safetensors", weights, "timm")
    assert {"mask_token", "lm_head.weight", "cls_pt_layers.0.attn.qkv.weight"} <= set(left_out)
    assert not [name for name in left_out if name.startswith(("blocks.", "norm."))]
    left_out = write_foreign(tmp_path / "a.safetensors", weights, "hf")
    assert left_out
    assert all(name.startswith("cls_pt_") for name in left_out)
    assert write_foreign(tmp_path / "a.pth", weights, "unilm") == []


@pytest.mark.parametrize(
    ("target", "suffix", "allowed"),
    [
        ("unilm", ".safetensors", ".pth"),
        ("timm", ".pth", ".safetensors"),
        ("hf", ".bin", ".safetensors"),
        ("hf4", ".ckpt", ".safetensors"),
    ],
)
def test_a_suffix_that_the_library_does_not_use_is_refused(tmp_path, target, suffix, allowed):
    with refuses(f"a{suffix}", target, allowed):
        write_foreign(tmp_path / f"a{suffix}", small_weights(), target)


@pytest.mark.parametrize("target", SUFFIXES)
def test_equal_weights_give_equal_files(tmp_path, target):
    paths = [tmp_path / f"{number}{SUFFIXES[target]}" for number in range(2)]
    for path in paths:
        write_foreign(path, small_weights(), target)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_written_file_is_read_back_before_it_gets_its_name(tmp_path, monkeypatch):
    def forgetful(file, arrays, metadata):
        real(file, {name: array + 1 for name, array in arrays.items()}, metadata)

    real = foreign_writer.write_safetensors
    monkeypatch.setattr(foreign_writer, "write_safetensors", forgetful)
    with refuses("a.safetensors", "not written", "blocks.0.attn.proj.bias"):
        write_foreign(tmp_path / "a.safetensors", small_weights(), "timm")
    assert list(tmp_path.iterdir()) == []


# ---- recognizing and translating ----


def test_formats_are_recognized_by_their_names():
    here = Path("a")
    assert recognize(small_weights(), here) == "timm"
    assert recognize([*small_weights(), "blocks.0.attn.relative_position_index"], here) == "unilm"
    assert recognize([*small_weights(), "mask_token"], here) == "unilm"
    for layout in (HF_FILES, HF_NETWORK):
        assert recognize(to_hugging_face(small_weights(), layout), here) == "hf"


@pytest.mark.parametrize(
    ("layout", "prefix", "parts"),
    [
        (HF_FILES, "beit.encoder.layer.1.attention.attention", ("query", "key", "value")),
        (HF_NETWORK, "beit.layers.1.attention", ("q_proj", "k_proj", "v_proj")),
    ],
)
def test_query_key_and_value_are_the_rows_of_qkv_in_this_order(layout, prefix, parts):
    weights = small_weights()
    qkv = weights["blocks.1.attn.qkv.weight"]
    foreign = to_hugging_face(weights, layout)
    for part, rows in zip(parts, np.split(qkv, 3)):
        np.testing.assert_array_equal(foreign[f"{prefix}.{part}.weight"], rows)
    assert [f"{prefix}.{part}.bias" in foreign for part in parts] == [True, False, True]
    assert_same(to_authors(foreign, "hf", Path("a")), weights)


def test_a_file_of_the_bare_backbone_is_read():
    weights = {name: array for name, array in small_weights().items() if not name.startswith("head.")}
    foreign = to_hugging_face(weights, HF_FILES)
    bare = {name.removeprefix("beit."): array for name, array in foreign.items()}
    assert recognize(bare, Path("a")) == "hf"
    assert_same(to_authors(bare, "hf", Path("a")), weights)


def test_a_block_without_its_key_is_refused():
    foreign = to_hugging_face(small_weights(), HF_FILES)
    del foreign["beit.encoder.layer.1.attention.attention.key.weight"]
    with refuses("a", "blocks.1", "key"):
        to_authors(foreign, "hf", Path("a"))


def test_two_last_norms_are_refused():
    foreign = to_hugging_face(small_weights(mean_pooling=False), HF_FILES)
    foreign["layernorm.weight"] = foreign["beit.layernorm.weight"]
    with refuses("a", "'layernorm.weight'", "'norm.weight'"):
        to_authors(foreign, "hf", Path("a"))
