"""What the golden values of masks and views were computed from. Both sides import it; needs numpy only."""

from __future__ import annotations

from typing import NamedTuple

SEEDS = range(12)
# Options of a mask: side of the grid, patches to mask, least and most patches in a block.
MASK_CASES = {
    "base": (14, 75, 16, None),
    "small_blocks": (14, 75, 4, 20),
    "many": (14, 118, 16, None),
    "small_grid": (6, 14, 4, None),
}
SAMPLES = 10_000  # of the statistics, with the options of `base`
SAMPLED = "base"


class View(NamedTuple):
    """Size and seed of an image, and the random numbers of its views."""

    size: tuple[int, int]  # width, height
    seed: int
    order: tuple[int, int, int]  # of brightness, contrast and saturation
    factors: tuple[float, float, float]
    flipped: bool
    box: tuple[int, int, int, int]  # left, upper, right, lower
    interpolation: str
    second_interpolation: str


SIDE, TOKEN_SIDE = 32, 16
VIEWS = (
    View((50, 37), 1, (0, 1, 2), (0.7, 1.3, 0.9), False, (5, 3, 45, 33), "bicubic", "lanczos"),
    View((37, 50), 2, (2, 1, 0), (1.39, 0.61, 1.2), True, (0, 7, 30, 50), "bicubic", "lanczos"),
    View((64, 64), 3, (1, 0, 2), (0.65, 0.8, 0.61), True, (11, 0, 64, 40), "bilinear", "bicubic"),
    View((20, 90), 4, (1, 2, 0), (1.0, 1.4, 0.6), True, (3, 30, 17, 48), "bicubic", "bicubic"),
)
