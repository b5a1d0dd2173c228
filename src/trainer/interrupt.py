"""Ending a run between two steps after a signal."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from src.runtime.rank import STOP
from src.trainer.loop import RunState

logger = logging.getLogger("beit")


@contextlib.contextmanager
def stop_on_signal(state: RunState, ranks: int = 1) -> Iterator[None]:
    """Within the block, the first signal to stop ends the run after the step; the second ends the process at once.

    The signals are Ctrl-C and SIGTERM, which cluster managers send. In a run of several ranks mpirun kills the ranks on
    these two, and src/runtime/launcher.py makes it forward SIGUSR1 to all ranks.

    While MindSpore runs a graph, its own handler turns Ctrl-C into SIGTERM, and Python calls its handlers only after
    the graph, which may take long. Therefore a thread waits for the second signal.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if state.stop_signal is None:  # else the thread is ending the process
            logger.info("asked to stop: the run ends after this step; send the signal again to end it at once")
            state.stop_signal = number

    signals = (signal.SIGINT, signal.SIGTERM) if ranks == 1 else (STOP,)
    before = {each: signal.signal(each, ask) for each in signals}
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)  # required by set_wakeup_fd
    wakeup_before = signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    threading.Thread(target=_end_at_second, args=(receiver, frozenset(signals)), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        os.close(sender)  # ends the thread
        for each, handler in before.items():
            signal.signal(each, handler)


def _end_at_second(receiver: int, signals: frozenset[signal.Signals]) -> None:
    """Read the numbers of arriving signals, and end the process at the second of `signals`."""
    seen = 0
    while number := os.read(receiver, 1):
        seen += number[0] in signals
        if seen == 2:
            os.write(2, b"interrupted\n")
            os._exit(128 + number[0])
    os.close(receiver)
