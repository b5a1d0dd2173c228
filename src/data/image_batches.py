"""Batches of images that worker threads read, decode and prepare: the one path of evaluation and prediction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from PIL import Image

from src.data.decode import UnreadableImage, read_rgb
from src.data.prefetch import Prefetcher
from src.data.transforms import eval_transform
from src.model.model_info import ModelInfo

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image file, a Pillow image, or an array uint8 [height, width, 3] in RGB."""

Result = TypeVar("Result")


class Fill(Protocol):
    """Write an image of mode RGB into one row of a batch."""

    def __call__(self, image: Image.Image, *, out: np.ndarray) -> object: ...


@dataclass(frozen=True)
class Preparation:
    """The function that writes an image into a row of a batch, and the `shape` and `dtype` of the row."""

    fill: Fill
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def preparation_of(info: ModelInfo, takes_pixels: bool) -> Preparation:
    """Return the preparation for a network: float32 [3, S, S], normalized, or uint8 [S, S, 3] if it `takes_pixels`."""
    transform, size = eval_transform(info), info.model.image_size
    if not takes_pixels:
        return float_preparation(transform, size)

    def fill(image: Image.Image, out: np.ndarray) -> None:
        out[:] = np.asarray(transform.resize_and_crop(image))

    return Preparation(fill, (size, size, 3), np.dtype(np.uint8))


def float_preparation(transform: Fill, size: int) -> Preparation:
    """Return the preparation by a transform that writes float32 [3, `size`, `size`]."""
    return Preparation(transform, (3, size, size), np.dtype(np.float32))


@dataclass(frozen=True)
class ImageBatch:
    """A batch of prepared images.

    `image` [batch_size, ...] has one row per source, then rows of zeros. `unreadable` holds the error of each source
    that cannot be used, by its row; that row has no meaning.
    """

    sources: tuple[Source, ...]
    image: np.ndarray
    unreadable: dict[int, UnreadableImage]


class ImageJob(Generic[Result]):
    """The work on one batch: each part reads and prepares one of `sources`.

    `result(image, unreadable)` receives the arrays of an `ImageBatch` and returns the result of the job.
    """

    def __init__(
        self,
        sources: tuple[Source, ...],
        preparation: Preparation,
        batch_size: int,
        result: Callable[[np.ndarray, dict[int, UnreadableImage]], Result],
    ) -> None:
        self.parts = len(sources)
        self._sources, self._fill, self._result = sources, preparation.fill, result
        self._image = np.zeros((batch_size, *preparation.shape), preparation.dtype)
        self._unreadable: dict[int, UnreadableImage] = {}

    def do(self, part: int) -> None:
        """Read and prepare one image."""
        try:
            image = as_image(self._sources[part])
        except UnreadableImage as error:
            self._unreadable[part] = error
            return
        self._fill(image, out=self._image[part])

    def finish(self) -> Result:
        """Return the result."""
        return self._result(self._image, self._unreadable)


def image_batches(
    sources: Iterable[Source], preparation: Preparation, batch_size: int, num_workers: int
) -> Iterator[ImageBatch]:
    """Prepare `sources` in their order by `num_workers` threads; `sources` is read on demand and may be endless."""

    def job(chunk: tuple[Source, ...]) -> ImageJob[ImageBatch]:
        return ImageJob(chunk, preparation, batch_size, lambda image, bad: ImageBatch(chunk, image, bad))

    iterator = iter(sources)
    chunks = iter(lambda: tuple(islice(iterator, batch_size)), ())
    return Prefetcher.of_batches(map(job, chunks), num_workers, batch_size).results()


def as_image(source: Source) -> Image.Image:
    """Return `source` in mode RGB. Raises `UnreadableImage`."""
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source)
    return source.convert("RGB") if isinstance(source, Image.Image) else read_rgb(source)
