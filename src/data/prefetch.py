"""Worker threads that prepare batches ahead of the consumer and deliver them in order.

Threads, not processes: Pillow and NumPy release the interpreter lock while they decode, resize and compute, and no
batch is copied between processes. A batch is a job of many parts (images), so that all workers share one batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar, cast

from src.data.heap import keep_freed_memory
from src.errors import UserError

Result = TypeVar("Result", covariant=True)

# A worker that hangs in a dead network drive must not block the closing of a loader; the threads are daemons.
_JOIN_SECONDS = 5.0


class Job(Protocol[Result]):
    """A batch of `parts` pieces, which run in any order and at the same time; `finish` assembles the result."""

    parts: int

    def do(self, part: int) -> None: ...

    def finish(self) -> Result: ...


class _Entry(Generic[Result]):
    """A job in progress."""

    def __init__(self, job: Job[Result]) -> None:
        self.job = job
        self.left = job.parts
        self.result: Result | None = None
        self.done = False
        self.error: BaseException | None = None


class Prefetcher(Generic[Result]):
    """Work on up to `depth` jobs ahead of the consumer, with `num_workers` threads.

    Memory is bounded: at most `depth` jobs exist besides the result that the consumer holds. Threads start when the
    first result is requested. An exception in a worker is raised to the consumer once, in place of the result of that
    job, and ends the work.
    """

    def __init__(self, jobs: Iterator[Job[Result]], num_workers: int, depth: int) -> None:
        self._jobs = jobs
        self._num_workers = num_workers
        self._depth = depth
        self._entries: deque[_Entry[Result]] = deque()
        self._parts: deque[tuple[_Entry[Result], int]] = deque()
        self._threads: list[threading.Thread] = []
        self._closed = False
        # Reentrant: the garbage collector may close an abandoned run in a thread that holds the lock.
        lock = threading.RLock()
        self._work = threading.Condition(lock)
        self._done = threading.Condition(lock)

    @staticmethod
    def of_batches(jobs: Iterator[Job[Result]], num_workers: int, batch_size: int) -> Prefetcher[Result]:
        """Return a prefetcher for jobs of `batch_size` parts that keeps all workers busy."""
        keep_freed_memory()
        # Two batches in progress keep the workers busy while the consumer takes one, unless there are more workers
        # than images in a batch.
        return Prefetcher(jobs, num_workers, depth=2 + (num_workers - 1) // batch_size)

    def results(self) -> Iterator[Result]:
        """Yield the results in the order of the jobs. Leaving the loop in any way stops the workers."""
        try:
            self._begin_more()
            self._start()
            while self._entries:
                result = self._take()
                self._begin_more()
                yield result
                del result  # a suspended generator must not keep a batch alive
        finally:
            self.close()

    def close(self) -> None:
        """Stop each worker after its current part. Results that were not delivered are dropped."""
        with self._work:
            self._closed = True
            self._entries.clear()
            self._parts.clear()
            self._work.notify_all()
            self._done.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        for number in range(self._num_workers):
            thread = threading.Thread(target=self._run, name=f"data-worker-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise UserError(
                    f"num_parallel_workers is {self._num_workers} but the system allows {number} threads ({error}); "
                    f"set it to {max(number, 1)} or less"
                ) from error
            self._threads.append(thread)

    def _begin_more(self) -> None:
        while len(self._entries) < self._depth and not self._closed:
            job = next(self._jobs, None)
            if job is None:
                return
            entry = _Entry(job)
            if not job.parts:
                entry.result, entry.done = job.finish(), True
            with self._work:
                self._entries.append(entry)
                self._parts.extend((entry, part) for part in range(job.parts))
                self._work.notify_all()

    def _take(self) -> Result:
        """Wait for the result of the oldest job."""
        with self._done:
            while self._entries and not self._entries[0].done:
                self._done.wait()
            if not self._entries:
                raise RuntimeError("the loader was closed while the consumer waited for a batch")
            entry = self._entries.popleft()
        if entry.error is not None:
            raise entry.error
        return cast(Result, entry.result)

    def _run(self) -> None:
        while True:
            with self._work:
                while not self._parts and not self._closed:
                    self._work.wait()
                if self._closed:
                    return
                entry, part = self._parts.popleft()
            self._do(entry, part)
            del entry  # a waiting worker must not keep a batch alive

    def _do(self, entry: _Entry[Result], part: int) -> None:
        try:
            entry.job.do(part)
            with self._done:
                entry.left -= 1
                last = entry.left == 0
            if last:
                entry.result = entry.job.finish()
        except BaseException as error:  # of any kind, or the consumer would wait forever
            entry.error = error
            last = True
        if last:
            with self._done:
                entry.done = True
                self._done.notify_all()
