"""Frames that stay in their file until some of them are asked for.

The readers of this folder make them, and `create_scan` indexes them tile by tile, so that the stack is never
in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LazyFrames", "runs", "sampled"]

# Frames that are looked at to learn what all are like.
SAMPLED_FRAMES = 64


@dataclass(frozen=True)
class LazyFrames:
    """A (frame, qy, qx) array in a file.

    Attributes
    ----------
    shape : (int, int, int)
    dtype : dtype
    read : callable
        Gives the frames of an increasing array of numbers, each once.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    read: Callable[[NDArray[np.int64]], NDArray[Any]]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: Any) -> NDArray[Any]:
        numbers = np.arange(len(self))[frames]
        wanted, place = np.unique(numbers, return_inverse=True)
        read = self.read(wanted)
        return read if np.array_equal(place, np.arange(len(read))) else read[place]

    def changed(
        self, change: Callable[[NDArray[Any]], NDArray[Any]], frame_shape: tuple[int, int] | None = None
    ) -> LazyFrames:
        """The same frames, changed as they are read; the type of the counts stays."""
        read = self.read
        shape = self.shape if frame_shape is None else (self.shape[0], *frame_shape)
        return LazyFrames(shape, self.dtype, lambda numbers: change(read(numbers)))

    def only(self, frames: NDArray[np.int64]) -> LazyFrames:
        """Some of the frames, in increasing order."""
        read = self.read
        return LazyFrames((len(frames), *self.shape[1:]), self.dtype, lambda numbers: read(frames[numbers]))


def runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last-but-one number of each run of neighbours in an increasing array of numbers."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for run in np.split(numbers, breaks):
        yield int(run[0]), int(run[-1]) + 1


def sampled(frames: Any, most: int = SAMPLED_FRAMES) -> NDArray[np.float64]:
    """Some frames spread over the scan, as (frame, qy, qx) float64, zero where they are not finite."""
    step = math.ceil(len(frames) / most)
    block = np.asarray(frames[np.arange(0, len(frames), step)], dtype=np.float64)
    return np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
