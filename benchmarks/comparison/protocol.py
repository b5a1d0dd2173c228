"""How a side of the comparison is told to do one repetition at a time. Standard library only: both sides run it.

A side is a process that stays alive. It prints a line when it is ready, does one repetition for each line that it
reads, and prints what it measured. Between two lines it waits for input and computes nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MARK = "@compare "  # before the lines that are meant for the driver: libraries print as well


def serve(facts: Mapping[str, Any], repetition: Callable[[], Any]) -> None:
    """Do a timed `repetition` per line of standard input; `facts` go with the first answer, peak memory with all."""
    answer(facts)
    for _ in sys.stdin:
        begin = time.perf_counter()
        repetition()
        answer({"seconds": time.perf_counter() - begin})


def answer(values: Mapping[str, Any]) -> None:
    """One line for the driver."""
    print(MARK + json.dumps({**values, "peak_bytes": peak_bytes()}), flush=True)


def peak_bytes() -> int:
    """The most memory that this process has had, without that of other processes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
