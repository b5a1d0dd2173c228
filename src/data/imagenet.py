"""Batches of an ImageNet-like folder, for training and for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.augment.mixup import Mixing, Mixup, mix_images, mix_targets
from src.data.image_batches import Preparation, image_batches
from src.data.image_folder import NO_LABEL, ImageFolder
from src.data.prefetch import Job
from src.data.reduction import EXACT, FAST
from src.data.sampling import BATCH, generator, sample_keys
from src.data.shuffled_loader import Division, ShuffledLoader
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
class TrainLoader(ShuffledLoader[TrainBatch]):
    """Shuffled, augmented and mixed batches of this rank (see `ShuffledLoader`).

    An unreadable image is replaced by another one and its label. `targets` are labels, label smoothing and mixing.
    Raises `UserError` as `ShuffledLoader`, and for mixup with an odd batch size.
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
        super().__post_init__()
        if self.targets.mixup is not None and self.division.batch_size % 2:
            raise UserError(
                f"batch_size is {self.division.batch_size} but mixup and cutmix mix images in pairs; set an even "
                "batch_size"
            )

    def _step(self, epoch: int, step: int, indices: np.ndarray) -> Iterator[Job[TrainBatch]]:
        mixup, size, mixing = self.targets.mixup, self.transform.image_size, None
        if mixup is not None and mixup.active(epoch):
            mixing = mixup.draw(generator(self.seed, BATCH, epoch, step), self.global_batch, size, size)
        for micro_batch, local in enumerate(self._local(indices)):
            yield self._job(epoch, local, mixing and mixing.at(self.division.positions(micro_batch)))

    def _job(self, epoch: int, indices: np.ndarray, mixing: Mixing | None) -> Job[TrainBatch]:
        size, targets = self.transform.image_size, self.targets
        images = np.empty((len(indices), 3, size, size), dtype=np.float32)
        labels = np.empty(len(indices), dtype=np.int32)

        def augment(row: int) -> None:
            index = int(indices[row])
            with self._read(epoch, index) as (decoded, source):
                labels[row] = self.folder.labels[source]
                self.transform(decoded, self._augmentation(epoch, index), out=images[row])

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
