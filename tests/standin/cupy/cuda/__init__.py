"""The devices of the stand-in: as many as CUDA_VISIBLE_DEVICES names, two without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import nvrtc, runtime

__all__ = ["Device", "MemoryPool", "default_pool", "nvrtc", "runtime", "set_allocator"]

allocator: Callable[[int], Any] | None = None
"""What `set_allocator` was last given; tests look at it."""


class Device:
    id = 0

    def synchronize(self) -> None:
        """Nothing is under way here."""


class MemoryPool:
    def malloc(self, size: int) -> Any:
        raise NotImplementedError("the stand-in takes its memory from NumPy")

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        """Nothing is kept here."""


default_pool = MemoryPool()


def set_allocator(own: Callable[[int], Any] | None = None) -> None:
    global allocator
    allocator = own
