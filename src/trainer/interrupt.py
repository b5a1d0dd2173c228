"""Ending a run between two steps when it is asked to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

from src.trainer.loop import RunState

logger = logging.getLogger("beit")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signal(state: RunState) -> Iterator[None]:
    """While inside, the first Ctrl-C or SIGTERM asks `state` to stop after the step; the second ends at once.

    MindSpore has a handler of its own while it runs a graph: it turns a Ctrl-C at that moment into SIGTERM.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        logger.info("asked to stop: ending after this step; once more to end at once")
        state.stop_signal = number
        for each in SIGNALS:
            signal.signal(each, before[each])

    before = {each: signal.signal(each, ask) for each in SIGNALS}
    try:
        yield
    finally:
        for each in SIGNALS:
            signal.signal(each, before[each])
