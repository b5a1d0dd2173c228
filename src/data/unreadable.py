"""Training images that cannot be read: recorded, replaced by other images, and an error if there are too many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from itertools import islice

from src.data.decode import UnreadableImage
from src.data.sampling import replacement_generator
from src.errors import UserError, without_control_characters

logger = logging.getLogger("beit")

# A replacement may be unreadable too. With 100 in a row the disk has failed rather than a file.
MAX_REPLACEMENTS = 100


class UnreadableImages:
    """The unreadable images that this process met, by epoch. Thread-safe.

    Args:
        images: the number of training images.
        max_share: the share of them that may be unreadable in an epoch.
    """

    def __init__(self, images: int, max_share: float) -> None:
        self.images = images
        self.max_share = max_share
        self._found: dict[int, set[int]] = {}
        self._lock = threading.Lock()

    def add(self, epoch: int, index: int, error: UnreadableImage) -> None:
        """Record image number `index` and log it, once per epoch. Raises `UserError` if there are too many now."""
        with self._lock:
            found = self._found.setdefault(epoch, set())
            if index in found:
                return
            found.add(index)
            count = len(found)
        logger.warning(without_control_characters(f"replaced by another image: {error.path} ({error.reason})"))
        self.check(count, f"the last is {error.path}: {error.reason}")

    def count(self, epoch: int) -> int:
        """Return the number of different unreadable images of `epoch` since this process started."""
        with self._lock:
            return len(self._found.get(epoch, ()))

    def check(self, count: int, details: str) -> None:
        """Raise `UserError` with the `details` if `count` unreadable images exceed the allowed share."""
        if count > self.max_share * self.images:
            raise UserError(
                f"{count} of {self.images} training images cannot be read, more than max_bad_images "
                f"{self.max_share:g} allows ({details}); replace or remove them, or raise max_bad_images"
            )


def replacements(seed: int, epoch: int, index: int, images: int) -> Iterator[int]:
    """Return the indices to try in place of image number `index`; they depend on the arguments only."""
    rng = replacement_generator(seed, epoch, index)
    return islice((int(rng.integers(images)) for _ in iter(int, 1)), MAX_REPLACEMENTS)
