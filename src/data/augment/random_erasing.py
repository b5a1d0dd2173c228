"""Random erasing (arXiv 1708.04896) on normalized images, as in timm's `data/random_erasing.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from src.errors import UserError

ERASING_MODES = ("const", "rand", "pixel")

# A box covers 2% to a third of the image, and is between 0.3 and 1 / 0.3 times as high as wide.
_AREA = (0.02, 1 / 3)
_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))
_ATTEMPTS = 10

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class RandomErasing:
    """With probability `prob`, fill 1 to `count` boxes of an image, which share the erased area between them.

    `mode` is what they are filled with: `const` the mean color (zero, the image being normalized), `rand` one
    normally distributed color per box, `pixel` one per pixel.
    """

    prob: float
    mode: str
    count: int

    def __post_init__(self) -> None:
        if self.mode not in ERASING_MODES:
            raise UserError(f"re_mode: {self.mode!r} is not a way to fill; take one of {', '.join(ERASING_MODES)}")
        if self.count < 1:
            raise UserError(f"re_count: {self.count} boxes cannot be erased; take 1 or more, or re_prob 0")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> None:
        """Erase in place. `image` is float32 [C, H, W]."""
        if rng.random() > self.prob:
            return
        channels, height, width = image.shape
        count = 1 + int(rng.random() * self.count) if self.count > 1 else 1
        for _ in range(count):
            box = draw_box(rng, height, width, count)
            if box is not None:
                top, left, box_height, box_width = box
                image[:, top : top + box_height, left : left + box_width] = self._fill(
                    rng, channels, box_height, box_width
                )

    def _fill(self, rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray | float:
        if self.mode == "const":
            return 0.0
        shape = (channels, 1, 1) if self.mode == "rand" else (channels, height, width)
        return rng.standard_normal(shape, dtype=np.float32)


def draw_box(rng: np.random.Generator, height: int, width: int, count: int) -> Box | None:
    """(top, left, height, width) of one of `count` boxes, or None where ten attempts gave none that is smaller than
    the image on both sides."""
    low, high = _AREA
    low_aspect, high_aspect = _LOG_ASPECT
    for _ in range(_ATTEMPTS):
        area = (low + (high - low) * rng.random()) * (height * width) / count
        aspect = math.exp(low_aspect + (high_aspect - low_aspect) * rng.random())
        box_height = round(math.sqrt(area * aspect))
        box_width = round(math.sqrt(area / aspect))
        if box_height < height and box_width < width:
            top = int(rng.random() * (height - box_height + 1))
            left = int(rng.random() * (width - box_width + 1))
            return top, left, box_height, box_width
    return None
