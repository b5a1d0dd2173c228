"""The image operations of AutoAugment, RandAugment, AugMix and 3-Augment, and what a level means for each of them.

Pixel-identical to timm's `data/auto_augment.py` on Pillow images of mode RGB. A level runs from 0 to 10 (further where
a policy's `mmax` allows it). An operation turns it into its own argument (degrees, a threshold, a factor...); a signed
one may turn the argument round, so the sign is an argument too and everything here is free of chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Color = tuple[int, int, int]
ToArgument = Callable[[float, float], float]

FULL_LEVEL = 10.0


class Operation(NamedTuple):
    """One row of the tables at the end of this file.

    `argument(level, sign)` gives the operation's argument, sign being -1.0 or 1.0 for a `signed` operation and 1.0
    for the others. Where `lowest` is set, that is only the upper end and the argument is drawn from between the two.
    An operation either changes colors, `change(image, argument)`, or moves pixels, `warp(image, argument, filter,
    color that fills the places to which no pixel moves)`.
    """

    argument: ToArgument
    change: Callable[[Image.Image, float], Image.Image] | None = None
    warp: Callable[[Image.Image, float, Image.Resampling, Color], Image.Image] | None = None
    signed: bool = False
    lowest: float | None = None


# --- operations that move pixels ---


def _affine(image: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling, fill: Color) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill)


def _rotate(image: Image.Image, degrees: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return image.rotate(degrees, resample=resample, fillcolor=fill)


def _shear_x(image: Image.Image, factor: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return _affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def _shear_y(image: Image.Image, factor: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def _translate_x(image: Image.Image, share: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, share * image.width, 0, 1, 0), resample, fill)


def _translate_y(image: Image.Image, share: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return _affine(image, (1, 0, 0, 0, 1, share * image.height), resample, fill)


# --- operations that change colors ---


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    """Keep the upper `bits` of each value.

    0 bits (or fewer, beyond level 10) are black. timm gets there with `ImageOps.posterize`, which refuses it since
    Pillow 13.
    """
    dropped = 8 - min(8, max(0, int(bits)))
    return image.point([value >> dropped << dropped for value in range(256)] * 3)


def _solarize(image: Image.Image, threshold: float) -> Image.Image:
    return ImageOps.solarize(image, int(threshold))


def _solarize_add(image: Image.Image, add: float) -> Image.Image:
    lut = [min(255, value + int(add)) if value < 128 else value for value in range(256)]
    return image.point(lut * 3)


def _desaturate(image: Image.Image, share: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(min(1.0, max(0.0, 1.0 - share)))


def _blur(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


# --- what a level means ---


def _none(level: float, sign: float) -> float:
    return 0.0


def _symmetric(largest: float) -> ToArgument:
    """From 0 at level 0 to `largest` at level 10, either way."""
    return lambda level, sign: sign * (level / FULL_LEVEL * largest)


def _between(low: float, high: float) -> ToArgument:
    """From `low` at level 0 to `high` at level 10, and never beyond them."""
    return lambda level, sign: max(low, min(high, low + (high - low) * (level / FULL_LEVEL)))


def _factor(level: float, sign: float) -> float:
    """An enhancement factor from 0.1 (level 0) to 1.9 (level 10): the image is unchanged at level 5."""
    return level / FULL_LEVEL * 1.8 + 0.1


def _increasing_factor(level: float, sign: float) -> float:
    """An enhancement factor that leaves 1.0, which changes nothing, as the level grows: down to 0.1 or up to 1.9."""
    return max(0.1, 1.0 + sign * (level / FULL_LEVEL * 0.9))


def _bits(level: float, sign: float) -> float:
    """Bits kept per channel, 0 to 4: a higher level is a milder change."""
    return int(level / FULL_LEVEL * 4)


def _increasing_bits(level: float, sign: float) -> float:
    return 4 - _bits(level, sign)


def _original_bits(level: float, sign: float) -> float:
    """Bits kept per channel as in the AutoAugment paper, 4 to 8."""
    return 4 + _bits(level, sign)


def _threshold(level: float, sign: float) -> float:
    """Values from this one on are inverted, 0 to 256: a higher level is a milder change."""
    return min(256, int(level / FULL_LEVEL * 256))


def _increasing_threshold(level: float, sign: float) -> float:
    return 256 - _threshold(level, sign)


def _addition(level: float, sign: float) -> float:
    return min(128, int(level / FULL_LEVEL * 110))


def _enhance(kind: type) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


def _table(translate: float) -> dict[str, Operation]:
    return {
        "AutoContrast": Operation(_none, lambda image, _: ImageOps.autocontrast(image)),
        "Equalize": Operation(_none, lambda image, _: ImageOps.equalize(image)),
        "Invert": Operation(_none, lambda image, _: ImageOps.invert(image)),
        "Rotate": Operation(_symmetric(30.0), warp=_rotate, signed=True),
        "Posterize": Operation(_bits, _posterize),
        "PosterizeIncreasing": Operation(_increasing_bits, _posterize),
        "PosterizeOriginal": Operation(_original_bits, _posterize),
        "Solarize": Operation(_threshold, _solarize),
        "SolarizeIncreasing": Operation(_increasing_threshold, _solarize),
        "SolarizeAdd": Operation(_addition, _solarize_add),
        "Color": Operation(_factor, _enhance(ImageEnhance.Color)),
        "ColorIncreasing": Operation(_increasing_factor, _enhance(ImageEnhance.Color), signed=True),
        "Contrast": Operation(_factor, _enhance(ImageEnhance.Contrast)),
        "ContrastIncreasing": Operation(_increasing_factor, _enhance(ImageEnhance.Contrast), signed=True),
        "Brightness": Operation(_factor, _enhance(ImageEnhance.Brightness)),
        "BrightnessIncreasing": Operation(_increasing_factor, _enhance(ImageEnhance.Brightness), signed=True),
        "Sharpness": Operation(_factor, _enhance(ImageEnhance.Sharpness)),
        "SharpnessIncreasing": Operation(_increasing_factor, _enhance(ImageEnhance.Sharpness), signed=True),
        "ShearX": Operation(_symmetric(0.3), warp=_shear_x, signed=True),
        "ShearY": Operation(_symmetric(0.3), warp=_shear_y, signed=True),
        "TranslateXRel": Operation(_symmetric(translate), warp=_translate_x, signed=True),
        "TranslateYRel": Operation(_symmetric(translate), warp=_translate_y, signed=True),
        "Desaturate": Operation(_between(0.5, 1.0), _desaturate),
        "GaussianBlur": Operation(_between(0.1, 2.0), _blur),
        "GaussianBlurRand": Operation(_between(0.0, 2.0), _blur, lowest=0.1),
    }


# Translation by a share of the width or height: at level 10, 45% in AutoAugment and RandAugment, 30% in AugMix.
OPERATIONS = _table(translate=0.45)
AUGMIX_OPERATIONS = _table(translate=0.3)
