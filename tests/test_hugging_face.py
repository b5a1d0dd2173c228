"""Weights, configuration and image processor of transformers, all with transformers' own defaults."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from src.data.transforms import eval_transform
from src.model.variants import VARIANTS, Variant
from src.weights.pretrained import load_pretrained
from src.weights.rebuild import rebuild_network

FOLDER = Path(__file__).parent / "golden" / "hugging_face"
GOLDEN = np.load(Path(__file__).parent / "golden" / "hugging_face.npz")
ARCH = "hugging_face_golden"


@pytest.fixture(autouse=True)
def golden_sizes(monkeypatch):
    """The sizes of the golden network as an architecture."""
    monkeypatch.setitem(VARIANTS, ARCH, Variant(32, 8, 16, 2, 2))


@pytest.fixture(autouse=True)
def warnings_reach_caplog(monkeypatch):
    """A run in this process may have detached the project's logger from the root logger."""
    monkeypatch.setattr(logging.getLogger("beit"), "propagate", True)


@pytest.fixture
def hub(tmp_path):
    """A folder as the hub has it, without the configuration of an image processor."""
    for name in ("model.safetensors", "config.json"):
        shutil.copy(FOLDER / name, tmp_path / name)
    return tmp_path


def write_processor(hub: Path, name: str, **changes: object) -> None:
    settings = json.loads((FOLDER / f"{name}.json").read_text()) | changes
    (hub / "preprocessor_config.json").write_text(json.dumps(settings))


def logits(path: Path, image: np.ndarray) -> np.ndarray:
    checkpoint = load_pretrained(path)
    network = rebuild_network(checkpoint.info, checkpoint.weights, path)
    return network(ms.Tensor(image[None])).asnumpy()[0]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_layer_norm_epsilon_of_the_configuration_is_used(hub):
    image, expected = GOLDEN["squash/prepared"], GOLDEN["squash/logits"]
    assert_close(logits(hub / "model.safetensors", image), expected)
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    assert np.abs(logits(hub / "model.safetensors", image) - expected).max() > 1e-3


def test_weights_without_a_configuration_have_transformers_default_epsilon(hub):
    shutil.move(hub / "model.safetensors", hub / "renamed.safetensors")
    assert_close(logits(hub / "renamed.safetensors", GOLDEN["squash/prepared"]), GOLDEN["squash/logits"])


@pytest.mark.parametrize("name", ["squash", "crop"])
def test_images_are_prepared_like_the_image_processor_does(hub, caplog, name):
    write_processor(hub, name)
    info = load_pretrained(hub / "model.safetensors").info
    assert not caplog.records
    assert info.crop_mode == "squash"
    assert info.interpolation == {"squash": "bicubic", "crop": "bilinear"}[name]
    prepared = eval_transform(info)(Image.fromarray(GOLDEN["image"]))
    assert np.abs(prepared - GOLDEN[f"{name}/prepared"]).max() <= 1e-6
    assert_close(logits(hub / "model.safetensors", prepared), GOLDEN[f"{name}/logits"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"do_normalize": False}, "do_normalize False"),
        ({"do_resize": False}, "do_resize False"),
        ({"rescale_factor": 0.5}, "rescale_factor 0.5"),
        ({"resample": 4}, "resample 4"),
        ({"size": {"height": 64, "width": 64}}, "size {'height': 64, 'width': 64}"),
        ({"size": {"height": 48, "width": 32}}, "size {'height': 48, 'width': 32}"),
    ],
)
def test_settings_that_cannot_be_reproduced_are_named_in_one_warning(hub, caplog, changes, named):
    write_processor(hub, "squash", **changes)
    with caplog.at_level(logging.WARNING, logger="beit"):
        load_pretrained(hub / "model.safetensors")
    (record,) = caplog.records
    text = record.getMessage()
    assert "preprocessor_config.json" in text
    assert named in text
    assert "\n" not in text


def test_the_shortest_edge_keeps_the_aspect_ratio(hub):
    write_processor(hub, "crop", size={"shortest_edge": 36})
    info = load_pretrained(hub / "model.safetensors").info
    assert info.crop_mode == "center"
    assert int(info.model.image_size / info.crop_pct) == 36
