"""Ending a run between two steps when it is asked to stop."""

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

# Ctrl-C and what a cluster's manager sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What src/runtime/launcher.py has mpirun pass on to every rank: SIGINT and SIGTERM mpirun answers by killing them all.
SIGNALS_OF_RANKS = (signal.SIGUSR1,)


@contextlib.contextmanager
def stop_on_signal(state: RunState, signals: Sequence[signal.Signals] = SIGNALS) -> Iterator[None]:
    """While inside, the first of `signals` asks `state` to stop after the step; the second ends the process at once.

    MindSpore has a handler of its own while it runs a graph: it turns a Ctrl-C at that moment into SIGTERM. Python
    calls its handlers only after the graph, which may be long, so the second signal is waited for by a thread.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if state.stop_signal is None:  # else the thread is ending the process
            logger.info("asked to stop: ending after this step; once more to end at once")
            state.stop_signal = number

    before = {each: signal.signal(each, ask) for each in signals}
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)  # as set_wakeup_fd wants it
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
    """Read the numbers of the signals that arrive, and end the process at the second of `signals`."""
    seen = 0
    while number := os.read(receiver, 1):
        seen += number[0] in signals
        if seen == 2:
            os.write(2, b"interrupted\n")
            os._exit(128 + number[0])
    os.close(receiver)


def stopped_exit_code(state: RunState, signals: Sequence[signal.Signals]) -> int:
    """128 and the signal's number where the run was stopped, or 0; another rank may have got it before this one."""
    return 128 + (state.stop_signal or signals[0]) if state.stopping else 0
