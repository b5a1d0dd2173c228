"""Images of a folder as a network's input, for calibration and comparison."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, count
from pathlib import Path

import numpy as np

from src.data.image_batches import Preparation, image_batches
from src.data.sampling import spread
from src.prediction.find_images import find_images

NUM_WORKERS = 2


def folder_batches(
    folder: Path, preparation: Preparation, batch_size: int, most: int | None = None
) -> Iterator[np.ndarray]:
    """The images in `folder` and the folders inside it, in batches; the last one may be short.

    Only `most` of them, evenly spread, where that is given. Raises `UserError` for a folder without images and for an
    image that cannot be read.
    """
    images = find_images(folder, recursive=folder.is_dir())
    chosen = set(spread(len(images), min(len(images), most or len(images))).tolist())
    paths = compress(images, (number in chosen for number in count()))
    for batch in image_batches(paths, preparation, batch_size, NUM_WORKERS):
        if batch.unreadable:
            raise batch.unreadable[min(batch.unreadable)]
        yield batch.image[: len(batch.sources)]
