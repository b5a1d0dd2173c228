"""How an image becomes a network's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from src.data.transforms import EvalTransform, eval_transform
from src.model.model_info import ModelInfo


@dataclass(frozen=True)
class Preparation:
    """What makes a row of a batch of an image in mode RGB: `fill(image, row)`, with the row's `shape` and `dtype`."""

    fill: Callable[[Image.Image, np.ndarray], object]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def preparation_of(info: ModelInfo, takes_pixels: bool) -> Preparation:
    """Resize and crop as `info` says, and normalize unless the network `takes_pixels` (see `Network`)."""
    transform = eval_transform(info)
    size = info.model.image_size
    if not takes_pixels:
        return Preparation(transform, (3, size, size), np.dtype(np.float32))

    def fill(image: Image.Image, row: np.ndarray) -> None:
        row[:] = np.asarray(seen_part(image, transform))

    return Preparation(fill, (size, size, 3), np.dtype(np.uint8))


def seen_part(image: Image.Image, transform: EvalTransform, enlarged: int = 1) -> Image.Image:
    """The part of `image` that the network sees, a square of `enlarged` times the network's own size."""
    return transform.resize_and_crop(image, enlarged)
