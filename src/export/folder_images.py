"""Images of a folder as input of a network, for calibration and comparison."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src.data.image_batches import Preparation, image_batches
from src.data.sampling import spread
from src.prediction.find_images import find_images

NUM_WORKERS = 2


def folder_batches(
    folder: Path, preparation: Preparation, batch_size: int, most: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the images in `folder` and its subfolders in batches; the last batch may be shorter.

    `most` limits the number of images, evenly spread. Raises `UserError` for a folder without images and for an
    unreadable image.
    """
    images = find_images(folder, recursive=folder.is_dir())
    if most is not None:
        images = [images[index] for index in spread(len(images), min(len(images), most))]
    for batch in image_batches(images, preparation, batch_size, NUM_WORKERS):
        if batch.unreadable:
            raise batch.unreadable[min(batch.unreadable)]
        yield batch.image[: len(batch.sources)]
