"""Comparison and publication of exported files, and the MINDIR file."""

from __future__ import annotations

import os
import stat

import mindspore as ms
import mindspore.train.serialization
import numpy as np
import pytest
from mindspore import Tensor

from src.errors import RunError
from src.export.compare_logits import (
    TOLERANCES,
    Agreement,
    agreement,
    compare_logits,
    random_blends,
    random_input,
    require_agreement,
)
from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata, write_mindir
from src.export.onnx_export import OnnxOptions
from src.export.publish import appears_whole
from src.layers.cpu import CPU
from src.prediction.loaded_network import Network
from tests.networks import model_info, small_network
from tests.weights_golden import one_line, refuses

SIZES = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}


# Only the image size matters: the network below is not a variant.
INFO = model_info("beit_base_patch16_224", 16, 4, class_names=("a", "b", "zwölf", "四"), std=(0.2, 0.3, 0.4))


def refused(result: Agreement, precision: str) -> str:
    with pytest.raises(RunError) as raised:
        require_agreement(result, precision, "beit.onnx")
    return one_line(raised.value)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_relative_difference_up_to_the_tolerance_is_accepted(precision):
    tolerance = TOLERANCES[precision]
    require_agreement(Agreement(3, 3, 1.0, tolerance), precision, "beit.onnx")
    text = refused(Agreement(3, 3, 1.0, 1.01 * tolerance), precision)
    assert all(word in text for word in ("beit.onnx", "1.00e+00", f"{1.01 * tolerance:.1e}", f"{tolerance:g}"))
    assert ("--onnx_precision fp32" in text) == (precision != "fp32")
    assert "nan" in refused(Agreement(3, 3, float("nan"), float("nan")), precision)


def test_agreement_counts_images_and_finds_the_largest_difference_of_all_batches():
    logits = np.array([[1.0, 2.0], [4.0, 3.0], [0.5, 0.25], [-8.0, 0.0], [1.0, 1.0]], np.float32)
    theirs = np.array([[1.0, 2.5], [3.0, 4.0], [0.5, 0.25], [-8.0, 0.0], [1.0, 1.5]], np.float32)
    batches = [np.arange(3), np.arange(3, 5)]
    assert agreement(logits.take, logits.take, []).images == 0
    result = agreement(lambda rows: theirs[rows], lambda rows: logits[rows], batches)
    assert result == Agreement(5, 3, 1.0, 0.125)
    theirs[0, 0] = np.nan
    assert np.isnan(agreement(lambda rows: theirs[rows], lambda rows: logits[rows], batches).relative)


@pytest.mark.parametrize("wrong_batch", [1, 3])
def test_a_file_that_is_wrong_for_one_batch_size_is_refused(wrong_batch):
    def network(images: np.ndarray) -> np.ndarray:
        return images.sum(axis=(1, 2, 3))[:, None].repeat(2, axis=1)

    def run(images: np.ndarray) -> np.ndarray:
        return network(images) * (1 + 1e-3 * (len(images) == wrong_batch))

    assert len(list(compare_logits(Network(network, INFO), network, OnnxOptions(), None, "beit.onnx"))) == 1
    with pytest.raises(RunError, match=r"beit\.onnx"):
        list(compare_logits(Network(run, INFO), network, OnnxOptions(), None, "beit.onnx"))


def test_random_inputs_have_the_type_and_range_of_the_file():
    info = model_info("beit_base_patch16_224", 64, 4)
    noise = random_input(Network(np.negative, info), OnnxOptions())
    assert (noise.shape, noise.dtype) == ((3, 3, 64, 64), np.float32)
    pixels = random_input(Network(np.negative, info, takes_pixels=True), OnnxOptions())
    assert (pixels.shape, pixels.dtype) == ((3, 64, 64, 3), np.uint8)
    assert {int(pixels.min()), int(pixels.max())} == {0, 255}
    images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) * np.ones((5, 3, 4, 4), np.float32)
    blends = random_blends(images)
    assert (blends.shape, blends.dtype) == ((3, 3, 4, 4), np.float32)
    assert (blends == blends[:, :1, :1, :1]).all()  # one share for the whole image
    assert 0 <= blends.min() < blends.max() <= 4
    assert not set(blends[:, 0, 0, 0].tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # new images
    assert random_blends((images * 50).astype(np.uint8)).dtype == np.uint8


def test_published_files_appear_together_and_are_readable(tmp_path, monkeypatch):
    replace, order = os.replace, []
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(new.name), replace(old, new)))
    target = tmp_path / "beit.mindir"
    target.write_text("old")
    variables = tmp_path / "beit_variables"
    variables.mkdir()
    (variables / "old").write_text("old")
    with appears_whole(target) as path:
        assert path.name == "beit.mindir"
        path.write_text("new")
        path.chmod(stat.S_IRUSR)
        (path.parent / "beit_variables").mkdir(mode=0o700)
        (path.parent / "beit_variables" / "data_0").write_text("weights")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert order == ["beit_variables", "beit.mindir"]  # a reader who finds the graph finds its weights
    assert sorted(os.listdir(tmp_path)) == ["beit.mindir", "beit_variables"]
    assert os.listdir(variables) == ["data_0"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE(variables.stat().st_mode) == 0o777 & ~mask


def test_a_failed_export_leaves_only_the_older_one(tmp_path):
    target = tmp_path / "beit.onnx"
    target.write_text("old")

    def fail() -> None:
        with appears_whole(target) as path:
            path.write_text("half")
            raise RunError("differs")

    with pytest.raises(RunError, match="differs"):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["beit.onnx"]


def test_an_export_that_the_system_refuses_names_the_file(tmp_path):
    nowhere = tmp_path / "nowhere" / "beit.onnx"
    with refuses("beit.onnx", "No such file or directory"), appears_whole(nowhere):
        pass


@pytest.mark.parametrize("weights_apart", [False, True])
@pytest.mark.parametrize("options", [{}, {"abs_pos_emb": True, "mean_pooling": False, "approximate_gelu": True}])
def test_a_mindir_file_gives_the_logits_of_the_network_for_any_batch(weights_apart, options, tmp_path, monkeypatch):
    """`weights_apart` lowers the 1 GB above which MindSpore stores the weights in a folder beside the graph."""
    monkeypatch.setattr(mindspore.train.serialization, "TOTAL_SAVE", 1 if weights_apart else 1 << 20)
    ms.set_context(mode=ms.GRAPH_MODE)
    network = small_network(**SIZES, layers=CPU, init_scale=1.0, **options).set_train(False)
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32)
    expected = network(Tensor(images)).asnumpy()
    with appears_whole(tmp_path / "beit.mindir") as path:
        write_mindir(network, INFO, path)
    entries = ["beit.mindir", "beit_variables"] if weights_apart else ["beit.mindir"]
    assert sorted(os.listdir(tmp_path)) == entries
    assert from_metadata(mindir_metadata(tmp_path / "beit.mindir"), "beit.mindir") == INFO
    run = load_mindir(tmp_path / "beit.mindir")
    for rows in (slice(0, 3), slice(0, 1), slice(2, 3)):
        assert np.abs(run(images[rows]) - expected[rows]).max() <= 1e-6 * np.abs(expected).max()
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_a_file_other_than_mindir_is_refused(tmp_path):
    path = tmp_path / "beit.mindir"
    path.write_bytes(b"\xff garbage")
    for read in (mindir_metadata, load_mindir):
        with refuses("beit.mindir", "MINDIR", "export"):
            read(path)
    path.write_bytes(b"")
    with refuses("beit.mindir", "version", "arch"):
        from_metadata(mindir_metadata(path), str(path))
