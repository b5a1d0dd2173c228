"""The training and evaluation transforms against timm's: crops, flips, normalization, random erasing."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.data import transforms
from src.data.augment.random_erasing import RandomErasing, draw_box
from src.data.transforms import (
    CROP_MODES,
    FILTERS,
    EvalTransform,
    TrainTransform,
    normalize,
    random_crop_box,
    resize,
)
from src.errors import UserError
from tests.golden.data_inputs import (
    DRAWS,
    FILL_MEAN,
    FILL_STD,
    RESIZE_CASES,
    ScriptedGenerator,
    digest,
    example_image,
    ks_distance,
)

ROOT = Path(__file__).parents[1]
GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "data.npz"))
HALF = (0.5, 0.5, 0.5)

# Two samples of DRAWS values from one distribution exceed this distance with a probability of 1 in 10,000
# (Kolmogorov-Smirnov: sqrt(-ln(0.0001 / 2) / 2) = 2.225, times sqrt(2 / n)), or less if the values are discrete.
KS_LIMIT = 2.225 * math.sqrt(2 / DRAWS)


def train(**options) -> TrainTransform:
    defaults = {"image_size": 10, "min_crop": 0.08, "interpolation": "bicubic", "mean": FILL_MEAN, "std": FILL_STD}
    return TrainTransform(**{**defaults, **options})


def pixels_of(image: Image.Image) -> str:
    """The digest of an image in timm's layout, uint8 [3, H, W]."""
    return digest(np.asarray(image).transpose(2, 0, 1))


def test_evaluation_gives_timms_pixels_for_large_small_odd_and_long_images_in_both_crop_modes():
    wrong = []
    for case, pixels in zip(GOLDEN["eval_names"], GOLDEN["eval_digests"]):
        image_size, crop_pct, interpolation, width, height, crop_mode = case.split()
        transform = EvalTransform(int(image_size), float(crop_pct), HALF, HALF, interpolation, crop_mode)
        if pixels_of(transform.resize_and_crop(example_image(int(width), int(height), 2))) != pixels:
            wrong.append(case)
    assert not wrong
    assert {case.split()[-1] for case in GOLDEN["eval_names"]} == set(CROP_MODES)


def test_resize_gives_the_pixels_of_pillow_11_under_every_version():
    golden = json.loads((Path(__file__).parent / "golden" / "resize.json").read_text())
    pillow_11, pillow_13 = (next(golden[name] for name in golden if name.startswith(major)) for major in ("11.", "13."))
    for source, size, name in RESIZE_CASES:
        case = f"{source} to {size} {name}"
        resized = resize(example_image(*source, 2), size, FILTERS[name][0])
        assert digest(np.asarray(resized)) == pillow_11[case], case
        # Pillow 13 swaps the passes of an interpolating filter if the height shrinks by over twice the width's pixels
        swapped = source[1] - size[1] > max(0, 2 * (source[0] - size[0])) and name != "nearest"
        assert (pillow_13[case] != pillow_11[case]) == swapped, case


@pytest.mark.parametrize("crop_mode", CROP_MODES)
def test_the_onnx_program_of_the_readme_prepares_the_same_values(crop_mode, tmp_path, monkeypatch):
    about = {"image_size": "33", "class_names": "[]", "mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}
    about |= {"crop_pct": "0.9", "interpolation": "bicubic", "crop_mode": crop_mode}
    prepared: list[np.ndarray] = []

    class Session:
        def get_modelmeta(self) -> SimpleNamespace:
            return SimpleNamespace(custom_metadata_map=about)

        def run(self, _: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            prepared.append(inputs["image"][0])
            return [np.zeros((1, 2), np.float32)]

    paths = []
    for width, height in ((600, 1500), (1500, 600), (60, 61), (100, 1000), (7, 5)):
        paths.append(tmp_path / f"{width}.png")
        example_image(width, height, 5).save(paths[-1])
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda _: Session()))
    monkeypatch.setattr(sys, "argv", ["predict", "beit.onnx", *map(str, paths)])
    runpy.run_path(str(ROOT / "tests" / "predict_with_onnx_alone.py"))
    transform = EvalTransform(33, 0.9, FILL_MEAN, FILL_STD, crop_mode=crop_mode)
    for path, values in zip(paths, prepared, strict=True):
        np.testing.assert_array_equal(values, transform(Image.open(path)), err_msg=path.name)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (37, 90), (1000, 61), (61, 1000)])
