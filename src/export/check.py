"""Comparing what was exported with the network that it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from src.errors import RunError

Run = Callable[[np.ndarray], np.ndarray]
"""Images [B, ...] -> logits float32 [B, num_classes]."""

# How many random images are compared: in one batch and one by one, so that a batch size stored in a file shows.
IMAGES = 3
# Largest difference allowed, as a share of the largest logit. Float32 sums taken in another order differ by 1e-6 or
# less in BEiT-base; the smallest mistake worth finding, the other kind of GELU, gives 4e-5 to 9e-5 there. Float16 gave
# 2e-4 to 5e-4 in BEiT-base and -large with random weights, int8 2e-2.
TOLERANCES = {"fp32": 2e-5, "fp16": 5e-3, "int8": 0.25}


@dataclass(frozen=True)
class Difference:
    """The largest difference between two sets of logits, as it is and as a share of the largest logit."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Agreement:
    """How a file and its network agree on `images` images: on how many in the most probable class, and how closely."""

    images: int
    same_class: int
    difference: Difference


def random_images(image_size: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 [IMAGES, 3, image_size, image_size], spread about as widely as normalized photographs."""
    return np.random.default_rng(seed).standard_normal((IMAGES, 3, image_size, image_size), dtype=np.float32)


def random_pixels(image_size: int, seed: int = 0) -> np.ndarray:
    """Uint8 [IMAGES, image_size, image_size, 3], every value as likely as the next."""
    return np.random.default_rng(seed).integers(0, 256, (IMAGES, image_size, image_size, 3), np.uint8)


def random_blends(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """IMAGES mixtures of two of `images` [N, ...], of the same type: new pictures within the range of the old ones."""
    rng = np.random.default_rng(seed)
    first, second = (images[rng.integers(len(images), size=IMAGES)] for _ in range(2))
    share = rng.random((IMAGES,) + (1,) * (images.ndim - 1), dtype=np.float32)
    return (share * first + (1 - share) * second).astype(images.dtype)


def largest_difference(run: Run, images: np.ndarray, expected: np.ndarray) -> Difference:
    """How far `run` is from the logits `expected` of `images`, given all at once and one by one."""
    together = run(images)
    alone = np.concatenate([run(images[index : index + 1]) for index in range(len(images))])
    return _difference(np.stack([together, alone]), expected)


def agreement(run: Run, network: Run, batches: Iterable[np.ndarray]) -> Agreement:
    """Compare two networks on batches of images, which both take; memory does not grow with their number."""
    images = same = 0
    absolute = scale = 0.0
    for batch in batches:
        logits, expected = run(batch), network(batch)
        images += len(batch)
        same += int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
        # NumPy's, since Python's max would pass over what is not a number
        absolute = np.maximum(absolute, np.abs(logits - expected).max())
        scale = np.maximum(scale, np.abs(expected).max())
    return Agreement(images, same, _relative_to(float(absolute), float(scale)))


def require_agreement(difference: Difference, precision: str, file_name: str) -> None:
    """Raise `RunError` where `difference` is above the tolerance of `precision` or not a number."""
    tolerance = TOLERANCES[precision]
    if not difference.relative <= tolerance:
        advice = "please report this" if precision == "fp32" else "this network needs --onnx_precision fp32"
        raise RunError(
            f"{file_name} was not written: its logits differ from the network's by {difference.absolute:.2e}, which "
            f"is {difference.relative:.2e} of the largest, and {tolerance:g} is allowed: {advice}"
        )


def _difference(logits: np.ndarray, expected: np.ndarray) -> Difference:
    return _relative_to(float(np.abs(logits - expected).max()), float(np.abs(expected).max()))


def _relative_to(absolute: float, scale: float) -> Difference:
    return Difference(absolute, absolute / scale if scale else absolute)
