"""Color jitter of a part of an image, with the pixels that the jitter of the whole image gives there."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageEnhance

CONTRAST, SATURATION = 1, 2  # of the changes of `draw_jitter`
RAMP = Image.frombytes("L", (256, 1), bytes(range(256)))
STRIP = 2**18  # pixels that are changed at once, 1 MB


def jitter_crop(image: Image.Image, crop: Image.Image, order: Sequence[int], factors: Sequence[float]) -> None:
    """Give `crop`, a copy of a part of `image`, the pixels of that part of `jitter_colors(image, order, factors)`.

    Only the contrast of a pixel depends on other pixels: on the mean gray value of the whole image after the changes
    before it in `order`. Changing strip by strip takes little memory besides the image, however large it is.
    """
    gray = _mean_gray(image, order[: order.index(CONTRAST)], factors)
    for top, strip in _strips(crop):
        crop.paste(_change(strip, order, factors, gray), (0, top))


def _change(image: Image.Image, kinds: Sequence[int], factors: Sequence[float], gray: int = 0) -> Image.Image:
    """Return `image` after changes of `jitter_colors`; contrast starts from the value `gray`."""
    for kind in kinds:
        if kind == SATURATION:
            image = ImageEnhance.Color(image).enhance(factors[kind])
        else:
            # Brightness and contrast blend each value with one other, black or gray. To blend the 256 possible values
            # and look up those of the image takes a quarter of the time.
            other = Image.new("L", RAMP.size, gray if kind == CONTRAST else 0)
            table = Image.blend(other, RAMP, factors[kind])
            image = image.point(list(table.tobytes()) * 3)
    return image


def _mean_gray(image: Image.Image, kinds: Sequence[int], factors: Sequence[float]) -> int:
    """Return the mean gray value of `image` after changes of brightness and saturation, rounded as by Pillow."""
    counts = np.zeros(256, dtype=np.int64)
    for _, strip in _strips(image):
        counts += _change(strip, kinds, factors).convert("L").histogram()
    return int(counts @ np.arange(256) / counts.sum() + 0.5)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield `image` in parts of whole rows, each with its first row."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