def test_a_window_is_a_part_of_the_whole_resize(size, name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    whole = np.asarray(resize(image, (140, 91), FILTERS[name][0]))
    window = resize(image, (140, 91), FILTERS[name][0], (31, 7, 95, 71))
    np.testing.assert_array_equal(np.asarray(window), whole[7:71, 31:95])


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(3, 2000), (2000, 3), (1, 700), (700, 1), (40, 9000), (9000, 40), (500, 375)])
def test_the_window_of_a_very_long_image_differs_from_the_whole_resize_by_at_most_one_level(size, name, monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    transform = EvalTransform(64, 0.9, HALF, HALF, name)
    whole = np.asarray(transform.resize_and_crop(image)).astype(int)
    monkeypatch.setattr(transforms, "_LONGEST_SIDE", 1)
    window = np.asarray(transform.resize_and_crop(image)).astype(int)
    assert abs(window - whole).max() <= 1
    # measured: at most 1 value in 60, in the bilinear reduction of 40 x 9000, whose weights are round fractions
    assert (window != whole).mean() < 1 / 50


@pytest.mark.parametrize("shape", [(60_000, 1, 3), (1, 60_000, 3)])
def test_an_image_of_one_by_60000_pixels_takes_less_than_100_megabytes(shape):
    """The whole resize would take 15 GB, which the address space of this process does not have room for."""
    code = (
        "import resource\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from src.data.transforms import EvalTransform\n"
        "transform = EvalTransform(224, 0.9, (0.5,) * 3, (0.5,) * 3)\n"
        "transform(Image.new('RGB', (9, 9)))\n"
        f"image = Image.fromarray(np.full({shape}, 51, np.uint8))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, used + 10**8))\n"
        "assert abs(transform(image) + 0.6).max() < 1e-6\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_evaluation_transform_normalizes_like_torchvision():
    transform = EvalTransform(image_size=9, crop_pct=0.9, mean=FILL_MEAN, std=FILL_STD)
    array = transform(example_image(50, 37, 3))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, GOLDEN["eval_normalized"])


def test_normalization_writes_into_its_out_argument():
    image = Image.new("RGB", (4, 2), (0, 255, 51))
    out = np.full((2, 3, 2, 4), 7.0, dtype=np.float32)
    normalize(image, HALF, (0.5, 0.5, 0.25), out[1])
    assert (out[0] == 7).all()
    # 51 / 255 = 0.2, and (0.2 - 0.5) / 0.25 = -1.2
    np.testing.assert_allclose(out[1].mean(axis=(1, 2)), [-1, 1, -1.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rand", {"auto_augment": "rand-m9-mstd0.5-inc1"}),
        ("random", {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"}),
        ("none", {"interpolation": "lanczos", "color_jitter": 0.0}),
        ("original", {"auto_augment": "original", "interpolation": "bilinear"}),
    ],
)
def test_the_training_transform_gives_timms_values_with_the_same_random_numbers(name, options):
    transform = train(erasing=RandomErasing(0.5, "const", 2), **options)
    image = example_image(61, 47, 1)
    expected = GOLDEN[f"train_{name}"]
    for run, values in enumerate(expected):
        np.testing.assert_array_equal(transform(image, ScriptedGenerator(GOLDEN, run)), values)


def test_the_training_crop_of_a_tall_image_gives_the_pixels_of_pillow_11():
    transform = train(image_size=30, color_jitter=0.0)
    image = example_image(47, 61, 4)
    for run, pixels in enumerate(GOLDEN["train_tall_digests"]):
        assert digest(transform(image, ScriptedGenerator(GOLDEN, run))) == pixels


def test_colors_are_jittered_only_without_a_policy_and_with_3_augment():
    gray = Image.new("RGB", (20, 20), (100, 150, 200))

    def changed(policy: str | None) -> int:
        runs = [train(auto_augment=policy, hflip=0.0)(gray, np.random.default_rng(seed)) for seed in range(30)]
        plain = train(color_jitter=0.0, hflip=0.0)(gray, np.random.default_rng(0))
        return sum(not np.array_equal(run, plain) for run in runs)

    assert changed(None) == 30
    assert changed("rand-m0-p0") == 0
    assert changed("rand-t3a-p0") == 30


def test_images_are_flipped_with_probability_hflip():
    image = Image.new("RGB", (8, 8))
    image.putpixel((0, 0), (255, 255, 255))

    def flipped(hflip: float) -> int:
        transform = train(image_size=8, min_crop=1.0, interpolation="nearest", color_jitter=0.0, hflip=hflip)
        runs = (transform(image, np.random.default_rng(seed)) for seed in range(200))
        return sum(run[0, 0, 7] > run[0, 0, 0] for run in runs)

    assert flipped(0.0) == 0
    assert flipped(1.0) == 200
    assert 0.25 * 200 - 25 < flipped(0.25) < 0.25 * 200 + 25  # four standard deviations


@pytest.mark.parametrize(("width", "height"), [(500, 375), (40, 200), (6, 5)])
def test_crop_boxes_are_distributed_like_timms(width, height):
    rng = np.random.default_rng(1)
    boxes = np.array([random_crop_box(rng, width, height, 0.08) for _ in range(DRAWS)])
    ours = {
        "left": boxes[:, 0],
        "upper": boxes[:, 1],
        "width": boxes[:, 2] - boxes[:, 0],
        "height": boxes[:, 3] - boxes[:, 1],
    }
    ours["area"] = ours["width"] * ours["height"] * 64 // (width * height)
    for name, values in ours.items():
        golden = GOLDEN[f"crop_{width}_{height}_{name}"]
        distance = ks_distance(np.bincount(values, minlength=len(golden)), golden)
        assert distance < KS_LIMIT, (name, distance)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1.0), st.integers(0, 2**32))
def test_a_crop_box_has_pixels_and_is_inside_an_image_of_any_size(width, height, min_crop, seed):
    box = random_crop_box(np.random.default_rng(seed), width, height, min_crop)
    left, upper, right, lower = box
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height


def test_a_long_strip_is_cropped_to_the_largest_allowed_centered_box():
    # no box of 100 x 4 covers 90% of it with a ratio below 4/3, so every draw gives the centered 5 x 4
    box = random_crop_box(np.random.default_rng(0), 100, 4, 0.9)
    assert box == (47, 0, 52, 4)
    box = random_crop_box(np.random.default_rng(0), 3, 100, 0.9)
    assert box == (0, 48, 3, 52)


def erased_boxes(prob: float) -> tuple[np.ndarray, int]:
    rng = np.random.default_rng(2)
    erase = RandomErasing(prob, "const", 1)
    boxes, missed = [], 0
    for _ in range(DRAWS):
        image = np.ones((1, 24, 30), dtype=np.float32)
        erase(image, rng)
        erased = image[0] == 0
        if erased.any():
            rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
            assert erased.sum() == len(rows) * len(columns)
            boxes.append((rows[0], columns[0], len(rows), len(columns)))
        else:
            missed += 1
    return np.array(boxes), missed


def test_erased_boxes_are_distributed_like_timms():
    boxes, missed = erased_boxes(0.4)
    # both counts are binomial: four standard deviations of their difference
    assert abs(missed - int(GOLDEN["erase_missed"])) < 4 * math.sqrt(2 * DRAWS * 0.24)
    assert missed == pytest.approx(0.6 * DRAWS, abs=4 * math.sqrt(DRAWS * 0.24))
    limit = 2.225 * math.sqrt(2 / (0.4 * DRAWS))
    for column, name in enumerate(("top", "left", "height", "width")):
        golden = GOLDEN[f"erase_{name}"]
        distance = ks_distance(np.bincount(boxes[:, column], minlength=len(golden)), golden)
        assert distance < limit, (name, distance)


def test_several_erased_boxes_share_the_area_as_in_timm():
    rng = np.random.default_rng(3)
    erase = RandomErasing(1.0, "const", 3)
    areas = []
    for _ in range(DRAWS):
        image = np.ones((1, 24, 30), dtype=np.float32)
        erase(image, rng)
        areas.append(int((image == 0).sum()))
    golden = GOLDEN["erase_three_area"]
    assert ks_distance(np.bincount(areas, minlength=len(golden)), golden) < KS_LIMIT


@pytest.mark.parametrize("mode", ["rand", "pixel"])
def test_boxes_are_filled_with_normal_noise_per_box_or_per_pixel_as_in_timm(mode):
    rng = np.random.default_rng(4)
    erase = RandomErasing(1.0, mode, 1)
    values, distinct = [], []
    for _ in range(DRAWS // 10):
        image = np.full((3, 24, 30), 99, dtype=np.float32)
        erase(image, rng)
        erased = image[image != 99].reshape(3, -1)
        values.extend(erased[:, 0])
        distinct.append(len(np.unique(erased)))
    histogram = np.histogram(values, bins=np.linspace(-4, 4, 41))[0]
    golden = GOLDEN[f"erase_{mode}_values"]
    assert ks_distance(histogram, golden) < 2.225 * math.sqrt(2 / len(values))
    assert np.mean(values) == pytest.approx(0, abs=4 / math.sqrt(len(values)))
    assert np.std(values) == pytest.approx(1, abs=4 / math.sqrt(2 * len(values)))
    fewest, most = GOLDEN[f"erase_{mode}_distinct"]
    if mode == "rand":
        assert (min(distinct), max(distinct)) == (fewest, most) == (3, 3)
    else:
        # one value per pixel and channel of the box, 2% to a third of 24 x 30 x 3
        assert abs(min(distinct) - fewest) <= 20
        assert abs(max(distinct) - most) <= 40


def test_an_erased_box_is_smaller_than_the_image_on_both_sides():
    rng = np.random.default_rng(0)
    for _ in range(500):
        box = draw_box(rng, 5, 4, 1)
        if box is not None:
            top, left, height, width = box
            assert height < 5 >= top + height
            assert width < 4 >= left + width


def test_an_image_of_one_pixel_is_never_erased():
    for seed in range(50):
        image = np.ones((3, 1, 1), dtype=np.float32)
        RandomErasing(1.0, "const", 1)(image, np.random.default_rng(seed))
        assert (image == 1).all()


@pytest.mark.parametrize(
    ("build", "parts"),
    [
        (lambda: train(auto_augment="rand-q1"), ("auto_augment", "'q1'", "mstd")),
        (lambda: EvalTransform(8, 1.5, HALF, HALF), ("crop_pct", "1.5", "above 0 and at most 1")),
        (lambda: EvalTransform(8, 0.9, HALF, HALF, "random"), ("interpolation", "'random'", "bicubic")),
        (lambda: EvalTransform(8, 0.9, HALF, HALF, "cubic"), ("interpolation", "'cubic'", "bicubic")),
        (lambda: EvalTransform(8, 0.9, HALF, HALF, crop_mode="border"), ("crop_mode", "'border'", "center, squash")),
    ],
)
def test_a_wrong_option_gives_an_error_with_its_name_its_value_and_the_fix(build, parts):
    with pytest.raises(UserError) as error:
        build()
    assert all(part in str(error.value) for part in parts)
