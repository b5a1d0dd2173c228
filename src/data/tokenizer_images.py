"""Batches for training an image tokenizer: one view of images without labels.

The content of a batch depends on the seed, the epoch and the step, as that of `src.data.imagenet`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.image_folder import ImageFolder
from src.data.prefetch import Job, prefetch
from src.data.reduction import EXACT, FAST
from src.data.sampling import sample_keys
from src.data.shuffled_images import Division, MicroBatch, ShuffledImages
from src.data.views import ViewTransform


class TokenizerBatch(NamedTuple):
    """`image` uint8 [B, 3, T, T], `key` int32 [B] (see `sampling.sample_keys`), `temperature` float32 [B], all equal."""

    image: np.ndarray
    key: np.ndarray
    temperature: np.ndarray


@dataclass(eq=False)
class TokenizerLoader:
    """Shuffled batches of this rank.

    Args:
        folder: images; labels are not used.
        transform: its view for a tokenizer is used.
        epochs: of the run.
        temperature: at a share in 0..1 of the run.
        num_workers: threads that read images.
        division, seed, max_bad_images: see `ShuffledImages`.
        decode: the option of that name: "fast" reduces large JPEG files while they are decoded.

    Raises `UserError` if the folder does not fill one global batch.
    """

    folder: ImageFolder
    transform: ViewTransform
    division: Division
    epochs: int
    temperature: Callable[[float], float]
    seed: int
    num_workers: int
    max_bad_images: float = 0.0
    decode: str = EXACT

    def __post_init__(self) -> None:
        self._images = ShuffledImages(self.folder, self.division, self.seed, self.max_bad_images)
        self.accumulation_steps, self.global_batch = self.division.accumulation_steps, self.division.global_batch
        self._reduction = self.transform.reduction if self.decode == FAST else None
        self.unreadable, self.steps_per_epoch = self._images.unreadable, self._images.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TokenizerBatch]:
        """Return the micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them per step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        jobs = (self._job(epoch, batch) for batch in self._images.micro_batches(epoch, start_step))
        return prefetch(jobs, self.num_workers, self.division.batch_size)

    def _job(self, epoch: int, micro_batch: MicroBatch) -> Job[TokenizerBatch]:
        indices, side = micro_batch.indices, self.transform.token_size
        image = np.empty((len(indices), 3, side, side), np.uint8)
        temperature = self.temperature((epoch + micro_batch.step / self.steps_per_epoch) / self.epochs)

        def prepare(row: int) -> None:
            index = int(indices[row])
            with self._images.read(epoch, index, self._reduction) as (decoded, _):
                self.transform(decoded, self._images.generator(epoch, index), None, image[row])

        def finish() -> TokenizerBatch:
            temperatures = np.full(len(indices), temperature, np.float32)
            return TokenizerBatch(image, sample_keys(self.seed, epoch, indices), temperatures)

        return Job(len(indices), prepare, finish)
