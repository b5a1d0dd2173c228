"""Training and evaluation transforms: from a decoded image to the network's input.

Pixels equal those of timm's `create_transform`, with which BEiT was fine-tuned. Inputs are Pillow images of mode RGB,
results are float32 [3, S, S]. Images that were reduced while they were decoded get the same crop with slightly other
pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from src.data.augment.auto_augment import auto_augment
from src.data.augment.random_erasing import RandomErasing
from src.data.reduction import Box, Decoded, Edges, Size, largest_reduction, whole
from src.errors import UserError
from src.model.model_info import ModelInfo

FILTERS: dict[str, tuple[Image.Resampling, ...]] = {
    "nearest": (Image.Resampling.NEAREST,),
    "bilinear": (Image.Resampling.BILINEAR,),
    "bicubic": (Image.Resampling.BICUBIC,),
    "lanczos": (Image.Resampling.LANCZOS,),
    "random": (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
}
CROP_MODES = ("center", "squash")
CROP_RATIO = (3 / 4, 4 / 3)
# Longest side of a whole resize (see `resize`). With crop_pct 0.9 a 224-pixel network reaches it at an aspect ratio of
# 528, a 512-pixel network at 230, with 120 and 270 MB.
_LONGEST_SIDE = 2**17
# Up to this size, three operations on all channels together take less time than nine on one each.
_FEW_PIXELS = 64 * 64


@dataclass
class TrainTransform:
    """Random resized crop, flip, augmentation policy or color jitter, normalization and random erasing.

    Equals timm's `create_transform(is_training=True)` as the authors of BEiT call it, except that the authors pad and
    crop images of 32 pixels or fewer. Raises `UserError` for an unknown policy.

    Attributes:
        image_size: side of the result in pixels.
        min_crop: smallest area of the random resized crop, as a share of the image.
        interpolation: filter of the crop and of `auto_augment`, a key of `FILTERS`; `random` draws one for each use.
        mean, std: of RGB values in 0..1.
        auto_augment: policy in timm's grammar (see `parse_policy`), or None.
        color_jitter: strength of the color jitter, which runs without a policy and with 3-Augment's policies only.
        hflip: probability of a horizontal flip.
        erasing: random erasing, or None.
    """

    image_size: int
    min_crop: float
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    auto_augment: str | None = None
    color_jitter: float = 0.4
    hflip: float = 0.5
    erasing: RandomErasing | None = None

    def __post_init__(self) -> None:
        policy, self._filters = self.auto_augment, FILTERS[self.interpolation]
        self._augment = auto_augment(policy, self._filters, self.mean) if policy else None
        self._jitters = self.color_jitter > 0 and (not policy or "3a" in policy)

    def reduction(self, size: Size, rng: np.random.Generator) -> int:
        """Return the largest reduction of an image of `size` after which the crop is not smaller than the result.

        `rng` is in the state that the call of the transform receives, which draws the same crop.
        """
        left, upper, right, lower = random_crop_box(rng, *size, self.min_crop)
        return largest_reduction((right - left, lower - upper), (self.image_size, self.image_size))

    def __call__(
        self, source: Image.Image | Decoded, rng: np.random.Generator, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the transformed image, float32 [3, S, S], written into `out` if given."""
        filters, side, decoded = self._filters, self.image_size, whole(source)
        box = random_crop_box(rng, *decoded.size, self.min_crop)
        resample = draw_filter(rng, filters)
        cropped, edges = decoded.crop(box)
        image = resize(cropped, (side, side), resample, edges=edges)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._augment is not None:
            image = self._augment(image, rng)
        if self._jitters:
            image = jitter_colors(image, *draw_jitter(rng, self.color_jitter))
        array = normalize(image, self.mean, self.std, out)
        if self.erasing is not None:
            self.erasing(array, rng)
        return array


