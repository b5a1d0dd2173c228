"""Position tables for another image size, as the authors' `run_class_finetuning.py` makes them."""

from __future__ import annotations

import math

import numpy as np
from scipy.interpolate import RectBivariateSpline

from src.weights.sizes import CLASS_TOKEN_ROWS

# The authors bisect the ratio of their geometric grid between these, to this width.
SMALLEST_RATIO, LARGEST_RATIO, RATIO_TOLERANCE = 1.01, 1.5, 1e-6

# A cubic spline goes through at least four offsets along each axis, which a grid of 2 x 2 patches (-1, 0, 1) lacks.
SMALLEST_GRID = 3

# Keys' cubic convolution with the coefficient that torch.nn.functional.interpolate(mode="bicubic") has.
CUBIC_A = -0.75


def resize_bias_table(table: np.ndarray, grid: int) -> np.ndarray:
    """A relative position bias table [rows, heads] -> that of `grid` x `grid` patches, [(2 * grid - 1)² + 3, heads].

    The offsets of the old table are thought to lie not 1 apart but ever farther outwards, in a geometric progression
    whose ratio makes them reach as far as the new offsets; the new ones are read off by cubic splines. The three rows
    of the class token are kept. Agrees with the authors' use of `scipy.interpolate.interp2d(kind="cubic")`. The old
    table is of at least `SMALLEST_GRID` patches along a side.
    """
    offsets, class_token = table[:-CLASS_TOKEN_ROWS], table[-CLASS_TOKEN_ROWS:]
    old_side, new_side = math.isqrt(len(offsets)), 2 * grid - 1
    if old_side == new_side:
        return table
    old = geometric_offsets(old_side // 2, new_side // 2)
    new = np.arange(-(new_side // 2), new_side // 2 + 1, dtype=np.float64)
    heads = [
        RectBivariateSpline(old, old, head.reshape(old_side, old_side).astype(np.float64), kx=3, ky=3, s=0)(new, new)
        for head in offsets.T
    ]
    resized = np.stack(heads, -1).reshape(new_side * new_side, -1).astype(np.float32)
    return np.concatenate([resized, class_token])


def geometric_offsets(count: int, reach: int) -> np.ndarray:
    """The positions of offsets -count .. count: 0, 1, 1 + q, 1 + q + q², ... and their negatives.

    The ratio q is what the authors' bisection gives: the one with which the last position is `reach`, or
    `SMALLEST_RATIO` where even that overshoots.
    """
    low, high = SMALLEST_RATIO, LARGEST_RATIO
    while high - low > RATIO_TOLERANCE:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    positive = np.cumsum(ratio ** np.arange(count))
    return np.concatenate([-positive[::-1], [0.0], positive])


def resize_pos_embed(pos_embed: np.ndarray, grid: int) -> np.ndarray:
    """An absolute position embedding [1, patches + 1, D] -> [1, grid² + 1, D], the class token's row kept.

    Agrees with `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.
    """
    class_token, patches = pos_embed[:, :1], pos_embed[0, 1:].astype(np.float64)
    old_grid = math.isqrt(len(patches))
    if old_grid == grid:
        return pos_embed
    weights = bicubic_weights(old_grid, grid)
    patches = patches.reshape(old_grid, old_grid, -1)
    resized = np.einsum("yi,xj,ijd->yxd", weights, weights, patches, optimize=True)
    return np.concatenate([class_token, resized.reshape(1, grid * grid, -1).astype(np.float32)], 1)


def bicubic_weights(old: int, new: int) -> np.ndarray:
    """float64 [new, old]: how much of each old position goes into each new one; positions beyond the edge repeat it."""
    weights = np.zeros((new, old))
    for position in range(new):
        source = (position + 0.5) * old / new - 0.5
        first = math.floor(source) - 1
        for neighbor in range(first, first + 4):
            weights[position, min(max(neighbor, 0), old - 1)] += _cubic(abs(source - neighbor))
    return weights


def _cubic(distance: float) -> float:
    a = CUBIC_A
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return ((distance - 5) * distance + 8) * distance * a - 4 * a
