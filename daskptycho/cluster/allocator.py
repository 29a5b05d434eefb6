"""Makes glibc's allocator return free memory to the system, for runs that stream their amplitudes.

With another C library the functions do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import sys

__all__ = ["release_free_memory", "release_memory_at_once"]

# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# Bytes from which an array's memory is returned at once: more than the arrays of a block of frames
# (`backend.CPU_PIXELS`), which are allocated and freed all the time in a sweep.
LEAST = 2**20


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def release_memory_at_once() -> None:
    """Make glibc return the memory of each large array to the system as soon as the array is freed.

    By default glibc raises the limit of what is large with every such array that is freed, up to 32 MiB, and
    keeps smaller arrays in the heaps of its threads. That is more memory than a streamed run needs for the
    tiles that it works on (benchmarks/memory.py). Dask's nannies set such a limit for their workers.
    """
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, LEAST)


def release_free_memory() -> None:
    """Return free memory in the heaps of all threads to the system, also that of small arrays."""
    if library := _glibc():
        library.malloc_trim(0)
