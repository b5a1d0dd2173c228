"""What happens to freed memory: glibc gives it back to the system early, or late."""

import ctypes
import functools

# Parameters of glibc's mallopt (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES = 2**31 - 1  # free memory at the end of the heap that is kept: the largest int
_MMAP_BYTES = 2**30  # blocks of this size or more are mapped, and unmapped when freed


@functools.cache
def keep_freed_memory() -> None:
    """Make this process keep freed blocks below 1 GB for reuse.

    Decoding and resizing an image frees megabytes, which glibc would return to the system and take again page by page:
    300 page faults per image, a quarter of the time of the evaluation pipeline. Without glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)


def return_freed_memory() -> None:
    """Give the memory that all threads have freed back to the system. Without glibc this does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
