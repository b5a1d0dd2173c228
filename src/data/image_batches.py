"""Batches of images that worker threads read, decode and prepare: the one path of evaluation and prediction."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from src.data.decode import UnreadableImage, rgb_image
from src.data.prefetch import Job, prefetch
from src.data.transforms import eval_transform
from src.model.model_info import ModelInfo

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image file, a Pillow image, or an array uint8 [height, width, 3] in RGB."""


@dataclass(frozen=True)
class Preparation:
    """`fill(image, out=row)` writes an image of mode RGB into a row of a batch, which has this `shape` and `dtype`."""

    fill: Callable[..., object]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def preparation_of(info: ModelInfo, takes_pixels: bool) -> Preparation:
    """Return the preparation for a network: float32 [3, S, S], normalized, or uint8 [S, S, 3] if it `takes_pixels`."""
    transform, size = eval_transform(info), info.model.image_size
    if not takes_pixels:
        return Preparation(transform, (3, size, size), np.dtype(np.float32))

    def fill(image: Image.Image, out: np.ndarray) -> None:
        out[:] = np.asarray(transform.resize_and_crop(image))

    return Preparation(fill, (size, size, 3), np.dtype(np.uint8))


@dataclass(frozen=True)
class ImageBatch:
    """A batch of prepared images.

    `image` [batch_size, ...] has one row per source, then rows of zeros. `unreadable` holds the error of each source
    that cannot be used, by its row; that row has no meaning.
    """

    sources: tuple[Source, ...]
    image: np.ndarray
    unreadable: dict[int, UnreadableImage]


def image_batches(
    sources: Iterable[Source], preparation: Preparation, batch_size: int, num_workers: int
) -> Iterator[ImageBatch]:
    """Prepare `sources` in their order by `num_workers` threads; `sources` is read on demand and may be endless."""

    def job(chunk: tuple[Source, ...]) -> Job[ImageBatch]:
        batch = ImageBatch(chunk, np.zeros((batch_size, *preparation.shape), preparation.dtype), {})

        def prepare(row: int) -> None:
            try:
                with rgb_image_of(chunk[row]) as image:
                    preparation.fill(image, out=batch.image[row])
            except UnreadableImage as error:
                batch.unreadable[row] = error

        return Job(len(chunk), prepare, lambda: batch)

    iterator = iter(sources)
    chunks = iter(lambda: tuple(islice(iterator, batch_size)), ())
    return prefetch(map(job, chunks), num_workers, batch_size)


@contextlib.contextmanager
def rgb_image_of(source: Source) -> Iterator[Image.Image]:
    """Yield `source` in mode RGB. Raises `UnreadableImage`."""
    if isinstance(source, np.ndarray):
        yield Image.fromarray(source).convert("RGB")
    elif isinstance(source, Image.Image):
        yield source.convert("RGB")
    else:
        with rgb_image(source) as image:
            yield image
