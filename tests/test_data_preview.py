"""The preview of a training batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.config import PreviewConfig, parse_args
from src.data.assembly import build_train_loader, read_data, with_class_count
from src.data.augment.mixup import mix_targets
from src.data.decode import read_rgb
from src.data.preview import as_picture, classes_of, draw_preview
from src.data.transforms import EvalTransform, normalize
from src.errors import UserError
from src.pictures.tiles import GAP, LINE, SIDE
from tests.tiny_project import ROOT, error_line, run, write_config, write_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_as_picture_reverses_the_normalization():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    image = normalize(Image.fromarray(pixels), MEAN, STD)
    assert np.array_equal(np.asarray(as_picture(image, MEAN, STD)), pixels)


def test_a_small_image_is_enlarged_by_an_integer_factor():
    image = normalize(Image.new("RGB", (33, 33), (9, 200, 30)), MEAN, STD)
    picture = as_picture(image, MEAN, STD)
    assert picture.size == (165, 165)  # 5 times, the first to reach a tile's 160
    assert picture.getpixel((164, 0)) == (9, 200, 30)


def test_an_image_has_the_classes_of_both_mixed_images():
    """Labels a and c at 0.7 to 0.3; the share of b comes from smoothing and is left out."""
    target = mix_targets(np.array([0, 2]), np.array([0.7, 0.7]), 3, 0.1)
    assert classes_of(target[0], 0.1, ("a", "b", "c")) == ["a: 0.70", "c: 0.30"]
    assert classes_of(target[1], 0.1, ("a", "b", "c")) == ["c: 0.70", "a: 0.30"]
    same = mix_targets(np.array([1, 1]), np.array([0.7, 0.7]), 3, 0.1)
    assert classes_of(same[0], 0.1, ("a", "b", "c")) == ["b"]
    assert classes_of(np.full(3, 1 / 3, np.float32), 1.0, ("a", "b", "c")) == ["all classes equally"]


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.9), st.integers(2, 1000))
def test_the_shares_do_not_depend_on_the_smoothing(lam, smoothing, classes):
    names = [f"n{number}" for number in range(classes)]
    (target, _) = mix_targets(np.array([0, 1]), np.array([lam, lam]), classes, smoothing)
    lines = dict(line.split(": ") if ": " in line else (line, "1") for line in classes_of(target, smoothing, names))
    assert set(lines) <= {"n0", "n1"}
    assert float(lines.get("n0", 0)) == pytest.approx(lam, abs=0.006)


@pytest.fixture
def config_path(tmp_path):
    data = write_images(tmp_path / "data")
    return write_config(tmp_path, data, num_classes=0, mixup=0.8, cutmix=1.0, re_prob=0.5, device_num=2, batch_size=6)


def test_the_preview_shows_the_batch_of_the_first_device(tmp_path, config_path):
    config = parse_args(["--config_path", str(config_path)], "preview")
    assert isinstance(config, PreviewConfig)
    train, _ = read_data(config)
    assert draw_preview(config, train, tmp_path / "p.png") == 6
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    loader = build_train_loader(with_class_count(config, train), train, rank=0, ranks=2)
    batch = next(iter(loader.epoch(0)))
    evaluated = EvalTransform(image_size=32, crop_pct=config.crop_pct, mean=(0.5,) * 3, std=(0.5,) * 3)
    for number, index in enumerate(loader.first_images(0)):
        views = (batch.image[number], evaluated(read_rgb(train.paths[index])))
        for column, view in enumerate(views):
            place = 2 * number + column
            left = GAP + place % 8 * (SIDE + GAP)
            top = GAP + LINE + place // 8 * (SIDE + 2 * LINE + GAP)
            tile = sheet[top : top + SIDE : 5, left : left + SIDE : 5]  # 32 pixels, enlarged 5 times
            expected = np.clip(view * 127.5 + 127.5, 0, 255).transpose(1, 2, 0)
            assert np.abs(tile - expected).max() <= 1, (number, column)


def test_the_preview_describes_the_folders_without_mindspore(tmp_path, config_path):
    (tmp_path / "data" / "train" / "red" / "0.png").unlink()
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['preview', '--config_path', {str(config_path)!r}, '--output', 'p.png']\n"
        "try:\n    runpy.run_module('src.data.preview', run_name='__main__')\n"
        "finally:\n    assert 'mindspore' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path}/data/train: 23 images of 3 classes, from 7 (red) to 8 (blue) a class",
        f"{tmp_path}/data/val: 9 images of 3 classes, 3 a class",
        "p.png shows 6 of the 6 images of the first training batch, each beside its evaluation view",
    ]
    assert (tmp_path / "p.png").exists()


def test_a_preview_with_another_suffix_than_png_is_refused(config_path):
    command = (sys.executable, "-m", "src.data.preview", "--config_path", config_path, "--output", "preview.jpg")
    line = error_line(run(*command, check=False))
    assert "output is preview.jpg" in line
    assert ".png" in line


def test_a_preview_replaces_no_device_and_no_folder(tmp_path, config_path):
    (tmp_path / "device.png").symlink_to("/dev/null")
    (tmp_path / "folder.png").mkdir()
    for name in ("device", "folder"):
        path = tmp_path / f"{name}.png"
        command = (sys.executable, "-m", "src.data.preview", "--config_path", config_path, "--output", path)
        assert error_line(run(*command, check=False)) == f"{path} is a {name}; give a regular file"


def test_a_config_file_has_no_options_of_the_preview(tmp_path, config_path):
    config_path.write_text(config_path.read_text() + "output: x.png\n")
    with pytest.raises(UserError, match="output"):
        parse_args(["--config_path", str(config_path)], "preview")