@dataclass(frozen=True)
class EvalTransform:
    """Resize, crop the center and normalize, as timm's `create_transform(is_training=False)`.

    `crop_mode` "center" resizes the shorter side to `image_size / crop_pct` pixels, rounded down, and keeps the aspect
    ratio; "squash" resizes both sides to that length. The authors do not resize for an `image_size` of 32 or less; here
    every image is resized, as in timm. Raises `UserError` for an unknown filter or crop mode, and for a `crop_pct`
    outside 0..1.
    """

    image_size: int
    crop_pct: float
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if len(FILTERS.get(self.interpolation, ())) != 1:
            raise UserError(
                f"interpolation is {self.interpolation!r}; set it to nearest, bilinear, bicubic or lanczos, for evaluation"
            )
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"crop_pct is {self.crop_pct}; set it above 0 and at most 1")
        if self.crop_mode not in CROP_MODES:
            raise UserError(f"crop_mode is {self.crop_mode!r}; set it to one of {', '.join(CROP_MODES)}")

    def __call__(self, image: Image.Image | Decoded, out: np.ndarray | None = None) -> np.ndarray:
        """Return the transformed image, float32 [3, S, S], written into `out` if given."""
        return normalize(self.resize_and_crop(image), self.mean, self.std, out)

    def reduction(self, size: Size) -> int:
        """Return the largest reduction of an image of `size` after which it is not smaller than the resized one."""
        return largest_reduction(size, self._resized(size))

    def resize_and_crop(self, image: Image.Image | Decoded, enlarged: int = 1) -> Image.Image:
        """Return the square that the network sees, with sides of `enlarged * image_size` pixels."""
        decoded, side = whole(image), self.image_size * enlarged
        width, height = self._resized(decoded.size, enlarged)
        # `round` moves an edge on half a pixel to the even number, as in torchvision
        left, upper = round((width - side) / 2), round((height - side) / 2)
        window = (left, upper, left + side, upper + side)
        return resize(decoded.image, (width, height), FILTERS[self.interpolation][0], window, decoded.edges)

    def _resized(self, size: Size, enlarged: int = 1) -> Size:
        """Return the size to which an image of `size` is resized before the crop."""
        resized = math.floor(self.image_size / self.crop_pct) * enlarged
        if self.crop_mode == "squash":
            return resized, resized
        shorter = min(size)  # `int` rounds the longer side down, as in torchvision
        return int(resized * size[0] / shorter), int(resized * size[1] / shorter)


def eval_transform(info: ModelInfo) -> EvalTransform:
    """Return the transform for the network of `info`."""
    size = info.model.image_size
    return EvalTransform(size, info.crop_pct, info.mean, info.std, info.interpolation, info.crop_mode)


def resize(
    image: Image.Image,
    size: Size,
    resample: Image.Resampling,
    window: Box | None = None,
    edges: Edges | None = None,
) -> Image.Image:
    """Resize what is inside `edges` (None: all) to `size` and return the `window` of the result (None: all of it).

    Two calls of one dimension each resize the width first, as Pillow up to 12, with which the published weights were
    trained. Pillow 13 resizes the height first if it shrinks by more than twice as many pixels, which changes a fifth
    of the values of a photo, mostly by one level, and values at hard edges by more.

    Long, thin images do not fit into memory once resized: 1 x 60000 pixels would take 15 GB. If a resized side exceeds
    `_LONGEST_SIDE`, only the source pixels below the window are resized. Some values then differ by one level from a
    whole resize (at most 1 in 60 in the tests), and "nearest" may take the neighboring pixel, because Pillow stores a
    fractional box in single precision. Reduced images, which are only made smaller, and at most 65535 pixels long, do
    not come here.
    """
    width, height = size
    left, upper, right, lower = window or (0, 0, width, height)
    if max(size) > _LONGEST_SIDE:
        x_cut, x_box = _source_range(image.width, width, left, right)
        y_cut, y_box = _source_range(image.height, height, upper, lower)
        image = image.crop((x_cut[0], y_cut[0], x_cut[1], y_cut[1]))
        image = image.resize((right - left, image.height), resample, (x_box[0], 0, x_box[1], image.height))
        return image.resize((right - left, lower - upper), resample, (0, y_box[0], right - left, y_box[1]))
    from_x, from_y, to_x, to_y = edges or (0, 0, *image.size)
    image = image.resize((width, image.height), resample, (from_x, 0, to_x, image.height))
    if window:  # resizing no column that is cut off saves a tenth of the time
        image = image.crop((left, 0, right, image.height))
    image = image.resize((right - left, height), resample, (0, from_y, right - left, to_y))
    return image.crop((0, upper, right - left, lower)) if window else image


