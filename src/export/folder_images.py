"""Images of a folder as input of a network, for calibration and comparison."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress, count
from pathlib import Path

import numpy as np

from src.data.decode import UnreadableImage
from src.data.sampling import spread
from src.prediction.batches import image_batches
from src.prediction.find_images import find_images
from src.prediction.preparation import Preparation

NUM_WORKERS = 2


def folder_batches(
    folder: Path, preparation: Preparation, batch_size: int, most: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the images in `folder` and its subfolders in batches; the last batch may be shorter.

    `most` limits the number of images, evenly spread. Raises `UserError` for a folder without images and for an
    unreadable image.
    """
    images = find_images(folder, recursive=folder.is_dir())
    chosen = set(spread(len(images), min(len(images), most or len(images))).tolist())
    paths = compress(images, (number in chosen for number in count()))
    for batch in image_batches(paths, preparation, batch_size, NUM_WORKERS):
        for row, reason in batch.reasons.items():
            raise UnreadableImage(str(batch.sources[row]), reason)
        yield batch.image[: len(batch.sources)]
