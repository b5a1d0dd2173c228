"""Position tables resized to another image size, as in the authors' `run_class_finetuning.py`."""

import math

import numpy as np
from scipy.interpolate import RectBivariateSpline

from src.weights.sizes import CLASS_TOKEN_ROWS

# The authors bisect the ratio of their geometric grid between these bounds, to this width.
SMALLEST_RATIO, LARGEST_RATIO, RATIO_TOLERANCE = 1.01, 1.5, 1e-6

# A cubic spline needs at least four offsets along each axis; 2 x 2 patches have three (-1, 0, 1).
SMALLEST_GRID = 3

# Coefficient of Keys' cubic convolution in torch.nn.functional.interpolate(mode="bicubic").
CUBIC_A = -0.75


def resize_bias_table(table: np.ndarray, grid: int) -> np.ndarray:
    """Resize a relative position bias table [rows, heads] to `grid` x `grid` patches: [(2 * grid - 1)² + 3, heads].

    The old offsets are placed in a geometric progression that reaches as far as the new offsets, and cubic splines give
    the values at the new offsets. The three rows of the class token are kept. Agrees with the authors' use of
    `scipy.interpolate.interp2d(kind="cubic")`. The old grid has at least `SMALLEST_GRID` patches along a side.
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
    """Return the positions of the offsets -count .. count: 0, 1, 1 + q, 1 + q + q², ... and their negatives.

    The authors' bisection gives the ratio q: the last position is `reach`, or q is `SMALLEST_RATIO` where even that
    overshoots.
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
    """Resize an absolute position embedding [1, patches + 1, D] to [1, grid² + 1, D]; the class token's row is kept.

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
    """Return the weight of each old position in each new one, float64 [new, old]; the edge repeats beyond the edge."""
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