def _source_range(old: int, new: int, first: int, last: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the source pixels that outputs `first` to `last` read, and the outputs' edges relative to the first one.

    `old` and `new` are the lengths before and after the resize.
    """
    scale = old / new
    reach = 3 * max(1.0, scale) + 1  # Lanczos, the widest filter, reaches over 3 pixels
    start, stop = max(0, math.floor(first * scale - reach)), min(old, math.ceil(last * scale + reach))
    return (start, stop), (first * scale - start, min(last * scale, old) - start)


def random_crop_box(rng: np.random.Generator, width: int, height: int, min_crop: float) -> Box:
    """Draw the box of the random resized crop: its area uniformly, its ratio uniformly on a logarithmic scale.

    After ten draws that do not fit, the result is the largest centered box of a ratio in `CROP_RATIO`.
    """
    low_log, high_log = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for _ in range(10):
        area = (min_crop + (1.0 - min_crop) * rng.random()) * (width * height)
        aspect = math.exp(low_log + (high_log - low_log) * rng.random())
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        # images of a few pixels give boxes of zero pixels, which count as not fitting
        if 0 < box_width <= width and 0 < box_height <= height:
            upper = int(rng.random() * (height - box_height + 1))
            left = int(rng.random() * (width - box_width + 1))
            return left, upper, left + box_width, upper + box_height
    box_width = min(width, round(height * CROP_RATIO[1]))
    box_height = min(height, round(width / CROP_RATIO[0]))
    left, upper = (width - box_width) // 2, (height - box_height) // 2
    return left, upper, left + box_width, upper + box_height


def draw_filter(rng: np.random.Generator, filters: Sequence[Image.Resampling]) -> Image.Resampling:
    """Return one of `filters`, drawn if there are several."""
    return filters[int(rng.random() * len(filters))] if len(filters) > 1 else filters[0]


def draw_jitter(rng: np.random.Generator, strength: float) -> tuple[list[int], tuple[float, float, float]]:
    """Draw the order of brightness (0), contrast (1) and saturation (2), and their factors around 1."""
    low, high = max(0.0, 1.0 - strength), 1.0 + strength
    order = [int(index) for index in rng.permutation(3)]
    brightness, contrast, saturation = (low + (high - low) * rng.random() for _ in range(3))
    return order, (brightness, contrast, saturation)


def jitter_colors(image: Image.Image, order: Sequence[int], factors: Sequence[float]) -> Image.Image:
    """Apply the changes of `draw_jitter` in the given order, as torchvision's `ColorJitter`."""
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for index in order:
        image = kinds[index](image).enhance(factors[index])
    return image


def normalize(
    image: Image.Image, mean: Sequence[float], std: Sequence[float], out: np.ndarray | None = None
) -> np.ndarray:
    """Return (value / 255 - mean) / std per channel, float32 [3, H, W], written into `out` if given."""
    if out is None:
        out = np.empty((3, image.height, image.width), dtype=np.float32)
    if image.width * image.height <= _FEW_PIXELS:
        pixels = np.asarray(image).transpose(2, 0, 1)
        np.divide(pixels, 255.0, out=out, dtype=np.float32)
        np.subtract(out, np.array(mean, np.float32)[:, None, None], out=out)
        return np.divide(out, np.array(std, np.float32)[:, None, None], out=out)
    for channel, name in enumerate("RGB"):
        # Reading one band at a time gives contiguous planes, which takes half the time of transposing H x W x 3. The
        # three steps round as in torchvision.
        plane = np.frombuffer(image.tobytes("raw", name), dtype=np.uint8).reshape(image.height, image.width)
        target = out[channel]
        np.divide(plane, 255.0, out=target, dtype=np.float32)
        np.subtract(target, np.float32(mean[channel]), out=target)
        np.divide(target, np.float32(std[channel]), out=target)
    return out
