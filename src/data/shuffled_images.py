"""The images of a training epoch: their order, their division among devices and micro-batches, and reading them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from src.data.decode import UnreadableImage, UnreadableImages, rgb_image
from src.data.image_folder import ImageFolder
from src.data.reduction import Decoded, Size
from src.data.sampling import SAMPLE, epoch_order, generator, local_positions, replacements
from src.errors import UserError


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


class MicroBatch(NamedTuple):
    """The step, the numbers of the images in the folder, and their positions in the global batch, both int64 [B]."""

    step: int
    indices: np.ndarray
    positions: np.ndarray


@dataclass(eq=False)
class ShuffledImages:
    """The images of `folder` in a new order in each epoch; images left over at the end of an epoch are skipped.

    Args:
        folder: the training images.
        division: the micro-batches of this rank.
        seed: of the order, the augmentation and the replacements.
        max_bad_images: the share of images that may be unreadable in an epoch. An unreadable image is replaced by
            another one. More of them raise a `UserError` from the batch on that needed them.

    Raises `UserError` if the folder does not fill one global batch.
    """

    folder: ImageFolder
    division: Division
    seed: int
    max_bad_images: float = 0.0

    def __post_init__(self) -> None:
        images, division = len(self.folder), self.division
        if images < division.global_batch:
            raise UserError(
                f"training folder {self.folder.root} has {images} images but one step takes {division.global_batch} "
                f"(batch_size {division.batch_size} x {division.ranks} devices x accumulation_steps "
                f"{division.accumulation_steps}); lower one of them"
            )
        self.unreadable = UnreadableImages(images, self.max_bad_images)
        self.steps_per_epoch = images // division.global_batch

    def micro_batches(self, epoch: int, start_step: int) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches of an epoch from step `start_step` on."""
        order, division = epoch_order(self.seed, epoch, len(self.folder)), self.division
        for step in range(start_step, self.steps_per_epoch):
            batch = order[step * division.global_batch : (step + 1) * division.global_batch]
            for micro_batch in range(division.accumulation_steps):
                positions = division.positions(micro_batch)
                yield MicroBatch(step, batch[positions], positions)

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """Return the random numbers of an image in an epoch."""
        return generator(self.seed, SAMPLE, epoch, index)

    @contextlib.contextmanager
    def read(
        self, epoch: int, index: int, reduction: Callable[[Size, np.random.Generator], int] | None
    ) -> Iterator[tuple[Decoded, int]]:
        """Yield image number `index` or its first readable replacement, and the number of the image that was read.

        `reduction` returns by how much an image of a size may be reduced while it is decoded; None: not at all.
        """
        reduce = None if reduction is None else lambda size: reduction(size, self.generator(epoch, index))
        with contextlib.ExitStack() as stack:
            for source in chain((index,), replacements(self.seed, epoch, index, len(self.folder))):
                try:
                    image = rgb_image(self.folder.paths[source], reduce)
                    decoded = stack.enter_context(image)
                except UnreadableImage as error:
                    self.unreadable.add(epoch, source, error)
                    last = error
                else:
                    yield decoded, source
                    return
        raise last
