"""A folder of many image files that take no space: hard links to a small JPEG file per class."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 100  # ext4 allows 65,000 links to a file
SIDE = 32  # pixels


@contextmanager
def linked_images(folder: Path, count: int) -> Iterator[None]:
    """Make a new folder of `count` files in `CLASSES` subfolders, and remove it at the end.

    Raises `FileExistsError` if the folder exists.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    folder.mkdir(parents=True)
    try:
        for label in range(CLASSES):
            place = folder / f"class_{label:03d}"
            place.mkdir()
            first = place / "0000000.jpg"
            Image.fromarray(pixels).save(first)
            for number in range(CLASSES + label, count, CLASSES):
                os.link(first, place / f"{number:07d}.jpg")
        yield
    finally:
        shutil.rmtree(folder)
