"""Batches of an ImageNet-like folder, for training and for evaluation.

The content of a batch depends on the seed, the epoch and the step. It depends neither on the number of worker threads
nor on how a global batch is divided among devices and accumulated micro-batches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.augment.mixup import Mixing, Mixup, mix_images, mix_targets
from src.data.image_batches import Preparation, image_batches
from src.data.image_folder import NO_LABEL, ImageFolder
from src.data.prefetch import Job, prefetch
from src.data.reduction import EXACT, FAST
from src.data.sampling import BATCH, generator, sample_keys
from src.data.shuffled_images import Division, ShuffledImages
from src.data.transforms import EvalTransform, TrainTransform
from src.errors import UserError


class TrainBatch(NamedTuple):
    """`image` float32 [B, 3, S, S], `target` float32 [B, num_classes], `key` int32 [B] (see `sampling.sample_keys`)."""

    image: np.ndarray
    target: np.ndarray
    key: np.ndarray


class EvalBatch(NamedTuple):
    """`image` float32 [B, 3, S, S], `label` int32 [B]; the rows from `valid` on are zeros with label -1."""

    image: np.ndarray
    label: np.ndarray
    valid: int


@dataclass(frozen=True)
class Targets:
    """How the labels of a batch become its targets, and its images are mixed."""

    num_classes: int
    label_smoothing: float = 0.0
    mixup: Mixup | None = None


@dataclass(eq=False)
class TrainLoader:
    """Shuffled, augmented and mixed batches of this rank.

    Args:
        folder: the training images.
        transform: the augmentation of one image.
        targets: labels, label smoothing and mixing.
        num_workers: threads that read images.
        division, seed, max_bad_images: see `ShuffledImages`; the seed is also that of the mixing.
        decode: the option of that name: "fast" reduces large JPEG files while they are decoded.

    Raises `UserError` if the folder does not fill one global batch, and for mixup with an odd batch size.
    """

    folder: ImageFolder
    transform: TrainTransform
    targets: Targets
    division: Division
    seed: int
    num_workers: int
    max_bad_images: float = 0.0
    decode: str = EXACT

    def __post_init__(self) -> None:
        division = self.division
        self._images = ShuffledImages(self.folder, division, self.seed, self.max_bad_images)
        if self.targets.mixup is not None and division.batch_size % 2:
            raise UserError(
                f"batch_size is {division.batch_size} but mixup and cutmix mix images in pairs; set an even batch_size"
            )
        self.accumulation_steps, self.global_batch = division.accumulation_steps, division.global_batch
        self._reduction = self.transform.reduction if self.decode == FAST else None
        self.unreadable, self.steps_per_epoch = self._images.unreadable, self._images.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them per step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        return prefetch(self._jobs(epoch, start_step), self.num_workers, self.division.batch_size)

    def first_images(self, epoch: int) -> np.ndarray:
        """Return the indices of the images in the first micro-batch of an epoch, in its order, int64 [B]."""
        return next(self._images.micro_batches(epoch, 0)).indices

    def _jobs(self, epoch: int, start_step: int) -> Iterator[Job[TrainBatch]]:
        mixup, size = self.targets.mixup, self.transform.image_size
        for step, indices, positions in self._images.micro_batches(epoch, start_step):
            mixing = None
            if mixup is not None and mixup.active(epoch):
                mixing = mixup.draw(generator(self.seed, BATCH, epoch, step), self.global_batch, size, size)
            yield self._job(epoch, indices, mixing and mixing.at(positions))

    def _job(self, epoch: int, indices: np.ndarray, mixing: Mixing | None) -> Job[TrainBatch]:
        size, targets = self.transform.image_size, self.targets
        images = np.empty((len(indices), 3, size, size), dtype=np.float32)
        labels = np.empty(len(indices), dtype=np.int32)

        def augment(row: int) -> None:
            index = int(indices[row])
            with self._images.read(epoch, index, self._reduction) as (decoded, source):
                labels[row] = self.folder.labels[source]
                self.transform(decoded, self._images.generator(epoch, index), out=images[row])

        def mix() -> TrainBatch:
            if mixing is not None:
                mix_images(images, mixing)
            lam = np.ones(len(indices)) if mixing is None else mixing.lam
            target = mix_targets(labels, lam, targets.num_classes, targets.label_smoothing)
            return TrainBatch(images, target, sample_keys(self.seed, epoch, indices))

        return Job(len(indices), augment, mix)


@dataclass(eq=False)
class EvalLoader:
    """Every image of a folder once, in the order of the folder, dealt out to the ranks in turn.

    All ranks yield the same number of batches, so that they can communicate after each. The last batch of a rank that
    has no image left has `valid` 0. Raises `UnreadableImage` (a `UserError`) in place of a batch with such an image.
    """

    folder: ImageFolder
    transform: EvalTransform
    batch_size: int
    num_workers: int
    rank: int = 0
    ranks: int = 1
    decode: str = EXACT

    def __len__(self) -> int:
        """Return the number of batches, which is the same on every rank."""
        return -(-len(self.folder) // (self.ranks * self.batch_size))

    def __iter__(self) -> Iterator[EvalBatch]:
        size = self.transform.image_size
        reduce = self.transform.reduction if self.decode == FAST else None
        preparation = Preparation(self.transform, (3, size, size), np.dtype(np.float32), reduce)
        indices = np.arange(self.rank, len(self.folder), self.ranks)
        labels = np.full((len(self), self.batch_size), NO_LABEL, dtype=np.int32)
        labels.flat[: len(indices)] = self.folder.labels[indices]
        paths = (self.folder.paths[index] for index in indices)
        # No variable holds the iterator: the traceback of an error would keep it, and its threads, alive.
        for label, batch in zip(labels, image_batches(paths, preparation, self.batch_size, self.num_workers)):
            if batch.unreadable:
                raise batch.unreadable[min(batch.unreadable)]
            yield EvalBatch(batch.image, label, len(batch.sources))
        if len(indices) <= (len(self) - 1) * self.batch_size:
            yield EvalBatch(np.zeros((self.batch_size, *preparation.shape), np.float32), labels[-1], 0)
