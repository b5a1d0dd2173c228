"""A limit on the memory that threads take at the same time."""

import contextlib
import threading
from collections.abc import Iterator


class MemoryBudget:
    """`total` bytes that threads share."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Take `amount` bytes for the block, and wait until they are free; more than the total waits for all of it."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
