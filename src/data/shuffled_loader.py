"""What all training loaders share: the order of an epoch, its division among devices, and reading its images.

The content of a batch depends on the seed, the epoch and the step. It depends neither on the number of worker threads
nor on how a global batch is divided among devices and accumulated micro-batches.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Protocol, TypeVar

import numpy as np

from src.data.decode import UnreadableImage, UnreadableImages, rgb_image
from src.data.image_folder import ImageFolder
from src.data.prefetch import Job, prefetch
from src.data.reduction import FAST, Decoded, Size
from src.data.sampling import SAMPLE, epoch_order, generator, local_positions, replacements
from src.errors import UserError

BatchType = TypeVar("BatchType")


@dataclass(frozen=True)
class Division:
    """How one optimizer step is divided: `accumulation_steps` micro-batches of `batch_size` on each of `ranks`."""

    batch_size: int
    rank: int = 0
    ranks: int = 1
    accumulation_steps: int = 1

    @property
    def global_batch(self) -> int:
        """The images of a step, over all ranks and micro-batches."""
        return self.batch_size * self.ranks * self.accumulation_steps

    def positions(self, micro_batch: int) -> np.ndarray:
        """Return the positions in the global batch of a micro-batch of this rank, int64 [B]."""
        part, parts = micro_batch * self.ranks + self.rank, self.ranks * self.accumulation_steps
        return local_positions(self.batch_size, part, parts)


class Transform(Protocol):
    """The augmentation of an image."""

    def reduction(self, size: Size, rng: np.random.Generator) -> int:
        """Return by how much an image of `size` may be reduced while it is decoded."""


class ShuffledLoader(ABC, Generic[BatchType]):
    """Shuffled batches of this rank. A subclass is a dataclass that has these fields and makes the batches.

    Attributes:
        folder: the training images.
        transform: the augmentation of an image.
        division: the micro-batches of this rank; images left over at the end of an epoch are skipped.
        seed: of all random numbers.
        num_workers: threads that read images.
        max_bad_images: the share of images that may be unreadable in an epoch. An unreadable image is replaced by
            another one. More of them raise a `UserError` from the batch on that needed them.
        decode: the option of that name: "fast" reduces large JPEG files while they are decoded.

    Raises `UserError` if the folder does not fill one global batch.
    """

    folder: ImageFolder
    transform: Transform
    division: Division
    seed: int
    num_workers: int
    max_bad_images: float
    decode: str

    def __post_init__(self) -> None:
        images, division = len(self.folder), self.division
        self.accumulation_steps, self.global_batch = division.accumulation_steps, division.global_batch
        if images < self.global_batch:
            raise UserError(
                f"training folder {self.folder.root} has {images} images but one step takes {self.global_batch} "
                f"(batch_size {division.batch_size} x {division.ranks} devices x accumulation_steps "
                f"{division.accumulation_steps}); lower one of them"
            )
        self.unreadable = UnreadableImages(images, self.max_bad_images)
        self.steps_per_epoch = images // self.global_batch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[BatchType]:
        """Return the micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them per step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        return prefetch(self._jobs(epoch, start_step), self.num_workers, self.division.batch_size)

    def first_images(self, epoch: int) -> np.ndarray:
        """Return the indices of the images in the first micro-batch of an epoch, in its order, int64 [B]."""
        order = epoch_order(self.seed, epoch, len(self.folder))
        return order[: self.global_batch][self.division.positions(0)]

    def _jobs(self, epoch: int, start_step: int) -> Iterator[Job[BatchType]]:
        order = epoch_order(self.seed, epoch, len(self.folder))
        for step in range(start_step, self.steps_per_epoch):
            yield from self._step(epoch, step, order[step * self.global_batch : (step + 1) * self.global_batch])

    @abstractmethod
    def _step(self, epoch: int, step: int, indices: np.ndarray) -> Iterator[Job[BatchType]]:
        """Yield this rank's micro-batches of a step, from the images of its global batch, int64 [global_batch]."""

    def _local(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the images of each micro-batch of this rank, int64 [B], from those of a global batch."""
        for micro_batch in range(self.accumulation_steps):
            yield indices[self.division.positions(micro_batch)]

    def _augmentation(self, epoch: int, index: int) -> np.random.Generator:
        """Return the random numbers of the augmentation of image number `index`."""
        return generator(self.seed, SAMPLE, epoch, index)

    @contextlib.contextmanager
    def _read(self, epoch: int, index: int) -> Iterator[tuple[Decoded, int]]:
        """Yield image number `index` or its first readable replacement, and the number of the image that was read."""

        def reduction(size: Size) -> int:
            return self.transform.reduction(size, self._augmentation(epoch, index))

        reduce = reduction if self.decode == FAST else None
        with contextlib.ExitStack() as stack:
            for source in chain((index,), replacements(self.seed, epoch, index, len(self.folder))):
                try:
                    decoded = stack.enter_context(rgb_image(self.folder.paths[source], reduce))
                except UnreadableImage as error:
                    self.unreadable.add(epoch, source, error)
                    last = error
                else:
                    yield decoded, source
                    return
        raise last
