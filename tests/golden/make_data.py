"""Write data.npz: results of timm 1.0 and torchvision for given images, policies and random numbers.

Run it in the reference environment (PyTorch, timm), from this folder:  python make_data.py
Images are kept as hashes of their pixels (`digest`), so that the file stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np

with contextlib.suppress(ImportError):
    import reference_shim  # noqa: F401  (needed where torchvision comes without its compiled half)
import torch
import torchvision.transforms.functional as functional
from data_inputs import DRAWS, FILL_MEAN, FILL_STD, digest, example_image
from PIL import Image
from timm.data import Mixup, auto_augment, create_dataset, create_transform
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.datasets import ImageFolder

LEVELS = (0, 1, 2, 3, 3.7, 4, 5, 6, 7, 8, 9, 9.99, 10, 15)

POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand",
    "rand-m5-n3-p0.7",
    "rand-m15-mmax20-inc1",
    "rand-m9-mstd101",
    "rand-m7-mstd0-inc0",
    "rand-mstd1-tweights",
    "rand-n3-t3a",
    "rand-n4-m6-t3aw",
    "augmix-m3-w3",
    "augmix",
    "augmix-m5-w4-d2-mstd1.5",
    "augmix-m3-w2-d1-b1-a0.5",
    "augmix-m9-w4-b1",
    "original",
    "originalr",
    "v0",
    "v0r",
    "3a",
    "original-mstd0.5",
    "v0-mstd2",
)


class Script:
    """A stand-in for the random functions of Python, NumPy and torch that returns recorded numbers."""

    def __init__(self, uniforms: np.ndarray, normals: np.ndarray, dirichlet: np.ndarray, beta: float) -> None:
        self._uniforms = iter(uniforms.tolist())
        self._normals = iter(normals.tolist())
        self._dirichlet = dirichlet
        self._beta = beta

    def random(self) -> float:
        return next(self._uniforms)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._uniforms)

    def gauss(self, mean: float, std: float) -> float:
        return mean + std * next(self._normals)

    def randint(self, low: int, high: int) -> int:
        return low + int(next(self._uniforms) * (high - low + 1))

    def choice(self, items: list) -> object:
        return items[int(next(self._uniforms) * len(items))]

    def np_choice(self, items: list, count: int, replace: bool = True, p: np.ndarray | None = None) -> list:
        if replace:
            return [self.choice(items) for _ in range(count)]
        chosen: list[int] = []
        while len(chosen) < count:
            index = int(np.searchsorted(np.cumsum(p), next(self._uniforms), side="right"))
            if index not in chosen:
                chosen.append(index)
        return [items[index] for index in chosen]

    def np_randint(self, low: int, high: int) -> int:
        return self.randint(low, high - 1)

    def np_dirichlet(self, alphas: list[float]) -> np.ndarray:
        return self._dirichlet[: len(alphas)] / self._dirichlet[: len(alphas)].sum()

    def np_beta(self, a: float, b: float) -> float:
        return self._beta

    def torch_rand(self, count: int) -> torch.Tensor:
        return torch.tensor([next(self._uniforms)])

    def patched(self) -> ExitStack:
        stack = ExitStack()
        for name in ("random", "uniform", "gauss", "randint", "choice"):
            stack.enter_context(mock.patch.object(random, name, getattr(self, name)))
        for name in ("choice", "randint", "dirichlet", "beta"):
            stack.enter_context(mock.patch.object(np.random, name, getattr(self, f"np_{name}")))
        stack.enter_context(mock.patch.object(torch, "rand", self.torch_rand))
        return stack


def operations(image: Image.Image) -> dict[str, np.ndarray]:
    """The argument and the pixels of each operation at each level with each sign and filter."""
    names, arguments, digests = [], [], []
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    filters["nearest"] = Image.Resampling.NEAREST
    warps = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    for name, translate in [(name, 0.45) for name in auto_augment.NAME_TO_OP] + [("TranslateXRel", 0.3)]:
        if name in ("TranslateX", "TranslateY", "GaussianBlurRand"):
            continue  # no policy uses the first two; the third is random, see `scripted`
        for level in LEVELS:
            for sign, drawn in ((1, 0.1), (-1, 0.9)):
                to_argument = auto_augment.LEVEL_TO_ARG[name]
                with mock.patch.object(random, "random", lambda drawn=drawn: drawn):
                    argument = to_argument(level, {"translate_pct": translate}) if to_argument else ()
                for filter_name, resample in filters.items() if name in warps else [("none", None)]:
                    changed = auto_augment.NAME_TO_OP[name](
                        image, *argument, resample=resample, fillcolor=(124, 116, 104)
                    )
                    names.append(f"{name} {translate} {level} {sign} {filter_name}")
                    arguments.append(argument[0] if argument else 0.0)
                    digests.append(digest(np.asarray(changed)))
    return {"op_names": np.array(names), "op_arguments": np.array(arguments), "op_digests": np.array(digests)}


def build_policy(text: str) -> object:
    """Build the policy as timm's `create_transform` does for an image size of 40 and bicubic interpolation."""
    fill = tuple(min(255, round(255 * value)) for value in FILL_MEAN)
    hparams = {"translate_const": 18, "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
    if text.startswith("rand"):
        return auto_augment.rand_augment_transform(text, hparams)
    if text.startswith("augmix"):
        return auto_augment.augment_and_mix_transform(text, {**hparams, "translate_pct": 0.3})
    return auto_augment.auto_augment_transform(text, hparams)


def described(operation: auto_augment.AugmentOp) -> dict:
    return {
        "name": operation.name,
        "prob": operation.prob,
        "magnitude": operation.magnitude,
        "magnitude_std": str(float(operation.magnitude_std)),
        "magnitude_max": operation.magnitude_max or 10,
    }


def policy_fields() -> dict[str, np.ndarray]:
    """The fields of each policy string in timm, as JSON."""
    texts = []
    for text in POLICIES:
        policy = build_policy(text)
        if isinstance(policy, auto_augment.AutoAugment):
            fields = {"policy": [[described(op) for op in row] for row in policy.policy]}
        else:
            fields = {"ops": [described(op) for op in policy.ops]}
        if isinstance(policy, auto_augment.RandAugment):
            weights = policy.choice_weights
            fields |= {"num_layers": policy.num_layers, "weights": None if weights is None else list(weights)}
        if isinstance(policy, auto_augment.AugMixAugment):
            fields |= {key: getattr(policy, key) for key in ("alpha", "width", "depth", "blended")}
        texts.append(json.dumps(fields))
    return {"policy_names": np.array(POLICIES), "policy_fields": np.array(texts)}


def scripts(count: int, seed: int) -> dict[str, np.ndarray]:
    """The random numbers of `count` golden runs."""
    state = np.random.RandomState(seed)
    return {
        "uniforms": state.random_sample((count, 100)),
        "normals": state.standard_normal((count, 20)),
        "dirichlet": state.random_sample((count, 4)),
        "beta": state.random_sample(count),
    }


def script_of(drawn: dict[str, np.ndarray], run: int) -> Script:
    return Script(*(drawn[name][run] for name in ("uniforms", "normals", "dirichlet")), float(drawn["beta"][run]))


def scripted(image: Image.Image, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Results of every policy on the image with the random numbers of `drawn`."""
    digests = []
    for text in POLICIES:
        policy = build_policy(text)
        row = []
        for run in range(len(drawn["beta"])):
            with script_of(drawn, run).patched():
                row.append(digest(np.asarray(policy(image))))
        digests.append(row)
    return {"scripted_digests": np.array(digests), **{f"scripted_{name}": value for name, value in drawn.items()}}


def train_transforms(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Results of the training transform, float32, with the same random numbers."""
    image = example_image(61, 47, 1)
    results = {}
    for name, options in {
        "rand": {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"},
        "random": {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "random"},
        "none": {"auto_augment": None, "interpolation": "lanczos", "color_jitter": None},
        "original": {"auto_augment": "original", "interpolation": "bilinear"},
    }.items():
        transform = create_transform(
            10, is_training=True, mean=FILL_MEAN, std=FILL_STD, re_prob=0.5, re_mode="const", re_count=2, **options
        )
        runs = []
        for run in range(len(drawn["beta"])):
            with script_of(drawn, run).patched():
                runs.append(transform(image).numpy())
        results[f"train_{name}"] = np.stack(runs)
    # crops that are reduced to 30 pixels mostly in height, whose passes Pillow 13 swaps
    transform = create_transform(30, is_training=True, auto_augment=None, color_jitter=None, interpolation="bicubic")
    digests = []
    for run in range(len(drawn["beta"])):
        with script_of(drawn, run).patched():
            digests.append(digest(transform(example_image(47, 61, 4)).numpy()))
    return {**results, "train_tall_digests": np.array(digests)}


def eval_transforms() -> dict[str, np.ndarray]:
    """Results of the evaluation transform before normalization for many sizes, and one normalized result."""
    names, digests = [], []
    cases = [
        (image_size, crop_pct, interpolation, width, height, "center")
        for image_size, crop_pct in ((224, 0.9), (384, 1.0), (224, 0.875), (33, 0.9), (32, 0.95), (7, 0.6))
        for interpolation in ("bicubic", "bilinear")
        for width, height in ((500, 375), (375, 500), (101, 77), (77, 101), (31, 31), (640, 13), (3, 2), (1, 1))
        if interpolation == "bicubic" or image_size < 224
    ]
    long = ((600, 1500), (300, 900), (100, 1000), (2, 500), (3, 900))
    cases += [
        (image_size, 0.9, interpolation, *size, mode)
        for image_size, interpolation in ((224, "bicubic"), (33, "bilinear"), (33, "lanczos"), (33, "nearest"))
        for sides in long
        for size in (sides, sides[::-1])
        for mode in ("center", "squash")
    ]
    cases += [
        (image_size, crop_pct, "bicubic", width, height, "squash")
        for image_size, crop_pct in ((224, 1.0), (224, 0.875), (33, 0.9))
        for width, height in ((500, 375), (375, 500), (101, 77), (31, 31), (1, 1))
    ]
    for image_size, crop_pct, interpolation, width, height, mode in cases:
        transform = create_transform(
            image_size,
            is_training=False,
            crop_pct=crop_pct,
            crop_mode=mode,
            interpolation=interpolation,
            use_prefetcher=True,
        )
        names.append(f"{image_size} {crop_pct} {interpolation} {width} {height} {mode}")
        digests.append(digest(transform(example_image(width, height, 2)).numpy()))
    transform = create_transform(
        9, is_training=False, crop_pct=0.9, interpolation="bicubic", mean=FILL_MEAN, std=FILL_STD
    )
    normalized = transform(example_image(50, 37, 3)).numpy()
    return {"eval_names": np.array(names), "eval_digests": np.array(digests), "eval_normalized": normalized}


def histogram(values: list[int], size: int) -> np.ndarray:
    return np.bincount(values, minlength=size).astype(np.int32)


def crop_boxes() -> dict[str, np.ndarray]:
    """Histograms of left, upper, width, height and area (64 bins) of the random resized crop."""
    results = {}
    for width, height in ((500, 375), (40, 200), (6, 5)):
        random.seed(width)
        image = Image.new("RGB", (width, height))
        boxes = np.array(
            [RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)]
        )
        for column, name in enumerate(("upper", "left", "height", "width")):
            results[f"crop_{width}_{height}_{name}"] = histogram(boxes[:, column], max(width, height) + 1)
        areas = boxes[:, 2] * boxes[:, 3] * 64 // (width * height)
        results[f"crop_{width}_{height}_area"] = histogram(areas, 65)
    return results


def erasing() -> dict[str, np.ndarray]:
    """Histograms of the boxes of random erasing, of the area of three boxes, and of their values."""
    random.seed(5)
    torch.manual_seed(5)
    height, width = 24, 30
    boxes, missed = [], 0
    erase = RandomErasing(0.4, mode="const", max_count=1, device="cpu")
    for _ in range(DRAWS):
        erased = erase(torch.ones(1, height, width))[0].numpy() == 0
        if erased.any():
            rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
            boxes.append((rows[0], columns[0], len(rows), len(columns)))
        else:
            missed += 1
    boxes = np.array(boxes)
    results = {"erase_missed": np.array(missed)}
    for column, name in enumerate(("top", "left", "height", "width")):
        results[f"erase_{name}"] = histogram(boxes[:, column], max(height, width) + 1)
    three = RandomErasing(1.0, mode="const", max_count=3, device="cpu")
    areas = [int((three(torch.ones(1, height, width)) == 0).sum()) for _ in range(DRAWS)]
    results["erase_three_area"] = histogram(areas, height * width + 1)
    for mode in ("rand", "pixel"):
        fill = RandomErasing(1.0, mode=mode, max_count=1, device="cpu")
        values, spreads = [], []
        for _ in range(DRAWS // 10):
            image = fill(torch.full((3, height, width), 99.0)).numpy()
            erased = image[image != 99.0].reshape(3, -1)
            values.extend(erased[:, 0])
            spreads.append(len(np.unique(erased)))
        results[f"erase_{mode}_values"] = np.histogram(values, bins=np.linspace(-4, 4, 41))[0].astype(np.int32)
        results[f"erase_{mode}_distinct"] = np.array([min(spreads), max(spreads)])
    return results


def mixing() -> dict[str, np.ndarray]:
    """Batches mixed with given lambdas, methods and boxes, and histograms of timm's lambdas."""
    state = np.random.RandomState(6)
    batch, height, width, classes = 6, 8, 11, 5
    images = state.standard_normal((batch, 3, height, width)).astype(np.float32)
    labels = state.randint(0, classes, batch)
    results = {"mix_images": images, "mix_labels": labels}
    for mode, count in (("batch", 1), ("pair", batch // 2), ("elem", batch)):
        for kind in ("mixup", "cutmix", "both"):
            lam = state.random_sample(count)
            lam[0] = {"mixup": 0.3, "cutmix": 0.55, "both": 1.0}[kind]
            cut = {"mixup": np.zeros(count, bool), "cutmix": np.ones(count, bool), "both": np.arange(count) % 2 == 1}[
                kind
            ]
            center_y, center_x = state.randint(0, height, count), state.randint(0, width, count)
            for correct in (True, False):
                mixup = Mixup(1.0, 1.0, mode=mode, correct_lam=correct, label_smoothing=0.1, num_classes=classes)
                used = np.flatnonzero(cut & (lam != 1.0))
                centers = iter([value for index in used for value in (center_y[index], center_x[index])])
                mixup._params_per_batch = lambda lam=lam, cut=cut: (float(lam[0]), bool(cut[0]))
                mixup._params_per_elem = lambda count, lam=lam, cut=cut: (lam.astype(np.float32), cut.copy())
                with mock.patch.object(np.random, "randint", lambda low, high, size=None, c=centers: next(c)):
                    mixed, target = mixup(torch.from_numpy(images.copy()), torch.from_numpy(labels))
                prefix = f"mix_{mode}_{kind}_{int(correct)}"
                results |= {f"{prefix}_images": mixed.numpy(), f"{prefix}_target": target.numpy()}
            prefix = f"mix_{mode}_{kind}"
            results |= {f"{prefix}_lam": lam, f"{prefix}_cut": cut, f"{prefix}_y": center_y, f"{prefix}_x": center_x}
    for smoothing in (0.0, 0.1):
        target = mixup_target(torch.from_numpy(labels), classes, 0.7, smoothing)
        results[f"mix_target_{smoothing}"] = target.numpy()
    np.random.seed(7)
    for name, (alpha, cut_alpha, prob, switch) in {
        "both": (0.8, 1.0, 1.0, 0.5),
        "rare": (0.8, 0.6, 0.7, 0.2),
        "mixup": (0.2, 0.0, 1.0, 0.5),
        "cutmix": (0.0, 1.0, 0.5, 0.5),
    }.items():
        mixup = Mixup(alpha, cut_alpha, prob=prob, switch_prob=switch, mode="elem")
        lam, cut = mixup._params_per_elem(DRAWS)
        cut = cut & (lam != 1.0)
        results[f"lam_{name}_cut"] = np.histogram(lam[cut], bins=np.linspace(0, 1, 41))[0].astype(np.int32)
        results[f"lam_{name}_uncut"] = np.histogram(lam[~cut], bins=np.linspace(0, 1, 41))[0].astype(np.int32)
    return results


def jitter(image: Image.Image) -> dict[str, np.ndarray]:
    """Results of torchvision's color changes in a given order with given factors."""
    changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    orders = np.array([(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
    factors = np.random.RandomState(8).uniform(0.6, 1.4, (len(orders), 3))
    digests = []
    for order, row in zip(orders, factors):
        changed = image
        for index in order:
            changed = changes[index](changed, row[index])
        digests.append(digest(np.asarray(changed)))
    return {"jitter_orders": orders, "jitter_factors": factors, "jitter_digests": np.array(digests)}


def files() -> dict[str, tuple[str, bytes]]:
    """Small image files of the common kinds, as bytes."""
    image = example_image(12, 9, 9)
    gray = image.convert("L")
    with_alpha = image.copy()
    with_alpha.putalpha(gray)
    palette = image.quantize(17)
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16) * 250)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    kinds: dict[str, tuple[str, Image.Image, dict]] = {
        "rgb": ("png", image, {}),
        "gray": ("png", gray, {}),
        "gray_alpha": ("png", with_alpha.convert("LA"), {}),
        "rgba": ("png", with_alpha, {}),
        "palette": ("png", palette, {}),
        "palette_transparent": ("png", palette, {"transparency": bytes([0, 128, 255])}),
        "bilevel": ("png", image.convert("1"), {}),
        "sixteen_bit": ("png", wide, {}),
        "sixteen_bit_tiff": ("tiff", wide, {}),
        "jpeg": ("jpeg", image, {"quality": 90}),
        "jpeg_gray": ("jpeg", gray, {"quality": 90}),
        "jpeg_cmyk": ("jpeg", image.convert("CMYK"), {"quality": 90}),
        "jpeg_rotated": ("jpeg", image, {"quality": 90, "exif": rotated}),
        "animated": ("gif", palette, {"save_all": True, "append_images": [gray.quantize(9)]}),
        "bmp": ("bmp", image, {}),
        "webp": ("webp", image, {"lossless": True}),
        "ppm": ("ppm", image, {}),
        "one_pixel": ("png", image.crop((3, 3, 4, 4)), {}),
    }
    result = {}
    for name, (suffix, content, options) in kinds.items():
        buffer = io.BytesIO()
        content.save(buffer, suffix, **options)
        result[name] = (suffix, buffer.getvalue())
    return result


def decoded() -> dict[str, np.ndarray]:
    """The images of timm's data set for each file."""
    results: dict[str, np.ndarray] = {}
    names = []
    for name, (suffix, content) in files().items():
        with tempfile.TemporaryDirectory() as root:
            place = Path(root, "c")
            place.mkdir()
            # timm lists .jpg, .jpeg and .png only, but opens by content
            Path(place, "image.png").write_bytes(content)
            image, _ = create_dataset("", root=root)[0]
        names.append(f"{name}.{suffix}")
        results[f"file_{name}"] = np.frombuffer(content, dtype=np.uint8)
        results[f"decoded_{name}"] = np.asarray(image)
    return {"file_names": np.array(names), **results}


def folder_order() -> dict[str, np.ndarray]:
    """The order in which torchvision lists the images of a tree."""
    tree = [
        "b/10.png",
        "b/9.png",
        "b/a/1.JPG",
        "b/a b/1.jpeg",
        "b/a/deeper/0.webp",
        "b/notes.txt",
        "B/z.bmp",
        "B/.hidden.png",
        "a c/x.tif",
        "a c/X.tiff",
        "ä/é.ppm",
        "ä/e.pgm",
        "a/1/2/3/4.jpeg",
    ]
    with tempfile.TemporaryDirectory() as root:
        for name in tree:
            path = Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        folder = ImageFolder(root)
        listed = [f"{label} {Path(path).relative_to(root)}" for path, label in folder.samples]
    return {"tree": np.array(tree), "tree_listed": np.array(listed), "tree_classes": np.array(folder.classes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("data.npz"))
    output = parser.parse_args().output
    image = example_image(45, 37, 0)
    drawn = scripts(12, 4)
    arrays = {"image": np.asarray(image)}
    for part in (
        operations(image),
        policy_fields(),
        scripted(image, drawn),
        train_transforms(drawn),
        eval_transforms(),
    ):
        arrays |= part
    for part in (crop_boxes(), erasing(), mixing(), jitter(image), decoded(), folder_order()):
        arrays |= part
    np.savez_compressed(output, **arrays)
    print(f"{output}: {len(arrays)} arrays, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
