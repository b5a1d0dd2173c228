"""Ending a run between two steps after a signal."""

import contextlib
import logging
from collections.abc import Iterator

from src.runtime.rank import STOP
from src.runtime.signals import ENDING, answered_by
from src.trainer.loop import RunState

logger = logging.getLogger("beit")


@contextlib.contextmanager
def stop_on_signal(state: RunState, ranks: int = 1) -> Iterator[None]:
    """Within the block, the first signal to stop ends the run after the step; the second ends the process at once.

    The signals are Ctrl-C, SIGTERM, which cluster managers send, and SIGHUP, which a closed terminal sends. In a run of
    several ranks mpirun kills the ranks on these, and src/runtime/launcher.py makes it forward `STOP` to all ranks.
    """
    stopping = ENDING if ranks == 1 else (STOP,)

    def answer(number: int) -> bool:
        if number not in stopping or state.stop_signal is not None:
            return False
        state.stop_signal = number
        logger.info("asked to stop: the run ends after this step; send the signal again to end it at once")
        return True

    with answered_by(answer):
        yield
