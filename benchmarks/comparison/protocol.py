"""Protocol between the driver and a side. Both interpreters run this file, so it uses the standard library only.

A side prints one line when it is ready. For each line of standard input it runs one repetition and prints the
measurements. Otherwise it waits and computes nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MARK = "@compare "  # prefix of the lines for the driver, because libraries print other lines


def serve(facts: Mapping[str, Any], repetition: Callable[[], Any]) -> None:
    """Print `facts`, then run and time one `repetition` per line of standard input."""
    answer(facts)
    for _ in sys.stdin:
        begin = time.perf_counter()
        repetition()
        answer({"seconds": time.perf_counter() - begin})


def answer(values: Mapping[str, Any]) -> None:
    """Print one line for the driver: `values` and the peak memory."""
    print(MARK + json.dumps({**values, "peak_bytes": peak_bytes()}), flush=True)


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
