"""Memory of the images that are worked on, kept for the next ones."""

from __future__ import annotations

import ctypes
import functools

# glibc's names for mallopt's parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 2**31 - 1  # give back what lies free at the end of the heap above this; mallopt takes an int
_MAPPED = 2**30  # blocks of at least so many bytes are mapped, and unmapped when freed


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep freed blocks below 1 GB instead of giving them back to the system.

    Decoding and resizing an image frees megabytes, which glibc would return and take again page by page: 300 page
    faults an image, a quarter of the time of evaluation's pipeline. Other C libraries keep their ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
