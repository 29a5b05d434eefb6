"""What launches of translated PTX read, write and reckon: counted while they run on the emulation."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.cuda.emulation import Compiled
from tests.cuda.memory import fenced

__all__ = ["Counting", "Launch", "Moved"]


@dataclass(frozen=True)
class Moved:
    """Bytes of one argument."""

    shape: tuple[int, ...]
    once: int
    """Read and written, each word once for either: what a cache that holds everything lets through."""
    asked: int
    """Each time that a thread asked for them."""


@dataclass(frozen=True)
class Launch:
    """Counts of one launch."""

    kernel: str
    arrays: list[Moved]
    single: int
    """Floating-point operations in single precision."""
    double: int


@dataclass(frozen=True)
class Counting:
    """A `Compiled` of translated PTX that keeps the counts of each launch."""

    compiled: Compiled
    launches: list[Launch] = field(default_factory=list)

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        *,
        seed: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """See `Compiled.launch`."""
        held = [_held(value) if isinstance(value, np.ndarray) else value for value in args]
        self.compiled.launch(name, grid, block, held, seed=seed, blocks=blocks)
        operations = (ctypes.c_uint64 * 2)()
        self.compiled.library.counted_operations(operations)
        arrays = [self._moved(array) for array in held if isinstance(array, np.ndarray)]
        self.launches.append(Launch(name, arrays, *operations))
        for value, copy in zip(args, held, strict=True):
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = copy

    def _moved(self, array: np.ndarray) -> Moved:
        counts = (ctypes.c_uint64 * 4)()
        start = array.ctypes.data
        self.compiled.library.counted_bytes(
            ctypes.c_size_t(start), ctypes.c_size_t(start + array.nbytes), counts
        )
        return Moved(array.shape, counts[0] + counts[1], counts[2] + counts[3])


def _held(array: np.ndarray) -> np.ndarray:
    copy = fenced(array.shape, array.dtype)
    copy[...] = array
    return copy
