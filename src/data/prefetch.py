"""Worker threads that prepare batches ahead of the consumer and deliver them in order.

Threads, not processes: Pillow and NumPy release the interpreter lock while they decode, resize and compute, and no
batch is copied between processes. A batch is a job of many parts (images), so that all workers share one batch.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from src.data.freed_memory import keep_freed_memory
from src.errors import UserError

Result = TypeVar("Result")



class Job(Generic[Result]):
    """A batch: `do` runs for each of `parts` (at least 1), in any order and at the same time, then `finish`."""

    def __init__(self, parts: int, do: Callable[[int], None], finish: Callable[[], Result]) -> None:
        self.parts = parts
        self.result: Future[Result] = Future()
        self._do, self._finish = do, finish
        self._left = parts
        self._lock = threading.Lock()

    def run(self, part: int) -> None:
        """Do a part, and finish after the last one. An exception of any kind becomes the result."""
        try:
            self._do(part)
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last:
                self.result.set_result(self._finish())
        except BaseException as error:  # of any kind, or the consumer would wait forever
            with contextlib.suppress(InvalidStateError):  # another part has failed before
                self.result.set_exception(error)


def prefetch(jobs: Iterator[Job[Result]], num_workers: int, batch_size: int) -> Iterator[Result]:
    """Yield the results of `jobs` of up to `batch_size` parts, in their order, from `num_workers` threads.

    Threads start when the first result is requested. Leaving the loop in any way stops each after its current part. An
    exception in a worker is raised once, in place of the result of that job, and ends the work. The threads are daemons:
    one that hangs in a dead network drive does not keep the process from ending.
    """
    keep_freed_memory()
    # Two batches in progress keep the workers busy while the consumer takes one, unless there are more workers than
    # images in a batch. Memory is bounded: no more jobs exist besides the result that the consumer holds.
    depth = 2 + (num_workers - 1) // batch_size
    parts: SimpleQueue[tuple[Job[Any], int] | None] = SimpleQueue()
    stopped = threading.Event()
    results: deque[Future[Result]] = deque()

    def begin_more() -> None:
        for job in islice(jobs, depth - len(results)):
            results.append(job.result)
            for part in range(job.parts):
                parts.put((job, part))

    try:
        begin_more()
        for number in range(num_workers):
            try:
                threading.Thread(target=_work, args=(parts, stopped), name=f"data-worker-{number}", daemon=True).start()
            except RuntimeError as error:
                raise UserError(
                    f"num_parallel_workers is {num_workers} but the system allows {number} threads ({error}); "
                    f"set it to {max(number, 1)} or less"
                ) from error
        while results:
            result = results.popleft().result()
            begin_more()
            yield result
            del result  # a suspended generator must not keep a batch alive
    finally:
        stopped.set()
        for _ in range(num_workers):
            parts.put(None)  # wakes a waiting worker


def _work(parts: SimpleQueue[tuple[Job[Any], int] | None], stopped: threading.Event) -> None:
    while (entry := parts.get()) is not None and not stopped.is_set():
        job, part = entry
        job.run(part)
        del entry, job  # a waiting worker must not keep a batch alive
