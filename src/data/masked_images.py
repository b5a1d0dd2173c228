"""Batches for masked image modeling: views of images without labels, and the masks of their patches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.image_folder import ImageFolder
from src.data.masking import Masking, masked_positions
from src.data.prefetch import Job
from src.data.reduction import EXACT
from src.data.sampling import MASK, generator, sample_keys
from src.data.shuffled_loader import Division, ShuffledLoader
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
class MaskedLoader(ShuffledLoader[MaskedBatch | TokenBatch]):
    """Shuffled batches of this rank with masks (see `ShuffledLoader`); labels are not used.

    The batches are `TokenBatch` if the `transform` has a view for a tokenizer. The mask of an image depends on the seed,
    the epoch and the number of the image only.
    """

    folder: ImageFolder
    transform: ViewTransform
    masking: Masking
    division: Division
    seed: int
    num_workers: int
    max_bad_images: float = 0.0
    decode: str = EXACT

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch in their order."""
        return TokenBatch._fields if self.transform.token_size else MaskedBatch._fields

    def _step(self, epoch: int, step: int, indices: np.ndarray) -> Iterator[Job[MaskedBatch | TokenBatch]]:
        return (self._job(epoch, local) for local in self._local(indices))

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
            with self._read(epoch, index) as (decoded, _):
                views = batch.image[row], None if token_image is None else token_image[row]
                self.transform(decoded, self._augmentation(epoch, index), *views)
            mask = self.masking.draw(generator(self.seed, MASK, epoch, index))
            batch.mask[row] = mask.ravel()
            batch.positions[row], batch.weights[row] = masked_positions(mask, count)

        return Job(rows, prepare, lambda: batch if token_image is None else TokenBatch(*batch, token_image))
