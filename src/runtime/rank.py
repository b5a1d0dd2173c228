"""One rank as a process: its parent, which reports how it ended, and its own last steps.

mpirun starts this file once per rank, and this file starts the rank's command. A process that a signal kills cannot
report that itself; its parent can. The parent takes 0.1 s of CPU time and 13 MB: it imports no other module of src.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

# Reports to the launcher are lines on standard error, which mpirun carries from every host.
REPORT = "beit-rank-report "
DONE, ENDED = "done", "ended"
# Set in the environment of a rank's command.
IS_RANK = "BEIT_IS_RANK"
# mpirun answers SIGINT and SIGTERM by killing the ranks. It forwards these two to the process groups of all ranks.
STOP = signal.SIGUSR1  # stop after this step (see src/trainer/interrupt.py)
RELEASE = signal.SIGUSR2  # all ranks are done
# The launcher answers the last `DONE` within milliseconds; a launcher whose output is blocked may not.
RELEASE_SECONDS = 30.0


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run the `main` of a script and end the process with its exit code: see `src.errors.exit_code`.

    Skips the teardown of Python and MindSpore, which takes 0.8 s of the 6 s in which BEiT-base predicts an image, and
    in which MindSpore frees a connection between ranks that another thread may still serve: on a loaded machine, a
    finished rank ended with a segmentation fault. A rank that leaves early also fails the others, which wait up to 30 s
    for its acknowledgment of their last message. So a rank reports that it is done, and waits until all ranks are.
    """
    from src.errors import exit_code  # not above: this file is also run by its path, without src

    code = exit_code(main)
    logging.shutdown()
    if code == 0 and IS_RANK in os.environ:
        _wait_for_release()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _wait_for_release() -> None:
    """Report that this rank is done, and return when all are, or after `RELEASE_SECONDS`.

    The signal may arrive at any moment after the report. A `threading.Event` that its handler sets can deadlock: the
    handler runs in this thread, which may hold the lock of the event.
    """
    released: list[int] = []
    signal.signal(RELEASE, lambda number, _: released.append(number))
    _report(DONE)
    deadline = time.monotonic() + RELEASE_SECONDS
    while not released and time.monotonic() < deadline:
        time.sleep(0.01)


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the system send this process a signal when its parent ends."""
    ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def run_rank(command: Sequence[str]) -> int:
    """Run the command of a rank and return its exit code, 128 + N for signal N; report it unless it is 0."""
    end_with_parent()  # the parent is mpirun's process on this host
    ended_by_mpirun: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended_by_mpirun.append(number))  # sent to the command too
    for number in (STOP, RELEASE):
        signal.signal(number, lambda *_: None)  # for the command; a handler, because exec would keep SIG_IGN
    environment = {**os.environ, IS_RANK: "1"}
    code = subprocess.run(command, env=environment, preexec_fn=end_with_parent, check=False).returncode
    if code and not ended_by_mpirun:
        _report(f"{ENDED} {code} {socket.gethostname()}")
    return code if code >= 0 else 128 - code


def _report(text: str) -> None:
    print(f"{REPORT}{text}", file=sys.stderr, flush=True)


if __name__ == "__main__":  # run by its path: `-m` would search the user's folder for src
    sys.exit(run_rank(sys.argv[1:]))
