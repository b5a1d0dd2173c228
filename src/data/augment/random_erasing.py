"""Random erasing (arXiv 1708.04896) of normalized images, as in timm's `data/random_erasing.py`."""

import math
from dataclasses import dataclass

import numpy as np

# A box covers 2% to a third of the image; its height is 0.3 to 1 / 0.3 times its width.
_AREA = (0.02, 1 / 3)
_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))


@dataclass(frozen=True)
class RandomErasing:
    """With probability `prob`, fill 1 to `count` boxes, which share the erased area.

    `mode` "const" fills with the mean color, which is zero in normalized images, "rand" with one normally distributed
    color for each box, "pixel" with one for each pixel.
    """

    prob: float
    mode: str
    count: int

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Erase boxes of `image`, float32 [C, H, W], in place."""
        if rng.random() > self.prob:
            return
        channels, image_height, image_width = image.shape
        count = 1 + int(rng.random() * self.count) if self.count > 1 else 1
        for _ in range(count):
            box = draw_box(rng, image_height, image_width, count)
            if box is None:
                continue
            top, left, height, width = box
            shape = (channels, 1, 1) if self.mode == "rand" else (channels, height, width)
            fill = 0.0 if self.mode == "const" else rng.standard_normal(shape, dtype=np.float32)
            image[:, top : top + height, left : left + width] = fill


def draw_box(rng: np.random.Generator, height: int, width: int, count: int) -> tuple[int, int, int, int] | None:
    """Draw one of `count` boxes (top, left, height, width) that is smaller than the image on both sides.

    The result is None after ten failed attempts.
    """
    low, high = _AREA
    low_aspect, high_aspect = _LOG_ASPECT
    for _ in range(10):
        area = (low + (high - low) * rng.random()) * (height * width) / count
        aspect = math.exp(low_aspect + (high_aspect - low_aspect) * rng.random())
        box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if box_height < height and box_width < width:
            top = int(rng.random() * (height - box_height + 1))
            left = int(rng.random() * (width - box_width + 1))
            return top, left, box_height, box_width
    return None
