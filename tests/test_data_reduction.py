"""JPEG files decoded at a reduced size: by how much, and that crops and random numbers stay those of the whole file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data import decode
from src.data.decode import rgb_image
from src.data.image_batches import image_batches, preparation_of
from src.data.image_folder import read_image_folder
from src.data.imagenet import EvalLoader, Targets, TrainLoader
from src.data.memory_budget import MemoryBudget
from src.data.reduction import largest_reduction
from src.data.sampling import SAMPLE, generator
from src.data.shuffled_loader import Division
from src.data.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.model.model_config import ModelConfig
from src.model.model_info import ModelInfo

SIDE, WIDTH, HEIGHT = 16, 333, 251  # no multiples of 8: the last reduced pixels are partly outside of the file
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
LEVEL = 1 / 255
# A shift by one pixel at 1/8 is 6 levels of the ramps below, and the cut edges of a crop differ by up to 3.
NEAR = 3.5 * LEVEL
TRAIN = TrainTransform(SIDE, 0.08, "random", auto_augment=None, color_jitter=0.0, **RAW)
EVALUATE = {mode: EvalTransform(SIDE, 0.9, crop_mode=mode, **RAW) for mode in ("center", "squash")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A class of JPEG files whose red rises from left to right and whose green rises from top to bottom."""
    place = tmp_path_factory.mktemp("reduced") / "class"
    place.mkdir()
    red, green = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    ramps = Image.fromarray(np.stack([red, green, np.full_like(red, 80)], axis=-1).round().astype(np.uint8))
    for number in range(4):
        ramps.save(place / f"{number}.jpg", quality=98, subsampling=0, progressive=number == 1)
    return place.parent


@pytest.mark.parametrize(
    ("size", "needed", "reduction"),
    [
        ((4000, 3000), (248, 248), 8),
        ((1984, 1984), (248, 248), 8),
        ((1983, 4000), (248, 248), 4),
        ((4000, 991), (248, 248), 2),
        ((495, 4000), (248, 248), 1),
        ((10, 10), (248, 248), 1),
    ],
)
def test_the_reduced_image_is_at_least_as_large_as_needed(size, needed, reduction):
    assert largest_reduction(size, needed) == reduction


def test_the_training_crop_is_the_same_at_a_reduced_size(folder):
    path, reductions = folder / "class" / "0.jpg", set()
    for item in range(40):

        def reduce(size, item=item):
            return TRAIN.reduction(size, generator(0, SAMPLE, 0, item))

        with rgb_image(path) as exact, rgb_image(path, reduce) as fast:
            expected, ours = (TRAIN(image, generator(0, SAMPLE, 0, item)) for image in (exact, fast))
        reductions.add(fast.reduction)
        assert fast.size == exact.size == (WIDTH, HEIGHT)
        assert np.abs(ours - expected).max() < NEAR, (item, fast.reduction)
    assert reductions == {4, 8}


@pytest.mark.parametrize("mode", EVALUATE)
@pytest.mark.parametrize("name", ["0.jpg", "1.jpg"])
def test_the_evaluation_crop_is_the_same_at_a_reduced_size(folder, mode, name):
    transform = EVALUATE[mode]
    with rgb_image(folder / "class" / name) as exact, rgb_image(folder / "class" / name, transform.reduction) as fast:
        assert fast.reduction == 8
        assert fast.image.size == (-(-WIDTH // 8), -(-HEIGHT // 8))
        assert np.abs(transform(fast) - transform(exact)).max() < NEAR


@pytest.mark.parametrize(("mode", "suffix"), [("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png")])
def test_other_modes_are_reduced_and_other_formats_are_not(tmp_path, mode, suffix):
    Image.new(mode, (80, 64), 90 if mode == "L" else (90,) * len(mode)).save(tmp_path / f"a.{suffix}")
    with rgb_image(tmp_path / f"a.{suffix}") as exact, rgb_image(tmp_path / f"a.{suffix}", lambda _: 4) as fast:
        assert (fast.reduction, fast.image.size) == ((4, (20, 16)) if suffix == "jpg" else (1, (80, 64)))
        assert fast.image.mode == "RGB"
        assert fast.image.getpixel((3, 3)) == exact.image.getpixel((12, 12))


def test_a_reduced_image_takes_the_memory_of_its_reduced_size(folder, monkeypatch):
    taken = []

    class Recorded(MemoryBudget):
        def taken(self, amount):
            taken.append(amount)
            return super().taken(amount)

    monkeypatch.setattr(decode, "MEMORY", Recorded(2**30))
    with rgb_image(folder / "class" / "0.jpg", lambda _: 8):
        assert taken == [4 * -(-WIDTH // 8) * -(-HEIGHT // 8)]


def test_the_loaders_reduce_only_where_the_option_says_so(folder):
    images = read_image_folder(folder)

    def trained(how: str) -> np.ndarray:
        loader = TrainLoader(images, TRAIN, Targets(1), Division(4), seed=0, num_workers=1, decode=how)
        return next(iter(loader.epoch(0))).image

    def evaluated(how: str) -> np.ndarray:
        return next(iter(EvalLoader(images, EVALUATE["center"], 4, num_workers=1, decode=how))).image

    for batch in (trained, evaluated):
        exact, fast = batch("exact"), batch("fast")
        assert 0 < np.abs(fast - exact).max() < NEAR
    with rgb_image(images.paths[2]) as whole:
        np.testing.assert_array_equal(evaluated("exact")[2], EVALUATE["center"](whole.image))


@pytest.mark.parametrize("takes_pixels", [False, True])
def test_predictions_reduce_files_for_both_kinds_of_network(folder, takes_pixels):
    info = ModelInfo(ModelConfig("test_beit_patch8_32", image_size=32, num_classes=2), (), (0.5,) * 3, (0.5,) * 3, 1.0)
    paths = [folder / "class" / "0.jpg"]
    exact, fast = (
        next(iter(image_batches(paths, preparation_of(info, takes_pixels, how), 1, 1))).image.astype(float)
        for how in ("exact", "fast")
    )
    assert 0 < np.abs(fast - exact).max() <= (2 if takes_pixels else 4 * LEVEL)
    with pytest.raises(UserError, match="decode is 'quick'; set it to exact or fast"):
        preparation_of(info, takes_pixels, "quick")
