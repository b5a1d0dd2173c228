"""From a decoded image to the network's input: the training and the evaluation transform.

Pixel for pixel those of timm's `create_transform`, with which BEiT was fine-tuned; resizing, cropping and flipping are
torchvision's on Pillow images. Images are Pillow images of mode RGB, results float32 [3, S, S].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from src.data.augment.auto_augment import Augment, auto_augment
from src.data.augment.random_erasing import RandomErasing
from src.errors import UserError

FILTERS: dict[str, tuple[Image.Resampling, ...]] = {
    "nearest": (Image.Resampling.NEAREST,),
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "lanczos": (Image.Resampling.LANCZOS,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}
CROP_RATIO = (3 / 4, 4 / 3)
# Evaluation resizes the shorter side, whatever becomes of the longer one: an image of 1 x 60000 pixels would take
# 11 GB for a network of 224 pixels. Photos end at about 1 : 20.
LARGEST_ASPECT = 200
_CROP_ATTEMPTS = 10

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop, flip, augmentation or color jitter, normalization, erasing. See `train_transform`."""

    image_size: int
    min_crop: float
    filters: tuple[Image.Resampling, ...]
    hflip: float
    augment: Augment | None
    color_jitter: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    erase: RandomErasing | None

    def __call__(self, image: Image.Image, rng: np.random.Generator, out: np.ndarray | None = None) -> np.ndarray:
        """The transformed image, float32 [3, S, S], written into `out` where that is given."""
        box = random_crop_box(rng, image.width, image.height, (self.min_crop, 1.0), CROP_RATIO)
        resample = self.filters[int(rng.random() * len(self.filters))] if len(self.filters) > 1 else self.filters[0]
        image = image.crop(box).resize((self.image_size, self.image_size), resample)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment is not None:
            image = self.augment(image, rng)
        if self.color_jitter > 0:
            image = jitter_colors(image, *draw_jitter(rng, self.color_jitter))
        array = normalize(image, self.mean, self.std, out)
        if self.erase is not None:
            self.erase(array, rng)
        return array


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side, crop the center, normalize. See `eval_transform`."""

    image_size: int
    resized: int
    resample: Image.Resampling
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image, out: np.ndarray | None = None) -> np.ndarray:
        """The transformed image, float32 [3, S, S], written into `out` where that is given."""
        image = resized_centre(image, self.resized, self.image_size, self.resample)
        return normalize(image, self.mean, self.std, out)


def train_transform(
    *,
    image_size: int,
    min_crop: float,
    interpolation: str,
    auto_augment: str | None,
    mean: Sequence[float],
    std: Sequence[float],
    re_prob: float,
    re_mode: str,
    re_count: int,
    hflip: float = 0.5,
    color_jitter: float = 0.4,
) -> TrainTransform:
    """The transform of timm's `create_transform(is_training=True)`, as the authors of BEiT call it.

    The crop covers `min_crop` to all of the image's area. `interpolation` (see `FILTERS`) is used for the crop and by
    the augmentation; `random` draws between bilinear and bicubic each time. Colors are jittered only where no
    `auto_augment` policy is set or where it is one of 3-Augment's, of which jitter is a part. `mean` and `std` are of
    RGB values in 0..1. Images of 32 pixels or fewer are not treated otherwise, where the authors pad and crop those.
    Raises `UserError` for an unknown interpolation, policy or erasing mode.
    """
    filters = _filters("aa_interpolation", interpolation)
    return TrainTransform(
        image_size=image_size,
        min_crop=min_crop,
        filters=filters,
        hflip=hflip,
        augment=_augment(auto_augment, filters, mean),
        color_jitter=0.0 if auto_augment and "3a" not in auto_augment else color_jitter,
        mean=tuple(mean),
        std=tuple(std),
        erase=RandomErasing(re_prob, re_mode, re_count) if re_prob > 0 else None,
    )


def eval_transform(
    *,
    image_size: int,
    crop_pct: float,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
) -> EvalTransform:
    """The transform of timm's `create_transform(is_training=False)` with its center crop.

    The shorter side becomes `image_size / crop_pct` pixels, rounded down. The authors do not resize for an `image_size`
    of 32 or less (their CIFAR images have that size already); here every image is resized, as timm does it.
    """
    if interpolation == "random":
        raise UserError("interpolation: evaluation cannot draw its filter; take nearest, bilinear, bicubic or lanczos")
    if not 0 < crop_pct <= 1:
        raise UserError(f"crop_pct: the crop's share of the resized image is above 0 and at most 1, not {crop_pct}")
    return EvalTransform(
        image_size=image_size,
        resized=math.floor(image_size / crop_pct),
        resample=_filters("interpolation", interpolation)[0],
        mean=tuple(mean),
        std=tuple(std),
    )


def _filters(option: str, interpolation: str) -> tuple[Image.Resampling, ...]:
    if interpolation not in FILTERS:
        raise UserError(f"{option}: {interpolation!r} is not a filter; take one of {', '.join(FILTERS)}")
    return FILTERS[interpolation]


def _augment(policy: str | None, filters: tuple[Image.Resampling, ...], mean: Sequence[float]) -> Augment | None:
    return auto_augment(policy, filters, mean) if policy else None


def random_crop_box(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """(left, upper, right, lower) of the random resized crop.

    Its area is a share of the image's drawn evenly from `scale`, its width over its height is drawn from `ratio`
    evenly in the logarithm. Where ten attempts do not fit into the image, the largest centered box of an allowed ratio
    is taken.
    """
    low_log, high_log = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area = (scale[0] + (scale[1] - scale[0]) * rng.random()) * (width * height)
        aspect = math.exp(low_log + (high_log - low_log) * rng.random())
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        # a box without a pixel, which only images of a few pixels can give, counts as one that does not fit
        if 0 < box_width <= width and 0 < box_height <= height:
            upper = int(rng.random() * (height - box_height + 1))
            left = int(rng.random() * (width - box_width + 1))
            return left, upper, left + box_width, upper + box_height
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    left, upper = (width - box_width) // 2, (height - box_height) // 2
    return left, upper, left + box_width, upper + box_height


def draw_jitter(rng: np.random.Generator, strength: float) -> tuple[list[int], tuple[float, float, float]]:
    """The order of brightness (0), contrast (1) and saturation (2), and their factors around 1."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    order = [int(index) for index in rng.permutation(3)]
    brightness, contrast, saturation = (low + (high - low) * rng.random() for _ in range(3))
    return order, (brightness, contrast, saturation)


