"""Arrays with unmapped memory on both sides: an access outside of one is a fault, not a wrong number."""

from __future__ import annotations

import ctypes
import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["fenced", "is_fenced"]

# An index of 32 bits that overflowed misses an array of double2 by at most this much.
FENCE = 2**35
NOTHING, PRIVATE, ANONYMOUS, UNRESERVED = 0, 0x02, 0x20, 0x4000  # Linux's numbers

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_addresses: set[int] = set()


def is_fenced(array: NDArray) -> bool:
    """Whether an array comes from `fenced`."""
    return array.ctypes.data in _addresses


def fenced(shape: Sequence[int], dtype: DTypeLike) -> NDArray:
    """An array of zeros that ends where its memory ends, but for up to 15 bytes of NaN.

    Memory is taken where it is touched: an array may be far larger than the machine.
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    aligned = -(-max(size, 1) // 16) * 16
    inside = -(-aligned // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = inside + 2 * FENCE
    start = _libc.mmap(None, whole, NOTHING, PRIVATE | ANONYMOUS | UNRESERVED, -1, 0)
    # mmap's way of saying no is the address -1.
    if start == ctypes.c_void_p(-1).value:
        raise MemoryError(f"no room for {whole} addresses: {ctypes.get_errno()}")
    if _libc.mprotect(start + FENCE, inside, mmap.PROT_READ | mmap.PROT_WRITE):
        raise MemoryError(f"no memory for {inside} bytes: {ctypes.get_errno()}")
    address = start + FENCE + inside - aligned
    ctypes.memset(start + FENCE, 0xFF, inside - aligned)
    ctypes.memset(address + size, 0xFF, aligned - size)
    memory = (ctypes.c_char * max(size, 1)).from_address(address)
    array = np.frombuffer(memory, dtype=dtype, count=math.prod(shape)).reshape(shape)
    _addresses.add(address)
    weakref.finalize(memory, _give_back, address, start, whole)
    return array


def _give_back(address: int, start: int, whole: int) -> None:
    _addresses.discard(address)
    _libc.munmap(start, whole)
