"""The data of pre-training: the authors' views, and batches that depend on seed, epoch and image only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data import crop_jitter
from src.data.image_folder import ImageFolder, read_image_tree
from src.data.masked_images import MaskedLoader
from src.data.masking import Masking
from src.data.reduction import Decoded, whole
from src.data.shuffled_loader import Division
from src.data.transforms import FILTERS, draw_jitter, jitter_colors
from src.data.views import Draw, ViewTransform
from src.model.model_info import IMAGENET_DEFAULT_MEAN_STD, IMAGENET_INCEPTION_MEAN_STD
from tests.golden.data_inputs import example_image
from tests.golden.masked_data_inputs import SIDE, TOKEN_SIDE, VIEWS

GOLDEN = np.load(Path(__file__).parent / "golden" / "masked_data.npz")


def views(**changes) -> ViewTransform:
    mean, std = IMAGENET_INCEPTION_MEAN_STD
    options = {"image_size": SIDE, "token_size": TOKEN_SIDE, "interpolation": "bicubic", "min_crop": 0.08}
    options |= {"second_interpolation": "lanczos", "color_jitter": 0.4, "hflip": 0.5, "mean": mean, "std": std}
    return ViewTransform(**{**options, **changes})


@pytest.mark.parametrize("number", range(len(VIEWS)))
@pytest.mark.parametrize("normalization", ["half", "imagenet"])
def test_both_views_are_the_authors_pixels(number, normalization):
    case = VIEWS[number]
    mean, std = IMAGENET_DEFAULT_MEAN_STD if normalization == "imagenet" else IMAGENET_INCEPTION_MEAN_STD
    transform = views(mean=mean, std=std, second_interpolation=case.second_interpolation)
    draw = Draw(([*case.order], case.factors), case.flipped, case.box, FILTERS[case.interpolation][0])
    image, token_image = np.empty((3, SIDE, SIDE), np.float32), np.empty((3, TOKEN_SIDE, TOKEN_SIDE), np.uint8)
    transform.apply(whole(example_image(*case.size, case.seed)), draw, image, token_image)
    np.testing.assert_array_equal(image, GOLDEN[f"view{number}/patches_{normalization}"])
    np.testing.assert_array_equal(token_image / np.float32(255), GOLDEN[f"view{number}/vqkd"])


def test_the_random_numbers_have_the_authors_distributions():
    draws = [views().draw((100, 80), np.random.default_rng(seed)) for seed in range(4000)]
    factors = np.array([draw.jitter[1] for draw in draws])
    assert (factors.min() >= 0.6, factors.max() <= 1.4) == (True, True)
    np.testing.assert_allclose(factors.mean(0), 1, atol=0.02)
    orders = {tuple(draw.jitter[0]) for draw in draws}
    assert len(orders) == 6
    assert np.mean([draw.flipped for draw in draws]) == pytest.approx(0.5, abs=0.04)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) / 8000 for box in (draw.box for draw in draws)]
    assert min(areas) == pytest.approx(0.08, abs=0.01)
    assert views(hflip=0, color_jitter=0).draw((9, 9), np.random.default_rng(0))[:2] == (None, False)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 70), st.integers(1, 3000))
def test_a_jittered_crop_equals_the_crop_of_the_jittered_image_for_any_strip(seed, width, height, strip):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    box = (width // 3, height // 4, width, max(height // 4 + 1, height // 2))
    order, factors = draw_jitter(rng, 0.9)
    ours = image.crop(box)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crop_jitter, "STRIP", strip)
        crop_jitter.jitter_crop(image, ours, order, factors)
    assert np.array_equal(np.asarray(ours), np.asarray(jitter_colors(image, order, factors).crop(box)))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_reduced_image_gives_nearly_the_same_views(flipped):
    """Smooth pixels at half the size, 101 x 75 from 201 x 149: the crop must not move by half a pixel."""
    y, x = np.mgrid[0:149, 0:201]
    smooth = np.stack([x, y, (x + y) / 2], 2).astype(np.uint8)
    image = Image.fromarray(smooth)
    half = Decoded(image.reduce(2), image.size, 2)
    draw = Draw(None, flipped, (23, 11, 140, 120), Image.Resampling.BICUBIC)
    results = []
    for source in (whole(image), half):
        out = np.empty((3, SIDE, SIDE), np.float32)
        views().apply(source, draw, out, None)
        results.append(out)
    assert np.abs(results[0] - results[1]).max() < 2 / 127.5


@pytest.fixture
def folder(tmp_path) -> ImageFolder:
    for number in range(14):
        place = tmp_path / ("a" if number % 2 else "b/c")
        place.mkdir(parents=True, exist_ok=True)
        example_image(40 + number, 50 - number, number).save(place / f"{number}.png")
    return read_image_tree(tmp_path)


def loader(folder: ImageFolder, division: Division, workers: int = 2, seed: int = 0, **changes) -> MaskedLoader:
    masking = Masking(4, 6, least=2)
    return MaskedLoader(folder, views(**changes), masking, division, seed, workers, max_bad_images=0.5)


def test_batches_have_the_documented_fields(folder):
    batch = next(iter(loader(folder, Division(4)).epoch(0)))
    assert type(batch)._fields == loader(folder, Division(4)).batch_fields
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch._asdict().items()}
    assert shapes == {
        "image": ((4, 3, SIDE, SIDE), "float32"),
        "mask": ((4, 16), "float32"),
        "positions": ((4, 6), "int32"),
        "weights": ((4, 6), "float32"),
        "key": ((4,), "int32"),
        "token_image": ((4, 3, TOKEN_SIDE, TOKEN_SIDE), "uint8"),
    }
    assert (batch.mask.sum(1) == batch.weights.sum(1)).all()
    for mask, positions, weights in zip(batch.mask, batch.positions, batch.weights):
        assert (np.flatnonzero(mask) == positions[weights == 1]).all()
    without = loader(folder, Division(4), token_size=0)
    assert "token_image" not in without.batch_fields
    first = next(iter(without.epoch(0)))
    np.testing.assert_array_equal(first.image, batch.image)
    np.testing.assert_array_equal(first.mask, batch.mask)


def by_image(batches, indices) -> dict[int, tuple[bytes, ...]]:
    rows = (row for batch in batches for row in zip(*batch))
    return {int(index): tuple(array.tobytes() for array in row) for index, row in zip(indices, rows)}


def test_a_sample_depends_on_seed_epoch_and_image_only(folder):
    """Not on the threads, the ranks, the micro-batches or where the epoch was entered."""
    one = loader(folder, Division(8), workers=1)
    reference = list(one.epoch(3))
    again = list(loader(folder, Division(8), workers=3).epoch(3))
    for ours, theirs in zip(reference, again):
        assert all((a == b).all() for a, b in zip(ours, theirs))
    parts = [loader(folder, Division(2, rank, 2, 2)) for rank in range(2)]
    rows = {key: row for batch in reference for key, row in zip(batch.key.tolist(), zip(*batch))}
    found = 0
    for part in parts:
        for batch in part.epoch(3):
            for key, row in zip(batch.key.tolist(), zip(*batch)):
                assert all((a == b).all() for a, b in zip(rows[key], row))
                found += 1
    assert found == len(rows) == 8
    assert not (next(iter(one.epoch(4))).mask == reference[0].mask).all()
    other = next(iter(loader(folder, Division(8), seed=1).epoch(3)))
    assert not (other.image == reference[0].image).all()
    small = loader(folder, Division(2))
    assert all((a == b).all() for a, b in zip(list(small.epoch(1))[3], next(iter(small.epoch(1, 3)))))


def test_an_unreadable_image_is_replaced_by_another(folder):
    Path(folder.paths[2]).write_bytes(b"no image")
    ours = loader(folder, Division(14))
    batch = next(iter(ours.epoch(0)))
    assert np.isfinite(batch.image).all()
    assert ours.unreadable.count(0) == 1
