"""Batches of images that worker threads read, decode and prepare: the one path of evaluation and prediction."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from src.data.decode import UnreadableImage, rgb_image
from src.data.packed_image import ImageFile
from src.data.prefetch import Job, prefetch
from src.data.reduction import EXACT, FAST, Decoded, Reduce, whole
from src.data.transforms import eval_transform
from src.errors import UserError
from src.model.model_info import ModelInfo

Source = ImageFile | Image.Image | np.ndarray
"""An image file, a Pillow image, or an array uint8 [height, width, 3] in RGB."""


@dataclass(frozen=True)
class Preparation:
    """`fill(decoded, out=row)` writes an image into a row of a batch, which has this `shape` and `dtype`.

    `reduce` returns by how much an image file of a size may be reduced while it is decoded; None: not at all.
    """

    fill: Callable[..., object]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reduce: Reduce | None = None


def preparation_of(info: ModelInfo, takes_pixels: bool, decode: str = EXACT) -> Preparation:
    """Return the preparation for a network: float32 [3, S, S], normalized, or uint8 [S, S, 3] if it `takes_pixels`.

    `decode` is the option of that name. Raises `UserError` for another value.
    """
    if decode not in (EXACT, FAST):
        raise UserError(f"decode is {decode!r}; set it to {EXACT} or {FAST}")
    transform, size = eval_transform(info), info.model.image_size
    reduce = transform.reduction if decode == FAST else None
    if not takes_pixels:
        return Preparation(transform, (3, size, size), np.dtype(np.float32), reduce)

    def fill(image: Image.Image | Decoded, out: np.ndarray) -> None:
        out[:] = np.asarray(transform.resize_and_crop(image))

    return Preparation(fill, (size, size, 3), np.dtype(np.uint8), reduce)


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
                with rgb_image_of(chunk[row], preparation.reduce) as decoded:
                    preparation.fill(decoded, out=batch.image[row])
            except UnreadableImage as error:
                batch.unreadable[row] = error

        return Job(len(chunk), prepare, lambda: batch)

    iterator = iter(sources)
    chunks = iter(lambda: tuple(islice(iterator, batch_size)), ())
    return prefetch(map(job, chunks), num_workers, batch_size)


@contextlib.contextmanager
def rgb_image_of(source: Source, reduce: Reduce | None = None) -> Iterator[Decoded]:
    """Yield `source` in mode RGB, as `rgb_image` if it is a file. Raises `UnreadableImage`."""
    if isinstance(source, np.ndarray):
        yield whole(Image.fromarray(source).convert("RGB"))
    elif isinstance(source, Image.Image):
        yield whole(source.convert("RGB"))
    else:
        with rgb_image(source, reduce) as decoded:
            yield decoded
