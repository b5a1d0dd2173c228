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
from src.prediction.preparation import Preparation

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, or a decoded image: Pillow's, or uint8 [height, width, 3] in RGB."""

# A batch is prepared while the network works on another, and one more bridges images that take long.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ImageBatch:
    """`image` [batch_size, ...], as the preparation says: a row for each of `sources` in order, then rows of zeros.

    `reasons` says, by its row, why a source cannot be used; its row holds nothing of use.
    """

    sources: tuple[Source, ...]
    image: np.ndarray
    reasons: dict[int, str]


def image_batches(
    sources: Iterable[Source], preparation: Preparation, batch_size: int, num_workers: int
) -> Iterator[ImageBatch]:
    """The images of `sources` in their order, prepared by `num_workers` threads; the last batch is filled with zeros.

    `sources` is read as it is needed, so it may be endless.
    """
    jobs = (_BatchInTheMaking(batch, preparation, batch_size) for batch in _chunks(sources, batch_size))
    return Prefetcher(jobs, num_workers, BATCHES_AHEAD).results()


class _BatchInTheMaking:
    """The work on a batch: a part is an image."""

    def __init__(self, sources: tuple[Source, ...], preparation: Preparation, batch_size: int) -> None:
        self.parts = len(sources)
        self._sources, self._fill = sources, preparation.fill
        self._image = np.zeros((batch_size, *preparation.shape), preparation.dtype)
        self._reasons: dict[int, str] = {}

    def do(self, part: int) -> None:
        try:
            image = as_image(self._sources[part])
        except UnreadableImage as error:
            self._reasons[part] = error.reason
            return
        self._fill(image, self._image[part])

    def finish(self) -> ImageBatch:
        return ImageBatch(self._sources, self._image, self._reasons)


def as_image(source: Source) -> Image.Image:
    """`source` in mode RGB. Raises `UnreadableImage`."""
    if isinstance(source, Image.Image):
        image = source.convert("RGB")
    elif isinstance(source, np.ndarray):
        image = Image.fromarray(source).convert("RGB")
    else:
        image = read_rgb(source)
    return image


def _chunks(sources: Iterable[Source], size: int) -> Iterator[tuple[Source, ...]]:
    iterator = iter(sources)
    while chunk := tuple(islice(iterator, size)):
        yield chunk
