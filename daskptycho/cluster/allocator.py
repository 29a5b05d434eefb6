"""The C library's allocator, told to give back what is freed: `run` and `loop` do so where memory is short.

Nothing happens where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import functools
import sys

__all__ = ["release_free_memory", "release_memory_at_once"]

# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# Above the arrays of a block of frames (`backend.CPU_PIXELS`), which come and go within a sweep.
LEAST = 2**19


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def release_memory_at_once() -> None:
    """From now on a large array's memory goes back to the system when the array goes.

    glibc raises its bound for that with every large array that is freed, up to 32 MiB, and keeps what lies
    below in the heaps of its threads: more than a streamed run takes for its tiles in flight, measured by
    benchmarks/memory.py. Dask's nannies start their workers with a bound already.
    """
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, LEAST)


def release_free_memory() -> None:
    """What is free in the heaps of all threads, small arrays among it, goes back to the system."""
    if library := _glibc():
        library.malloc_trim(0)
