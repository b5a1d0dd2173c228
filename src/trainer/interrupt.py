"""Ending a run between two steps after a signal."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from src.trainer.loop import RunState

logger = logging.getLogger("beit")

# Ctrl-C, and the signal that cluster managers send.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# src/runtime/launcher.py makes mpirun forward this one to all ranks; on SIGINT and SIGTERM, mpirun kills them.
SIGNALS_OF_RANKS = (signal.SIGUSR1,)


def stop_signals(ranks: int) -> Sequence[signal.Signals]:
    """Return the signals that ask a process of a run of `ranks` ranks to stop."""
    return SIGNALS_OF_RANKS if ranks > 1 else SIGNALS


@contextlib.contextmanager
def stop_on_signal(state: RunState, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Within the block, the first of `signals` stops the run after the step; the second ends the process at once.

    While MindSpore runs a graph, its own handler turns Ctrl-C into SIGTERM, and Python calls its handlers only after
    the graph, which may take long. Therefore a thread waits for the second signal.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if state.stop_signal is None:  # else the thread is ending the process
            logger.info("asked to stop: the run ends after this step; send the signal again to end it at once")
            state.stop_signal = number

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
        for each in signals:
            signal.signal(each, before[each])


def _end_at_second(receiver: int, signals: frozenset[signal.Signals]) -> None:
    """Read the numbers of arriving signals, and end the process at the second of `signals`."""
    seen = 0
    while number := os.read(receiver, 1):
        seen += number[0] in signals
        if seen == 2:
            os.write(2, b"interrupted\n")
            os._exit(128 + number[0])
    os.close(receiver)


def stopped_exit_code(state: RunState, signals: Sequence[signal.Signals]) -> int:
    """Return 0, or for a stopped run 128 plus the signal's number, which another rank may have received first."""
    return 128 + (state.stop_signal or signals[0]) if state.stopping else 0
