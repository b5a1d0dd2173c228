"""The image operations of AutoAugment, RandAugment, AugMix and 3-Augment, and their arguments at each level.

Pixels equal those of timm's `data/auto_augment.py` on Pillow images of mode RGB. A level runs from 0 to 10, or beyond
if a policy's `mmax` allows it. The functions are deterministic: the caller draws level and sign.
"""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Color = tuple[int, int, int]
ToArgument = Callable[[float, float], float]
Change = Callable[[Image.Image, float], Image.Image]
Warp = Callable[[Image.Image, float, Image.Resampling, Color], Image.Image]

FULL_LEVEL = 10.0


class Operation(NamedTuple):
    """One row of the table at the end of this file.

    `argument(level, sign)` gives the operation's argument (degrees, a threshold, a factor...); the sign is -1.0 or 1.0
    if the operation is `signed`, else 1.0. If `lowest` is set, the argument is drawn between it and that value. An
    operation either changes colors, `change(image, argument)`, or moves pixels, `warp(image, argument, filter, color
    of the empty places)`.
    """

    argument: ToArgument
    change: Change | None = None
    warp: Warp | None = None
    signed: bool = False
    lowest: float | None = None


def _rotate(image: Image.Image, degrees: float, resample: Image.Resampling, fill: Color) -> Image.Image:
    return image.rotate(degrees, resample=resample, fillcolor=fill)


def _affine(matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Warp:
    def warp(image: Image.Image, argument: float, resample: Image.Resampling, fill: Color) -> Image.Image:
        data = matrix(image, argument)
        return image.transform(image.size, Image.Transform.AFFINE, data, resample=resample, fillcolor=fill)

    return warp


_shear_x = _affine(lambda image, factor: (1, factor, 0, 0, 1, 0))
_shear_y = _affine(lambda image, factor: (1, 0, 0, factor, 1, 0))
_translate_x = _affine(lambda image, share: (1, 0, share * image.width, 0, 1, 0))
_translate_y = _affine(lambda image, share: (1, 0, 0, 0, 1, share * image.height))


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    """Keep the upper `bits` of each value; 0 or fewer give black, which `ImageOps.posterize` refuses in Pillow 13."""
    dropped = 8 - min(8, max(0, int(bits)))
    return image.point([value >> dropped << dropped for value in range(256)] * 3)


def _solarize_add(image: Image.Image, add: float) -> Image.Image:
    return image.point([min(255, value + int(add)) if value < 128 else value for value in range(256)] * 3)


def _enhance(kind: type) -> Change:
    return lambda image, factor: kind(image).enhance(factor)


# --- from a level and a sign to an argument ---


def _symmetric(largest: float) -> ToArgument:
    """Return 0 at level 0 and `sign * largest` at level 10."""
    return lambda level, sign: sign * (level / FULL_LEVEL * largest)


def _between(low: float, high: float) -> ToArgument:
    """Return `low` at level 0 and `high` at level 10, clipped to this range."""
    return lambda level, sign: max(low, min(high, low + (high - low) * (level / FULL_LEVEL)))


def _factor(level: float, sign: float) -> float:
    """Return an enhancement factor of 0.1 at level 0 and 1.9 at level 10; level 5 does not change the image."""
    return level / FULL_LEVEL * 1.8 + 0.1


def _increasing_factor(level: float, sign: float) -> float:
    """Return an enhancement factor that moves away from 1.0 as the level grows, to 0.1 or 1.9 at level 10."""
    return max(0.1, 1.0 + sign * (level / FULL_LEVEL * 0.9))


def _bits(level: float, sign: float) -> float:
    """Return the bits kept per channel, 0 to 4; a higher level changes less."""
    return int(level / FULL_LEVEL * 4)


def _threshold(level: float, sign: float) -> float:
    """Return the lowest value that is inverted, 0 to 256; a higher level changes less."""
    return min(256, int(level / FULL_LEVEL * 256))


def _table(translate: float) -> dict[str, Operation]:
    def solarize(image: Image.Image, threshold: float) -> Image.Image:
        return ImageOps.solarize(image, int(threshold))

    def blur(image: Image.Image, radius: float) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius))

    none = _symmetric(0.0)
    table = {
        "AutoContrast": Operation(none, lambda image, _: ImageOps.autocontrast(image)),
        "Equalize": Operation(none, lambda image, _: ImageOps.equalize(image)),
        "Invert": Operation(none, lambda image, _: ImageOps.invert(image)),
        "Rotate": Operation(_symmetric(30.0), warp=_rotate, signed=True),
        "Posterize": Operation(_bits, _posterize),
        "PosterizeIncreasing": Operation(lambda level, sign: 4 - _bits(level, sign), _posterize),
        # 4 to 8 bits, as in the AutoAugment paper
        "PosterizeOriginal": Operation(lambda level, sign: 4 + _bits(level, sign), _posterize),
        "Solarize": Operation(_threshold, solarize),
        "SolarizeIncreasing": Operation(lambda level, sign: 256 - _threshold(level, sign), solarize),
        "SolarizeAdd": Operation(lambda level, sign: min(128, int(level / FULL_LEVEL * 110)), _solarize_add),
        "ShearX": Operation(_symmetric(0.3), warp=_shear_x, signed=True),
        "ShearY": Operation(_symmetric(0.3), warp=_shear_y, signed=True),
        "TranslateXRel": Operation(_symmetric(translate), warp=_translate_x, signed=True),
        "TranslateYRel": Operation(_symmetric(translate), warp=_translate_y, signed=True),
        "Desaturate": Operation(_between(0.5, 1.0), lambda image, share: ImageEnhance.Color(image).enhance(1.0 - share)),
        "GaussianBlur": Operation(_between(0.1, 2.0), blur),
        "GaussianBlurRand": Operation(_between(0.0, 2.0), blur, lowest=0.1),
    }
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        enhance = _enhance(getattr(ImageEnhance, name))
        table[name] = Operation(_factor, enhance)
        table[f"{name}Increasing"] = Operation(_increasing_factor, enhance, signed=True)
    return table


# Level 10 translates by 45% of the width or height in AutoAugment and RandAugment, and by 30% in AugMix.
OPERATIONS = _table(translate=0.45)
AUGMIX_OPERATIONS = _table(translate=0.3)
