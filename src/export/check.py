"""Comparing what was exported with the network that it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.errors import RunError

Run = Callable[[np.ndarray], np.ndarray]
"""Images float32 [B, 3, S, S] -> logits float32 [B, num_classes]."""

# How many random images are compared: in one batch and one by one, so that a batch size stored in a file shows.
IMAGES = 3
# Largest difference allowed, as a share of the largest logit. Float32 sums taken in another order differ by 1e-6 or
# less in BEiT-base; the smallest mistake worth finding, the other kind of GELU, gives 4e-5 to 9e-5 there.
TOLERANCE = 2e-5


@dataclass(frozen=True)
class Difference:
    """The largest difference between two sets of logits, as it is and as a share of the largest logit."""

    absolute: float
    relative: float


def random_images(image_size: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 [IMAGES, 3, image_size, image_size], spread about as widely as normalised photographs."""
    return np.random.default_rng(seed).standard_normal((IMAGES, 3, image_size, image_size), dtype=np.float32)


def largest_difference(run: Run, images: np.ndarray, expected: np.ndarray) -> Difference:
    """How far `run` is from the logits `expected` of `images`, given all at once and one by one."""
    together = run(images)
    alone = np.concatenate([run(images[index : index + 1]) for index in range(len(images))])
    absolute = float(np.abs(np.stack([together, alone]) - expected).max())
    scale = float(np.abs(expected).max())
    return Difference(absolute, absolute / scale if scale else absolute)


def require_agreement(difference: Difference, file_name: str) -> None:
    """Raise `RunError` where `difference` is above `TOLERANCE` or not a number."""
    if not difference.relative <= TOLERANCE:
        raise RunError(
            f"{file_name} was not written: its logits differ from the network's by {difference.absolute:.2e}, which "
            f"is {difference.relative:.2e} of the largest, and {TOLERANCE:.0e} is allowed: please report this"
        )