def jitter_colors(image: Image.Image, order: Sequence[int], factors: Sequence[float]) -> Image.Image:
    """Apply the three changes of `draw_jitter` in the given order, as torchvision's `ColorJitter` does."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index in order:
        image = kinds[index](image).enhance(factors[index])
    return image


def resize_shorter_side(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Resize so that the shorter side has `size` pixels; the longer one is rounded down, as in torchvision."""
    return image.resize(_resized_sizes(image, size), resample)


def _resized_sizes(image: Image.Image, size: int) -> tuple[int, int]:
    if image.width <= image.height:
        return size, int(size * image.height / image.width)
    return int(size * image.width / image.height), size


def resized_centre(image: Image.Image, resized: int, size: int, resample: Image.Resampling) -> Image.Image:
    """`resize_shorter_side` to `resized` and `center_crop` to `size`, without resizing columns that are cut off.

    Pillow resizes first in width, then in height, and rounds in between: done as two calls, with the columns cut
    between them, it gives the same pixels in a tenth less time. `nearest` knows no such steps.
    """
    if resample == Image.Resampling.NEAREST:
        return center_crop(resize_shorter_side(image, resized, resample), size)
    width, height = _resized_sizes(image, resized)
    left, upper = _centered(width, size), _centered(height, size)
    image = image.resize((width, image.height), resample).crop((left, 0, left + size, image.height))
    return image.resize((size, height), resample).crop((0, upper, size, upper + size))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The square in the middle; an edge that would lie on half a pixel goes to the even number, as in torchvision."""
    left, upper = _centered(image.width, size), _centered(image.height, size)
    return image.crop((left, upper, left + size, upper + size))


def _centered(length: int, size: int) -> int:
    return round((length - size) / 2.0)


def normalize(
    image: Image.Image, mean: Sequence[float], std: Sequence[float], out: np.ndarray | None = None
) -> np.ndarray:
    """(value / 255 - mean) / std per channel, float32 [3, H, W], written into `out` where that is given."""
    if out is None:
        out = np.empty((3, image.height, image.width), dtype=np.float32)
    for channel, name in enumerate("RGB"):
        # One band after the other comes out contiguous, which halves the time against transposing H x W x 3. The
        # three steps round as torchvision's do.
        plane = np.frombuffer(image.tobytes("raw", name), dtype=np.uint8).reshape(image.height, image.width)
        target = out[channel]
        np.divide(plane, 255.0, out=target, dtype=np.float32)
        np.subtract(target, np.float32(mean[channel]), out=target)
        np.divide(target, np.float32(std[channel]), out=target)
    return out
