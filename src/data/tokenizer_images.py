"""Batches for training an image tokenizer: one view of images without labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from src.data.image_folder import ImageFolder
from src.data.prefetch import Job
from src.data.reduction import EXACT
from src.data.sampling import sample_keys
from src.data.shuffled_loader import Division, ShuffledLoader
from src.data.views import ViewTransform


class TokenizerBatch(NamedTuple):
    """`image` uint8 [B, 3, T, T], `key` int32 [B] (see `sampling.sample_keys`), `temperature` float32 [B], all equal."""

    image: np.ndarray
    key: np.ndarray
    temperature: np.ndarray


@dataclass(eq=False)
class TokenizerLoader(ShuffledLoader[TokenizerBatch]):
    """Shuffled batches of this rank (see `ShuffledLoader`); labels are not used.

    The images are the view of `transform` for a tokenizer. `temperature` returns that at a share in 0..1 of the run,
    which has `epochs`.
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

    def _step(self, epoch: int, step: int, indices: np.ndarray) -> Iterator[Job[TokenizerBatch]]:
        temperature = self.temperature((epoch + step / self.steps_per_epoch) / self.epochs)
        return (self._job(epoch, local, temperature) for local in self._local(indices))

    def _job(self, epoch: int, indices: np.ndarray, temperature: float) -> Job[TokenizerBatch]:
        side = self.transform.token_size
        image = np.empty((len(indices), 3, side, side), np.uint8)

        def prepare(row: int) -> None:
            index = int(indices[row])
            with self._read(epoch, index) as (decoded, _):
                self.transform(decoded, self._augmentation(epoch, index), None, image[row])

        def finish() -> TokenizerBatch:
            temperatures = np.full(len(indices), temperature, np.float32)
            return TokenizerBatch(image, sample_keys(self.seed, epoch, indices), temperatures)

        return Job(len(indices), prepare, finish)
