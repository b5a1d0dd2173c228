"""Batches for masked image modeling: views of images without labels, and the masks of their patches.

The content of a batch depends on the seed, the epoch and the step, as that of `src.data.imagenet`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.image_folder import ImageFolder
from src.data.masking import Masking, masked_positions
from src.data.prefetch import Job, prefetch
from src.data.reduction import EXACT, FAST
from src.data.sampling import sample_keys
from src.data.shuffled_images import Division, ShuffledImages
from src.data.views import ViewTransform


class MaskedBatch(NamedTuple):
    """Images with masks, for N patches of which M are predicted.

    Attributes:
        image: float32 [B, 3, S, S].
        mask: float32 [B, N], row by row: 1 for a masked patch, else 0.
        positions: int32 [B, M], the masked patches of each image, filled with 0.
        weights: float32 [B, M], 1 for a masked patch and 0 for the filling.
        key: int32 [B]; see `sampling.sample_keys`.
    """

    image: np.ndarray
    mask: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    key: np.ndarray


class TokenBatch(NamedTuple):
    """`MaskedBatch` with `token_image`, uint8 [B, 3, T, T], the same crops for the tokenizer."""

    image: np.ndarray
    mask: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    key: np.ndarray
    token_image: np.ndarray


@dataclass(eq=False)
class MaskedLoader:
    """Shuffled batches of this rank with masks; `TokenBatch` if the `transform` has a view for a tokenizer.

    Args:
        folder: images; labels are not used.
        transform: the views of an image.
        masking: the masks of its patches.
        num_workers: threads that read images.
        division, seed, max_bad_images: see `ShuffledImages`; the seed is also that of the masks.
        decode: the option of that name: "fast" reduces large JPEG files while they are decoded.

    Raises `UserError` if the folder does not fill one global batch.
    """

    folder: ImageFolder
    transform: ViewTransform
    masking: Masking
    division: Division
    seed: int
    num_workers: int
    max_bad_images: float = 0.0
    decode: str = EXACT

    def __post_init__(self) -> None:
        self._images = ShuffledImages(self.folder, self.division, self.seed, self.max_bad_images)
        self.accumulation_steps, self.global_batch = self.division.accumulation_steps, self.division.global_batch
        self._reduction = self.transform.reduction if self.decode == FAST else None
        self.unreadable, self.steps_per_epoch = self._images.unreadable, self._images.steps_per_epoch

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch in their order."""
        return TokenBatch._fields if self.transform.token_size else MaskedBatch._fields

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[MaskedBatch | TokenBatch]:
        """Return the micro-batches of an epoch from step `start_step` on, `accumulation_steps` of them per step."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} of an epoch of {self.steps_per_epoch} steps")
        micro_batches = self._images.micro_batches(epoch, start_step)
        jobs = (self._job(epoch, batch.indices) for batch in micro_batches)
        return prefetch(jobs, self.num_workers, self.division.batch_size)

    def first_images(self, epoch: int) -> np.ndarray:
        """Return the indices of the images in the first micro-batch of an epoch, in its order, int64 [B]."""
        return next(self._images.micro_batches(epoch, 0)).indices

    def _job(self, epoch: int, indices: np.ndarray) -> Job[MaskedBatch | TokenBatch]:
        rows, size, side = len(indices), self.transform.image_size, self.transform.token_size
        count = self.masking.count
        batch = MaskedBatch(
            image=np.empty((rows, 3, size, size), np.float32),
            mask=np.empty((rows, self.masking.grid**2), np.float32),
            positions=np.empty((rows, count), np.int32),
            weights=np.empty((rows, count), np.float32),
            key=sample_keys(self.seed, epoch, indices),
        )
        token_image = np.empty((rows, 3, side, side), np.uint8) if side else None

        def prepare(row: int) -> None:
            index = int(indices[row])
            with self._images.read(epoch, index, self._reduction) as (decoded, _):
                rng = self._images.generator(epoch, index)
                self.transform(decoded, rng, batch.image[row], None if token_image is None else token_image[row])
                mask = self.masking.draw(rng)
            batch.mask[row] = mask.ravel()
            batch.positions[row], batch.weights[row] = masked_positions(mask, count)

        return Job(rows, prepare, lambda: batch if token_image is None else TokenBatch(*batch, token_image))
