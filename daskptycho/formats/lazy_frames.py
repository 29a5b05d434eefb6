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

__all__ = ["LazyFrames", "contiguous_ranges", "sample_frames"]

# Frames from which properties of all frames are estimated.
SAMPLED_FRAMES = 64


@dataclass(frozen=True)
class LazyFrames:
    """A (frame, qy, qx) array in a file.

    Attributes
    ----------
    shape : (int, int, int)
    dtype : numpy.dtype
    read : callable
        Returns the frames of an increasing array of different frame numbers.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    read: Callable[[NDArray[np.int64]], NDArray[Any]]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        numbers = np.arange(len(self))[index]
        different, inverse = np.unique(numbers, return_inverse=True)
        frames = self.read(different)
        return frames if np.array_equal(inverse, np.arange(len(frames))) else frames[inverse]

    def map(
        self, function: Callable[[NDArray[Any]], NDArray[Any]], frame_shape: tuple[int, int] | None = None
    ) -> LazyFrames:
        """The same frames with a function applied as they are read, which keeps the type of the counts.

        Parameters
        ----------
        function : callable
            Takes and returns a (frame, qy, qx) array.
        frame_shape : (int, int), optional
            Shape of the frames that it returns, if it changes.
        """
        read = self.read
        shape = self.shape if frame_shape is None else (self.shape[0], *frame_shape)
        return LazyFrames(shape, self.dtype, lambda numbers: function(read(numbers)))


def contiguous_ranges(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Start and stop of each contiguous range in an increasing array of numbers."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for part in np.split(numbers, breaks):
        yield int(part[0]), int(part[-1]) + 1


def sample_frames(frames: Any, most: int = SAMPLED_FRAMES) -> NDArray[np.float64]:
    """At most `most` frames spread over the scan, (frame, qy, qx) float64, zero where they are not finite."""
    step = math.ceil(len(frames) / most)
    block = np.asarray(frames[np.arange(0, len(frames), step)], dtype=np.float64)
    return np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
