"""Batches of an ImageNet-like folder, for training and for evaluation.

The content of a batch depends on the seed, the epoch and the step. It depends neither on the number of worker threads
nor on how a global batch is divided among devices and accumulated micro-batches.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from src.data.augment.mixup import Mixing, Mixup, mix_images, mix_targets
from src.data.decode import UnreadableImage, read_rgb
from src.data.image_batches import Fill, ImageJob, float_preparation
from src.data.image_folder import (
    IMAGE_EXTENSIONS,
    ImageFolder,
    check_class_names,
    read_image_folder,
)
from src.data.prefetch import Prefetcher
from src.data.sampling import batch_generator, epoch_order, local_positions, sample_generator, sample_keys
from src.data.unreadable import UnreadableImages, replacements
from src.errors import UserError

__all__ = [
    "IMAGE_EXTENSIONS",
    "Division",
    "EvalBatch",
    "EvalLoader",
    "ImageFolder",
    "Targets",
    "TrainBatch",
    "TrainLoader",
    "check_class_names",
    "read_image_folder",
]

NO_LABEL = -1


class RandomTransform(Protocol):
    """A training transform (see `transforms.TrainTransform`): it fills `out`, float32 [3, S, S]."""

    @property
    def image_size(self) -> int: ...

    def __call__(self, image: Image.Image, rng: np.random.Generator, out: np.ndarray) -> object: ...


class FixedTransform(Fill, Protocol):
    """An evaluation transform (see `transforms.EvalTransform`): it fills `out`, float32 [3, S, S]."""

    @property
    def image_size(self) -> int: ...


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
class Division:
    """How one optimizer step is divided: `accumulation_steps` micro-batches of `batch_size` on each of `ranks`."""

    batch_size: int
    rank: int = 0
    ranks: int = 1
    accumulation_steps: int = 1

    @property
    def global_batch(self) -> int:
        """Images per optimizer step."""
        return self.batch_size * self.ranks * self.accumulation_steps

    def positions(self, micro_batch: int) -> np.ndarray:
        """Return the positions in the global batch of a micro-batch of this rank, int64 [B]."""
        part, parts = micro_batch * self.ranks + self.rank, self.ranks * self.accumulation_steps
        return local_positions(self.batch_size, part, parts)


@dataclass(frozen=True)
class Targets:
    """How the labels of a batch become its targets, and its images are mixed."""

    num_classes: int
    label_smoothing: float = 0.0
    mixup: Mixup | None = None


class TrainLoader:
    """Shuffled, augmented and mixed batches of this rank.

    Args:
        folder: the training images.
        transform: the augmentation of one image.
        targets: labels, label smoothing and mixing.
        division: the micro-batches of this rank; images left over at the end of an epoch are skipped.
        seed: of the order, the augmentation and the mixing.
        num_workers: threads that read images.
        max_bad_images: the share of images that may be unreadable in an epoch. An unreadable image is replaced by
            another one and its label. More of them raise a `UserError` from the batch on that needed them.

    Raises `UserError` if the folder does not fill one global batch or has more classes than `num_classes`, and for
    mixup with an odd batch size.
    """

    def __init__(
        self,
        folder: ImageFolder,
        transform: RandomTransform,
        targets: Targets,
        division: Division,
        seed: int,
        num_workers: int,
        max_bad_images: float = 0.0,
    ) -> None:
        _check_workers(num_workers)
        global_batch = division.global_batch
        if len(folder) < global_batch:
            raise UserError(
                f"training folder {folder.root} has {len(folder)} images but one step takes {global_batch} "
                f"(batch_size {division.batch_size} x {division.ranks} devices x accumulation_steps "
                f"{division.accumulation_steps}); lower one of them"
            )
        if len(folder.classes) > targets.num_classes:
            raise UserError(
                f"num_classes is {targets.num_classes} but training folder {folder.root} has {len(folder.classes)} "
                f"classes; set num_classes to {len(folder.classes)} or 0"
            )
        if targets.mixup is not None and division.batch_size % 2:
            raise UserError(
                f"batch_size is {division.batch_size} but mixup and cutmix mix images in pairs; set an even batch_size"
            )
        self.folder = folder
        self.transform = transform
        self.targets = targets
        self.division = division
        self.seed = seed
        self.num_workers = num_workers
        self.unreadable = UnreadableImages(len(folder), max_bad_images)
        self.global_batch = global_batch
        self.accumulation_steps = division.accumulation_steps
        self.steps_per_epoch = len(folder) // global_batch
        self._runs: weakref.WeakSet[Prefetcher[TrainBatch]] = weakref.WeakSet()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them per step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        jobs = self._jobs(epoch, start_step)
        prefetcher = Prefetcher[TrainBatch].of_batches(jobs, self.num_workers, self.division.batch_size)
        self._runs.add(prefetcher)
        return prefetcher.results()

    def first_images(self, epoch: int) -> np.ndarray:
        """Return the indices of the images in the first micro-batch of an epoch, in its order, int64 [B]."""
        order = epoch_order(self.seed, epoch, len(self.folder))
        return order[: self.global_batch][self.division.positions(0)]

    def close(self) -> None:
        """Stop the threads of every unfinished epoch."""
        for prefetcher in list(self._runs):
            prefetcher.close()

    def _jobs(self, epoch: int, start_step: int) -> Iterator[_TrainJob]:
        order = epoch_order(self.seed, epoch, len(self.folder))
        for step in range(start_step, self.steps_per_epoch):
            batch = order[step * self.global_batch : (step + 1) * self.global_batch]
            mixing = self._mixing(epoch, step)
            for micro_batch in range(self.accumulation_steps):
                positions = self.division.positions(micro_batch)
                yield _TrainJob(self, epoch, batch[positions], mixing and mixing.at(positions))

    def _mixing(self, epoch: int, step: int) -> Mixing | None:
        mixup, size = self.targets.mixup, self.transform.image_size
        if mixup is None or not mixup.active(epoch):
            return None
        return mixup.draw(batch_generator(self.seed, epoch, step), self.global_batch, size, size)


class EvalLoader:
    """Every image of a folder once, in the order of the folder, dealt out to the ranks in turn.

    All ranks yield the same number of batches, so that they can communicate after each. The last batch of a rank that
    has no image left has `valid` 0. Raises `UnreadableImage` (a `UserError`) in place of a batch with such an image.
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
        """Return the number of batches, which is the same on every rank."""
        return -(-len(self.folder) // (self.ranks * self.batch_size))

    def __iter__(self) -> Iterator[EvalBatch]:
        prefetcher = Prefetcher[EvalBatch].of_batches(self._jobs(), self.num_workers, self.batch_size)
        self._runs.add(prefetcher)
        return prefetcher.results()

    def close(self) -> None:
        """Stop the threads of every unfinished pass."""
        for prefetcher in list(self._runs):
            prefetcher.close()

    def _jobs(self) -> Iterator[ImageJob[EvalBatch]]:
        preparation = float_preparation(self.transform, self.transform.image_size)
        indices = np.arange(self.rank, len(self.folder), self.ranks)
        for number in range(len(self)):
            chosen = indices[number * self.batch_size : (number + 1) * self.batch_size]
            paths = tuple(self.folder.paths[index] for index in chosen)
            yield ImageJob(paths, preparation, self.batch_size, partial(self._labeled, chosen))

    def _labeled(self, indices: np.ndarray, image: np.ndarray, unreadable: dict[int, UnreadableImage]) -> EvalBatch:
        if unreadable:
            raise unreadable[min(unreadable)]
        label = np.full(len(image), NO_LABEL, dtype=np.int32)
        label[: len(indices)] = self.folder.labels[indices]
        return EvalBatch(image, label, len(indices))


class _TrainJob:
    """The work on one micro-batch: a part per image, then mixing."""

    def __init__(self, loader: TrainLoader, epoch: int, indices: np.ndarray, mixing: Mixing | None) -> None:
        size = loader.transform.image_size
        self.parts = len(indices)
        self._loader = loader
        self._epoch = epoch
        self._indices = indices
        self._sources = indices.copy()  # the indices of the images that were read, replacements included
        self._mixing = mixing
        self._images = np.empty((len(indices), 3, size, size), dtype=np.float32)

    def do(self, part: int) -> None:
        loader, index = self._loader, int(self._indices[part])
        image, self._sources[part] = self._read(index)
        loader.transform(image, sample_generator(loader.seed, self._epoch, index), out=self._images[part])

    def _read(self, index: int) -> tuple[Image.Image, int]:
        """Return image number `index` or its first readable replacement, and the number of the image that was read."""
        loader = self._loader
        for source in chain((index,), replacements(loader.seed, self._epoch, index, len(loader.folder))):
            try:
                return read_rgb(loader.folder.paths[source]), source
            except UnreadableImage as error:
                loader.unreadable.add(self._epoch, source, error)
                last = error
        raise last

    def finish(self) -> TrainBatch:
        loader, targets, mixing = self._loader, self._loader.targets, self._mixing
        if mixing is not None:
            mix_images(self._images, mixing)
        lam = np.ones(self.parts) if mixing is None else mixing.lam
        labels = loader.folder.labels[self._sources]
        target = mix_targets(labels, lam, targets.num_classes, targets.label_smoothing)
        return TrainBatch(self._images, target, sample_keys(loader.seed, self._epoch, self._indices))


def _check_workers(num_workers: int) -> None:
    if num_workers < 1:
        raise UserError(f"num_parallel_workers is {num_workers} but threads read the images; set it to 1 or more")
