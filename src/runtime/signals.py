"""Ctrl-C, SIGTERM and SIGHUP: a thread receives them and answers at any moment.

Python's own handlers run between two of its instructions in the main thread. They wait while MindSpore compiles or runs
a graph, and in the middle of an import they leave half-loaded libraries, which end in tracebacks or in an abort. Here
the signals are blocked in all threads, and one thread waits for them. Until a script knows a better answer
(`answered_by`), a signal ends the process at once: files appear whole or not at all, so nothing is lost by that.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Takes the signal's number, in the waiting thread, and returns whether the process goes on.
Answer = Callable[[int], bool]

_answers: list[Answer] = []


def watch_signals() -> None:
    """Answer signals from now on. Call it before the first library that starts threads (NumPy) is imported.

    A signal that is ignored stays ignored: so `nohup` works. A rank also receives the launcher's `STOP`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # before the imports below, which may be interrupted too
    from src.runtime.rank import IS_RANK, STOP

    wanted = (*ENDING, STOP) if IS_RANK in os.environ else ENDING
    watched = {number for number in wanted if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(ENDING) - watched)
    threading.Thread(target=_wait, args=(watched,), daemon=True, name="signals").start()


@contextlib.contextmanager
def answered_by(answer: Answer) -> Iterator[None]:
    """Within the block, signals are answered by `answer`."""
    _answers.append(answer)
    try:
        yield
    finally:
        _answers.remove(answer)


def _wait(watched: set[int]) -> None:
    while True:
        number = int(signal.sigwait(watched))
        if not (_answers and _answers[-1](number)):
            end_process(number)


def end_process(number: int) -> None:
    """End the process at once with the exit code of signal `number`, with one line unless it is a rank."""
    from src.files.unfinished import remove_unfinished
    from src.runtime.rank import IS_RANK

    remove_unfinished()
    with contextlib.suppress(OSError):
        if IS_RANK not in os.environ:  # the launcher prints one line for all ranks
            os.write(2, b"interrupted\n")
    os._exit(128 + number)
