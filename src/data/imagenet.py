"""Batches of an ImageNet-like folder, for training and for evaluation.

What a batch holds depends on the seed, the epoch and the step, and not on how many threads prepare it nor on how a
global batch is divided among devices and accumulated micro-batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from src.data.augment.mixup import Mixing, Mixup, mix_images, mix_targets
from src.data.decode import UnreadableImage, read_rgb
from src.data.heap import keep_freed_memory
from src.data.image_folder import (
    IMAGE_EXTENSIONS,
    ImageFolder,
    check_class_names,
    read_image_folder,
)
from src.data.prefetch import Job, Prefetcher
from src.data.sampling import batch_generator, epoch_order, local_positions, sample_generator, sample_keys
from src.data.unreadable import UnreadableImages, replacements
from src.errors import UserError

__all__ = [
    "IMAGE_EXTENSIONS",
    "EvalBatch",
    "EvalLoader",
    "ImageFolder",
    "TrainBatch",
    "TrainLoader",
    "check_class_names",
    "read_image_folder",
]

NO_LABEL = -1


class RandomTransform(Protocol):
    """What training does to an image (see `transforms.TrainTransform`): fills `out`, float32 [3, S, S]."""

    @property
    def image_size(self) -> int: ...

    def __call__(self, image: Image.Image, rng: np.random.Generator, out: np.ndarray) -> object: ...


class FixedTransform(Protocol):
    """What evaluation does to an image (see `transforms.EvalTransform`): fills `out`, float32 [3, S, S]."""

    @property
    def image_size(self) -> int: ...

    def __call__(self, image: Image.Image, out: np.ndarray) -> object: ...


class TrainBatch(NamedTuple):
    """`image` float32 [B, 3, S, S], `target` float32 [B, num_classes], `key` int32 [B] (see `sampling.sample_keys`)."""

    image: np.ndarray
    target: np.ndarray
    key: np.ndarray


class EvalBatch(NamedTuple):
    """`image` float32 [B, 3, S, S], `label` int32 [B]; from `valid` on there are only zeros, labeled -1."""

    image: np.ndarray
    label: np.ndarray
    valid: int


Batch = TypeVar("Batch", TrainBatch, EvalBatch)


class TrainLoader:
    """Shuffled, augmented and mixed batches of this rank.

    A step of the optimizer takes a global batch of `batch_size * ranks * accumulation_steps` images; this loader
    gives its rank's `accumulation_steps` micro-batches of `batch_size` for each step. What is left over at the end of
    an epoch's order is not seen in that epoch. An image that cannot be read is replaced by another, label included,
    which is treated as that one would have been; more than the share `max_bad_images` of them are a `UserError` from
    the batch on that they were wanted for. Raises `UserError` where the folder does not fill one global batch, has
    more classes than `num_classes`, or mixup is on and `batch_size` odd.
    """

    def __init__(
        self,
        folder: ImageFolder,
        transform: RandomTransform,
        mixup: Mixup | None,
        num_classes: int,
        batch_size: int,
        seed: int,
        num_workers: int,
        rank: int = 0,
        ranks: int = 1,
        accumulation_steps: int = 1,
        label_smoothing: float = 0.0,
        max_bad_images: float = 0.0,
    ) -> None:
        _check_workers(num_workers)
        global_batch = batch_size * ranks * accumulation_steps
        if len(folder) < global_batch:
            raise UserError(
                f"training folder {folder.root} gives {len(folder)} images, fewer than one step takes: {global_batch} "
                f"= batch_size {batch_size} x {ranks} devices x accumulation_steps {accumulation_steps}; lower one"
            )
        if len(folder.classes) > num_classes:
            raise UserError(
                f"training folder {folder.root} has {len(folder.classes)} classes, more than num_classes={num_classes}"
            )
        if mixup is not None and batch_size % 2:
            raise UserError(f"batch_size={batch_size}: mixup and cutmix mix images in pairs; take an even batch_size")
        self.folder = folder
        self.transform = transform
        self.mixup = mixup
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.rank = rank
        self.ranks = ranks
        self.accumulation_steps = accumulation_steps
        self.label_smoothing = label_smoothing
        self.unreadable = UnreadableImages(len(folder), max_bad_images)
        self.global_batch = global_batch
        self.steps_per_epoch = len(folder) // global_batch
        self._runs: weakref.WeakSet[Prefetcher[TrainBatch]] = weakref.WeakSet()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainBatch]:
        """The micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them for each step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        return _run(self._jobs(epoch, start_step), self.num_workers, self.batch_size, self._runs)

    def first_images(self, epoch: int) -> np.ndarray:
        """Which images of the folder the first micro-batch of an epoch is made of, in its order, int64 [B]."""
        order = epoch_order(self.seed, epoch, len(self.folder))
        return order[: self.global_batch][self._positions(0)]

    def close(self) -> None:
        """Stop the threads of every epoch that was begun and not ended."""
        _close_all(self._runs)

    def _positions(self, micro_batch: int) -> np.ndarray:
        """Where in the global batch this rank's micro-batch comes from."""
        part, parts = micro_batch * self.ranks + self.rank, self.ranks * self.accumulation_steps
        return local_positions(self.batch_size, part, parts)

    def _jobs(self, epoch: int, start_step: int) -> Iterator[Job[TrainBatch]]:
        order = epoch_order(self.seed, epoch, len(self.folder))
        for step in range(start_step, self.steps_per_epoch):
            batch = order[step * self.global_batch : (step + 1) * self.global_batch]
            mixing = self._mixing(epoch, step)
            for micro_batch in range(self.accumulation_steps):
                positions = self._positions(micro_batch)
                yield _TrainJob(self, epoch, batch[positions], mixing and mixing.at(positions))

    def _mixing(self, epoch: int, step: int) -> Mixing | None:
        if self.mixup is None or not self.mixup.active(epoch):
            return None
        size = self.transform.image_size
        return self.mixup.draw(batch_generator(self.seed, epoch, step), self.global_batch, size, size)


