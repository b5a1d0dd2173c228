"""How an exported file is compared and published, and the MINDIR file."""

from __future__ import annotations

import os
import stat

import mindspore as ms
import mindspore.train.serialization
import numpy as np
import pytest
from mindspore import Tensor
from src.export.check import (
    TOLERANCES,
    Agreement,
    Difference,
    agreement,
    largest_difference,
    random_blends,
    random_images,
    random_pixels,
    require_agreement,
)

from src.errors import RunError, UserError
from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata, write_mindir
from src.export.publish import appears_whole
from tests.networks import model_info, small_network

SIZES = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 4}


# Only the size matters here: the network below is none of the named ones.
INFO = model_info("beit_base_patch16_224", 16, 4, class_names=("a", "b", "zwölf", "四"), std=(0.2, 0.3, 0.4))


def sums(images: np.ndarray) -> np.ndarray:
    return images.sum(axis=(1, 2, 3))[:, None].repeat(2, axis=1)


def test_difference_is_the_largest_over_both_ways_of_batching():
    images = random_images(4)
    assert images.shape == (3, 3, 4, 4)
    expected = sums(images)
    assert largest_difference(sums, images, expected) == Difference(0.0, 0.0)
    scale = np.abs(expected).max()
    one_wrong = expected.copy()
    one_wrong[1, 1] += 3.0
    difference = largest_difference(sums, images, one_wrong)
    assert difference.absolute == pytest.approx(3.0, rel=1e-5)
    assert difference.relative == pytest.approx(3.0 / np.abs(one_wrong).max(), rel=1e-5)
    only_together = largest_difference(lambda x: sums(x) + 2.0 * (len(x) > 1), images, expected)
    only_alone = largest_difference(lambda x: sums(x) + 2.0 * (len(x) == 1), images, expected)
    assert only_together.absolute == only_alone.absolute == pytest.approx(2.0, rel=1e-5)
    assert only_alone.relative == pytest.approx(2.0 / scale, rel=1e-5)


def test_agreement_is_required_to_the_tolerance_and_of_numbers_only():
    for precision, tolerance in TOLERANCES.items():
        require_agreement(Difference(1.0, tolerance), precision, "beit.onnx")
        with pytest.raises(RunError, match=r"beit\.onnx was not written"):
            require_agreement(Difference(1.0, 1.01 * tolerance), precision, "beit.onnx")
    text = (
        r"beit\.onnx was not written: its logits differ from the network's by 1\.00e-03, which is 3\.00e-05 of the "
        r"largest, and 2e-05 is allowed: please report this"
    )
    with pytest.raises(RunError, match=text):
        require_agreement(Difference(1e-3, 3e-5), "fp32", "beit.onnx")
    with pytest.raises(
        RunError, match=r"nan of the largest, and 0\.25 is allowed: this network needs --onnx_precision"
    ):
        require_agreement(Difference(float("nan"), float("nan")), "int8", "beit.onnx")
    assert np.isnan(largest_difference(lambda x: sums(x) * np.nan, random_images(4), sums(random_images(4))).relative)


def test_agreement_counts_images_and_finds_the_largest_difference_of_all_batches():
    logits = np.array([[1.0, 2.0], [4.0, 3.0], [0.5, 0.25], [-8.0, 0.0], [1.0, 1.0]], np.float32)
    theirs = np.array([[1.0, 2.5], [3.0, 4.0], [0.5, 0.25], [-8.0, 0.0], [1.0, 1.5]], np.float32)
    batches = [np.arange(3), np.arange(3, 5)]
    assert agreement(logits.take, logits.take, []).images == 0
    result = agreement(lambda rows: theirs[rows], lambda rows: logits[rows], batches)
    assert result == Agreement(5, 3, Difference(1.0, 0.125))
    theirs[0, 0] = np.nan
    assert np.isnan(agreement(lambda rows: theirs[rows], lambda rows: logits[rows], batches).difference.relative)


def test_random_inputs_are_of_the_kind_that_a_file_takes():
    pixels = random_pixels(64)
    assert (pixels.shape, pixels.dtype) == ((3, 64, 64, 3), np.uint8)
    assert {int(pixels.min()), int(pixels.max())} == {0, 255}
    images = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1) * np.ones((5, 3, 4, 4), np.float32)
    blends = random_blends(images)
    assert (blends.shape, blends.dtype) == ((3, 3, 4, 4), np.float32)
    assert (blends == blends[:, :1, :1, :1]).all()  # one share for the whole picture
    assert 0 <= blends.min() < blends.max() <= 4
    assert not set(blends[:, 0, 0, 0].tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}  # new pictures
    assert random_blends((images * 50).astype(np.uint8)).dtype == np.uint8


def test_published_files_come_together_and_are_readable(tmp_path, monkeypatch):
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
    assert order == ["beit_variables", "beit.mindir"]  # whoever sees the graph finds its weights
    assert sorted(os.listdir(tmp_path)) == ["beit.mindir", "beit_variables"]
    assert os.listdir(variables) == ["data_0"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE(variables.stat().st_mode) == 0o777 & ~mask


def test_a_failed_export_leaves_the_older_one_and_nothing_else(tmp_path):
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
    text = r"beit\.onnx cannot be written \(No such file or directory\): choose another folder"
    with pytest.raises(UserError, match=text), appears_whole(nowhere):
        pass


@pytest.mark.parametrize("weights_apart", [False, True])
@pytest.mark.parametrize("options", [{}, {"abs_pos_emb": True, "mean_pooling": False, "approximate_gelu": True}])
def test_mindir_serves_any_batch_and_gives_the_networks_logits(weights_apart, options, tmp_path, monkeypatch):
    """`weights_apart` lowers the 1 GB above which MindSpore stores the weights in a folder beside the graph."""
    monkeypatch.setattr(mindspore.train.serialization, "TOTAL_SAVE", 1 if weights_apart else 1 << 20)
    ms.set_context(mode=ms.GRAPH_MODE)
    network = small_network(**SIZES, init_scale=1.0, **options).set_train(False)
    images = random_images(16)
    expected = network(Tensor(images)).asnumpy()
    with appears_whole(tmp_path / "beit.mindir") as path:
        write_mindir(network, INFO, path)
    entries = ["beit.mindir", "beit_variables"] if weights_apart else ["beit.mindir"]
    assert sorted(os.listdir(tmp_path)) == entries
    assert from_metadata(mindir_metadata(tmp_path / "beit.mindir"), "beit.mindir") == INFO
    run = load_mindir(tmp_path / "beit.mindir")
    # MindSpore's own graph runs again, only for another batch size
    assert largest_difference(run, images, expected).relative <= 1e-6
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_a_file_that_is_no_mindir_is_refused(tmp_path):
    path = tmp_path / "beit.mindir"
    path.write_bytes(b"\xff garbage")
    text = r"beit\.mindir cannot be loaded as a MINDIR file.*: export the checkpoint again"
    with pytest.raises(UserError, match=text):
        mindir_metadata(path)
    with pytest.raises(UserError, match=text):
        load_mindir(path)
    path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"beit\.mindir was not exported by this project: its metadata lack version, arc"
    ):
        from_metadata(mindir_metadata(path), str(path))
