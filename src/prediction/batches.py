"""Images read and prepared by threads, a batch ahead of the network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from src.data.decode import UnreadableImage, read_rgb
from src.data.prefetch import Prefetcher
from src.data.transforms import EvalTransform

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, or a decoded image: Pillow's, or uint8 [height, width, 3] in RGB."""

# A batch is prepared while the network works on another, and one more bridges images that take long.
BATCHES_AHEAD = 2
# The shorter side is what is resized: an image of 1 x 60000 pixels would take 11 GB for a network of 224 pixels.
LARGEST_ASPECT = 200


@dataclass(frozen=True)
class ImageBatch:
    """`image` float32 [batch_size, 3, S, S]: a row for each of `sources` in their order, then rows of zeros.

    `reasons` says, by its row, why a source cannot be used; its row holds nothing of use.
    """

    sources: tuple[Source, ...]
    image: np.ndarray
    reasons: dict[int, str]


def image_batches(
    sources: Iterable[Source], transform: EvalTransform, batch_size: int, num_workers: int
) -> Iterator[ImageBatch]:
    """The images of `sources` in their order, prepared by `num_workers` threads; the last batch is filled with zeros.

    `sources` is read as it is needed, so it may be endless.
    """
    jobs = (_Preparation(batch, transform, batch_size) for batch in _chunks(sources, batch_size))
    return Prefetcher(jobs, num_workers, BATCHES_AHEAD).results()


class _Preparation:
    """A batch in the making: a part is an image."""

    def __init__(self, sources: tuple[Source, ...], transform: EvalTransform, batch_size: int) -> None:
        self.parts = len(sources)
        self._sources, self._transform = sources, transform
        self._image = np.zeros((batch_size, 3, transform.image_size, transform.image_size), np.float32)
        self._reasons: dict[int, str] = {}

    def do(self, part: int) -> None:
        try:
            image = _as_image(self._sources[part])
        except UnreadableImage as error:
            self._reasons[part] = error.reason
            return
        if max(image.size) > LARGEST_ASPECT * min(image.size):
            self._reasons[part] = f"{image.width} x {image.height} pixels are too long and narrow to be resized"
            return
        self._transform(image, out=self._image[part])

    def finish(self) -> ImageBatch:
        return ImageBatch(self._sources, self._image, self._reasons)


def _as_image(source: Source) -> Image.Image:
    """`source` in mode RGB."""
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, np.ndarray):
        return Image.fromarray(source).convert("RGB")
    return read_rgb(source)


def _chunks(sources: Iterable[Source], size: int) -> Iterator[tuple[Source, ...]]:
    iterator = iter(sources)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
