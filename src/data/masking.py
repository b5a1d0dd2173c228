"""Masks of image patches for masked image modeling: blocks as in BEiT (Bao et al. 2022) and BEiT v2, or random patches.

The masks are those of the authors' `masking_generator.py` for the same sequence of random numbers.
"""

import math
import random
from dataclasses import dataclass

import numpy as np

from src.errors import UserError

BLOCKS, EXACT_BLOCKS, RANDOM = "block", "block_exact", "random"  # values of the option `mask`
MASKS = (BLOCKS, EXACT_BLOCKS, RANDOM)
MIN_ASPECT = 0.3  # of a block; the largest is its inverse
ATTEMPTS = 10  # to place a block


@dataclass(frozen=True)
class Masking:
    """Masks patches of a grid of `grid` x `grid`.

    `block` masks rectangles until there is no place for another one: at most `count` patches, often fewer. `block_exact`
    then masks or unmasks random patches until there are `count`. `random` masks `count` patches.

    Attributes:
        kind: one of `MASKS`.
        count: patches to mask.
        least, most: of the patches in a block; without `most`, those that are left to mask.

    Raises `UserError` for numbers that do not fit the grid.
    """

    grid: int
    count: int
    kind: str = BLOCKS
    least: int = 16
    most: int | None = None

    def __post_init__(self) -> None:
        patches = self.grid**2
        if self.count >= patches:
            raise UserError(
                f"num_mask_patches is {self.count} but an image has {patches} patches ({self.grid} x {self.grid}); set "
                f"at most {patches - 1}"
            )
        if self.kind != RANDOM and self.least > self.count:
            raise UserError(
                f"min_mask_patches_per_block is {self.least} but num_mask_patches is {self.count}; set at most that"
            )
        if self.kind != RANDOM and self.most is not None and self.most < self.least:
            raise UserError(
                f"max_mask_patches_per_block is {self.most} but min_mask_patches_per_block is {self.least}; set at "
                "least that"
            )

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a mask, bool [grid, grid], true where a patch is masked."""
        if self.kind == RANDOM:
            return self.complete(np.zeros((self.grid, self.grid), bool), rng)
        mask = self.blocks(random.Random(int(rng.integers(2**63))))
        return self.complete(mask, rng) if self.kind == EXACT_BLOCKS else mask

    def blocks(self, rng: random.Random) -> np.ndarray:
        """Mask blocks until `count` patches are masked or no further block finds a place, bool [grid, grid]."""
        mask = np.zeros((self.grid, self.grid), bool)
        left = self.count
        while left > 0:
            masked = self._add_block(mask, left if self.most is None else min(left, self.most), rng)
            if not masked:
                break
            left -= masked
        return mask

    def complete(self, mask: np.ndarray, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
        """Mask or unmask random patches of `mask`, in place, until `count` are masked."""
        missing = self.count - int(mask.sum())
        candidates = np.flatnonzero(mask.ravel() != (missing > 0))
        mask.ravel()[candidates[rng.choice(len(candidates), abs(missing), replace=False)]] = missing > 0
        return mask

    def _add_block(self, mask: np.ndarray, most: int, rng: random.Random) -> int:
        """Mask one block with at most `most` patches that were not masked, and return their number, 0 for no place."""
        for _ in range(ATTEMPTS):
            area = rng.uniform(self.least, most)
            aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), math.log(1 / MIN_ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if width >= self.grid or height >= self.grid:
                continue
            top, left = rng.randint(0, self.grid - height), rng.randint(0, self.grid - width)
            block = mask[top : top + height, left : left + width]
            masked = block.size - int(block.sum())
            if 0 < masked <= most:
                block[:] = True
                return masked
        return 0


def masked_positions(mask: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the masked patches of `mask` in ascending order, filled with 0, int32 [count], and their weights.

    The weights, float32 [count], are 1 for a masked patch and 0 for the filling. `mask` has at most `count` patches.
    """
    positions, weights = np.zeros(count, np.int32), np.zeros(count, np.float32)
    found = np.flatnonzero(mask)
    positions[: len(found)], weights[: len(found)] = found, 1
    return positions, weights
