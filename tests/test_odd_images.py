"""Training and evaluation read images of every kind, under names of every kind, as Pillow does."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.config import read_config
from src.data.assembly import read_data
from src.data.augment.random_erasing import RandomErasing
from src.data.image_folder import read_image_folder
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.shuffled_loader import Division
from src.data.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.tools.logs import start_logging
from src.weights.checkpoint import Checkpoint, save_checkpoint
from tests.networks import model_info, variant_network
from tests.tiny_project import ARCH, error_line, run, script, write_config, write_images

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "data.npz"))
KINDS = GOLDEN["file_names"].tolist()
SIZE = 16
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def animated_png() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (12, 9), (40 * number, 200, 10)) for number in range(3)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class of files with odd names, one that is a link to a folder, and one of links to files."""
    root = tmp_path_factory.mktemp("odd")
    for place in (root / "images" / "größe 漢字 'q'", root / "elsewhere"):
        place.mkdir(parents=True)
        for name in KINDS:
            (place / f"é {name}").write_bytes(GOLDEN[f"file_{name.split('.')[0]}"].tobytes())
    (root / "images" / "größe 漢字 'q'" / "line\nend.png").write_bytes(animated_png())
    (root / "images" / "größe 漢字 'q'" / os.fsdecode(b"no utf-8 \xff.PNG")).write_bytes(animated_png())
    (root / "images" / "linked folder").symlink_to(root / "elsewhere")
    (root / "images" / "linked files").mkdir()
    (root / "images" / "linked files" / "a b.jpg").symlink_to(root / "elsewhere" / "é jpeg_cmyk.jpeg")
    return read_image_folder(root / "images")


def test_the_images_cover_the_kinds_of_real_data_sets():
    found = {name.split(".")[0] for name in KINDS}
    for kind in ("gray", "rgba", "gray_alpha", "palette", "jpeg_cmyk", "sixteen_bit", "jpeg_rotated", "animated"):
        assert kind in found
    assert "one_pixel" in found


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_evaluation_gets_the_rgb_conversion_of_pillow(folder):
    assert len(folder) == 2 * len(KINDS) + 3
    transform = EvalTransform(image_size=SIZE, crop_pct=1.0, **RAW)
    batches = list(EvalLoader(folder, transform, 8, num_workers=2))
    images = np.concatenate([batch.image[: batch.valid] for batch in batches])
    assert len(images) == len(folder)
    for path, found in zip(folder.paths, images):
        expected = np.empty((3, SIZE, SIZE), np.float32)
        with Image.open(path) as image:
            transform(image.convert("RGB"), out=expected)
        np.testing.assert_array_equal(found, expected, err_msg=str(path))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_training_reads_all_kinds(folder):
    transform = TrainTransform(
        image_size=SIZE,
        min_crop=0.08,
        interpolation="bicubic",
        auto_augment="rand-m9-mstd0.5-inc1",
        erasing=RandomErasing(0.5, "pixel", 1),
        **RAW,
    )
    loader = TrainLoader(folder, transform, Targets(3), Division(1), seed=0, num_workers=2)
    assert sum(np.isfinite(batch.image).all() for batch in loader.epoch(0)) == len(folder)
    assert loader.unreadable.count(0) == 0


@pytest.mark.parametrize("name", ["two\nlines", os.fsdecode(b"latin \xff"), "line\u2028separator"])
def test_a_class_folder_with_a_line_end_or_invalid_utf8_in_its_name_is_refused(tmp_path, name):
    """Class names are stored one per line, in UTF-8."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "1.png").touch()
    with pytest.raises(UserError, match=r"class name.*rename"):
        read_image_folder(tmp_path)


def test_the_classes_of_training_and_validation_are_compared_before_mindspore_is_imported(tmp_path):
    data = write_images(tmp_path / "data")
    config = read_config(write_config(tmp_path, data))
    (data / "train" / "empty").mkdir()
    with pytest.raises(UserError, match=r"train.*'empty'"):
        read_data(config)
    (data / "train" / "empty").rmdir()
    (data / "val" / "red").rename(data / "val" / "yellow")
    with pytest.raises(UserError, match=r"val.*'yellow'"):
        read_data(config)
    command = (
        "import sys, train; from src.errors import exit_code; "
        f"sys.argv = ['train.py', '--config', {str(tmp_path / 'config.yaml')!r}]; "
        "code = exit_code(train.main); print('mindspore' in sys.modules); sys.exit(code)"
    )
    done = run(sys.executable, "-c", command, check=False)
    assert "'yellow'" in error_line(done)
    assert done.stdout == "False\n"


def test_an_unreadable_image_in_evaluation_gives_a_one_line_error(tmp_path):
    """In a real process, whose threads read the images."""
    data = write_images(tmp_path / "data")
    bad = data / "val" / "green" / "größe.png"
    bad.write_bytes(b"<html>")
    checkpoint = tmp_path / "weights.ckpt"
    weights = {p.name: p.asnumpy() for p in variant_network(ARCH, num_classes=3).get_parameters()}
    save_checkpoint(checkpoint, Checkpoint(weights, model_info(ARCH, 32, 3, crop_pct=1.0)))
    config = write_config(tmp_path, data)
    line = error_line(script("eval.py", "--config", config, "--pretrained", checkpoint, check=False))
    assert str(bad) in line
    assert "format" in line


def test_characters_that_a_terminal_cannot_show_are_escaped(tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    start_logging(tmp_path / "log", terminal=True)
    logging.getLogger("beit").info("größe %s", os.fsdecode(b"\xff"))
    assert terminal.buffer.getvalue() == b"gr\\xf6\\xdfe \\udcff\n"
    assert re.search(r" größe \\udcff\n$", (tmp_path / "log").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def no_handlers_left():
    yield
    logging.getLogger("beit").handlers.clear()