class EvalLoader:
    """Every image of a folder once, in the folder's order, dealt out to the ranks in turn.

    All ranks give the same number of batches, so that they may talk to each other after each; where there is nothing
    left for a rank its last batch has `valid` 0.
    """

    def __init__(
        self,
        folder: ImageFolder,
        transform: FixedTransform,
        batch_size: int,
        num_workers: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        _check_workers(num_workers)
        self.folder = folder
        self.transform = transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.rank = rank
        self.ranks = ranks
        self._runs: weakref.WeakSet[Prefetcher[EvalBatch]] = weakref.WeakSet()

    def __len__(self) -> int:
        """The number of batches, the same on every rank."""
        return -(-len(self.folder) // (self.ranks * self.batch_size))

    def __iter__(self) -> Iterator[EvalBatch]:
        return _run(self._jobs(), self.num_workers, self.batch_size, self._runs)

    def close(self) -> None:
        """Stop the threads of every pass that was begun and not ended."""
        _close_all(self._runs)

    def _jobs(self) -> Iterator[Job[EvalBatch]]:
        indices = np.arange(self.rank, len(self.folder), self.ranks)
        for number in range(len(self)):
            yield _EvalJob(self, indices[number * self.batch_size : (number + 1) * self.batch_size])


class _TrainJob:
    """One micro-batch in the making: a part per image, then mixing."""

    def __init__(self, loader: TrainLoader, epoch: int, indices: np.ndarray, mixing: Mixing | None) -> None:
        size = loader.transform.image_size
        self.parts = len(indices)
        self._loader = loader
        self._epoch = epoch
        self._indices = indices
        self._sources = indices.copy()  # where an image is replaced, the other's number
        self._mixing = mixing
        self._images = np.empty((len(indices), 3, size, size), dtype=np.float32)

    def do(self, part: int) -> None:
        loader, index = self._loader, int(self._indices[part])
        image, self._sources[part] = self._read(index)
        loader.transform(image, sample_generator(loader.seed, self._epoch, index), out=self._images[part])

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """Image number `index`, or where it cannot be read another; and the number of what was read."""
        loader = self._loader
        for source in chain((index,), replacements(loader.seed, self._epoch, index, len(loader.folder))):
            try:
                return read_rgb(loader.folder.paths[source]), source
            except UnreadableImage as error:
                loader.unreadable.add(self._epoch, source, error)
                last = error
        raise last

    def finish(self) -> TrainBatch:
        loader, mixing = self._loader, self._mixing
        if mixing is not None:
            mix_images(self._images, mixing)
        lam = np.ones(self.parts) if mixing is None else mixing.lam
        labels = loader.folder.labels[self._sources]
        target = mix_targets(labels, lam, loader.num_classes, loader.label_smoothing)
        return TrainBatch(self._images, target, sample_keys(loader.seed, self._epoch, self._indices))


class _EvalJob:
    """One batch in the making: a part per image."""

    def __init__(self, loader: EvalLoader, indices: np.ndarray) -> None:
        size = loader.transform.image_size
        self.parts = len(indices)
        self._loader = loader
        self._indices = indices
        self._images = np.zeros((loader.batch_size, 3, size, size), dtype=np.float32)

    def do(self, part: int) -> None:
        path = self._loader.folder.paths[self._indices[part]]
        self._loader.transform(read_rgb(path), out=self._images[part])

    def finish(self) -> EvalBatch:
        label = np.full(len(self._images), NO_LABEL, dtype=np.int32)
        label[: self.parts] = self._loader.folder.labels[self._indices]
        return EvalBatch(self._images, label, self.parts)


def _check_workers(num_workers: int) -> None:
    if num_workers < 1:
        raise UserError(f"num_parallel_workers={num_workers}: images are read by threads; give 1 or more")


def _run(
    jobs: Iterator[Job[Batch]], num_workers: int, batch_size: int, runs: weakref.WeakSet[Prefetcher[Batch]]
) -> Iterator[Batch]:
    keep_freed_memory()
    # Two batches under way keep the workers busy while the consumer takes one, unless there are more workers than a
    # batch has images.
    prefetcher = Prefetcher(jobs, num_workers, depth=2 + (num_workers - 1) // batch_size)
    runs.add(prefetcher)
    return prefetcher.results()


def _close_all(runs: weakref.WeakSet[Prefetcher]) -> None:
    for prefetcher in list(runs):
        prefetcher.close()
