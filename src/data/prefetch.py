"""Jobs worked on by threads ahead of need, and handed over in order.

Threads, not processes: Pillow and NumPy let go of the interpreter's lock while they decode, resize and compute, and
nothing has to be copied from one process to another. A batch is a job of many parts, so that the workers share one
batch and the next is begun only when this one has no parts left.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar, cast

from src.errors import UserError

Result = TypeVar("Result", covariant=True)

# A worker that hangs in a dead network drive must not keep a closed loader waiting; the threads are daemons.
_JOIN_SECONDS = 5.0


class Job(Protocol[Result]):
    """`parts` pieces of work, done in any order and at the same time, and what is made of them in the end."""

    parts: int

    def do(self, part: int) -> None: ...

    def finish(self) -> Result: ...


class _Entry(Generic[Result]):
    """A job under way."""

    def __init__(self, job: Job[Result]) -> None:
        self.job = job
        self.left = job.parts
        self.result: Result | None = None
        self.done = False
        self.error: BaseException | None = None


class Prefetcher(Generic[Result]):
    """Work on up to `depth` of the jobs ahead of the consumer, with `num_workers` threads.

    Memory is bounded: besides the result that the consumer holds there are at most `depth` jobs. Threads start with
    the first result that is asked for. What a worker raises is raised to the consumer once, in the place of that job's
    result, and ends the work.
    """

    def __init__(self, jobs: Iterator[Job[Result]], num_workers: int, depth: int) -> None:
        self._jobs = jobs
        self._num_workers = num_workers
        self._depth = depth
        self._entries: deque[_Entry[Result]] = deque()
        self._parts: deque[tuple[_Entry[Result], int]] = deque()
        self._threads: list[threading.Thread] = []
        self._closed = False
        # A reentrant lock, because the garbage collector may close a forgotten run in a thread that holds it.
        lock = threading.RLock()
        self._work = threading.Condition(lock)
        self._done = threading.Condition(lock)

    def results(self) -> Iterator[Result]:
        """The jobs' results in the jobs' order. Leaving the loop, in whatever way, stops the workers."""
        try:
            self._begin_more()
            self._start()
            while self._entries:
                result = self._take()
                self._begin_more()
                yield result
                del result  # the consumer alone decides how long it lives
        finally:
            self.close()

    def close(self) -> None:
        """Stop the workers, each after the part it has in hand. What was not handed over is dropped."""
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
                    f"num_parallel_workers is {self._num_workers} and the system gives no more than {number} threads "
                    f"({error}): lower it"
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
        """Wait for the oldest job's result."""
        with self._done:
            while self._entries and not self._entries[0].done:
                self._done.wait()
            if not self._entries:
                raise RuntimeError("the loader was closed while a batch was being waited for")
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
        except BaseException as error:  # whatever it is, the consumer has to hear of it instead of waiting for ever
            entry.error = error
            last = True
        if last:
            with self._done:
                entry.done = True
                self._done.notify_all()
