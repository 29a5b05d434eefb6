"""The C library's allocator, told to give back what is freed: `run` calls this module where memory is short.

Nothing happens where the C library is not glibc.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_back_at_once"]

# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# Above the arrays of a block of frames (`backend.CPU_PIXELS`), which come and go within a sweep.
LEAST = 2**19


def give_back_at_once() -> None:
    """From now on a large array's memory goes back to the system when the array goes.

    glibc raises its bound for that with every large array that is freed, up to 32 MiB, and keeps what lies
    below in the heaps of its threads: as much again as a streamed run takes, measured by benchmarks/memory.py.
    Dask's nannies start their workers with a bound already.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_THRESHOLD, LEAST)
