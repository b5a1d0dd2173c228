"""Files of an early version stay readable and give the same logits (written by tests/golden/make_old_files.py)."""

from __future__ import annotations

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.export.metadata import from_metadata
from src.export.mindir_file import load_mindir, mindir_metadata
from src.model.model_config import ModelConfig
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, ModelInfo
from src.model.variants import VARIANTS, Variant
from src.prediction.onnx_network import load_onnx
from src.weights.checkpoint import MODEL_INFO, read_entries, save_checkpoint
from src.weights.pretrained import load_pretrained
from src.weights.rebuild import rebuild_network
from tests.weights_golden import assert_same, refuses

FOLDER = Path(__file__).parent / "golden" / "old"
EXPECTED = np.load(FOLDER / "expected.npz")
ARCH = "beit_fixture"
MEAN, STD = IMAGENET_DEFAULT_MEAN_STD
NAMES = ("tench", "goldfish", "größer")
MODEL = ModelConfig(ARCH, 16, 3, approximate_gelu=True)
INFO = ModelInfo(MODEL, NAMES, mean=MEAN, std=STD, crop_pct=0.875, interpolation="bilinear")
TOLERANCE = 1e-6  # of the largest logit: float32 sums in another order


@pytest.fixture(autouse=True)
def fixture_variant(monkeypatch):
    monkeypatch.setitem(VARIANTS, ARCH, Variant(16, 4, 8, 1, 2))


def assert_logits(found: np.ndarray, wanted: np.ndarray) -> None:
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize(("ema", "logits"), [(False, "logits"), (True, "ema_logits")])
def test_an_old_checkpoint_gives_the_same_logits(suffix, ema, logits):
    path = FOLDER / f"checkpoint{suffix}"
    checkpoint = load_pretrained(path, ema=ema)
    assert checkpoint.info == INFO  # fields that the file does not have get their defaults
    network = rebuild_network(checkpoint.info, checkpoint.weights, path)
    assert_logits(network(Tensor(EXPECTED["images"])).asnumpy(), EXPECTED[logits])


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_an_old_checkpoint_keeps_its_training_state(suffix):
    checkpoint = load_pretrained(FOLDER / f"checkpoint{suffix}")
    assert (checkpoint.training["epoch"], checkpoint.training["step"]) == (2, 3)
    assert checkpoint.training["options"] == {"base_lr": 0.1, "seed": 7}
    assert checkpoint.optimizer["iteration"] == 13
    assert set(checkpoint.optimizer) == {
        "iteration",
        *(f"{kind}.{name}" for name in checkpoint.weights for kind in "mv"),
    }


def test_both_formats_of_the_old_checkpoint_hold_the_same(tmp_path):
    ckpt, safetensors = (load_pretrained(FOLDER / f"checkpoint{suffix}") for suffix in (".ckpt", ".safetensors"))
    for part in ("weights", "ema", "optimizer"):
        assert_same(getattr(safetensors, part), getattr(ckpt, part))
    save_checkpoint(tmp_path / "again.safetensors", ckpt)
    again = load_pretrained(tmp_path / "again.safetensors")
    assert (again.info, again.training) == (ckpt.info, ckpt.training)


def test_the_old_checkpoint_has_fewer_fields_than_this_version_and_more_are_refused_by_name():
    stored = json.loads(dict(read_entries(FOLDER / "checkpoint.ckpt"))[MODEL_INFO].tobytes())
    assert set(stored) < set(INFO.to_dict())
    with pytest.raises(ValueError, match="depth_scale, zoom"):
        ModelInfo.from_dict({**stored, "zoom": 1, "depth_scale": 2})


def test_a_missing_required_field_is_named():
    with pytest.raises(ValueError, match="num_classes"):
        ModelInfo.from_dict({"arch": ARCH, "image_size": 16})


def test_an_old_onnx_file_gives_the_same_logits():
    network = load_onnx(FOLDER / "model.onnx", "CPU", 0)
    assert network.info == INFO
    assert_logits(network.run(EXPECTED["images"]), EXPECTED["logits"])


def test_an_old_mindir_file_gives_the_same_logits():
    path = FOLDER / "model.mindir"
    assert from_metadata(mindir_metadata(path), str(path)) == INFO
    ms.set_context(mode=ms.GRAPH_MODE)
    assert_logits(load_mindir(path)(EXPECTED["images"]), EXPECTED["logits"])
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_a_file_of_another_architecture_than_asked_for_is_refused():
    with refuses(ARCH, "beit_base_patch16_224", "checkpoint.ckpt"):
        load_pretrained(FOLDER / "checkpoint.ckpt", arch="beit_base_patch16_224")
