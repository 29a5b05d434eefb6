"""Frames that stay in their file until some of them are asked for.

The readers of this folder make them, and `create_scan` indexes them tile by tile, so that the stack is never
in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LazyFrames", "contiguous_ranges", "frames_of_array", "read_range", "sample_frames"]

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

    def select(self, start: int, stop: int) -> LazyFrames:
        """The frames from `start` up to `stop`."""
        read = self.read
        return LazyFrames((stop - start, *self.shape[1:]), self.dtype, lambda numbers: read(numbers + start))

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


def read_range(array: Any, start: int, stop: int, out: NDArray[Any], *, last: bool = False) -> int:
    """Read consecutive frames into `out`, row by row if the array is a raster; returns their number.

    Parameters
    ----------
    array : array
        (..., qy, qx), or (qy, qx, ...) if the frames come last.
    start, stop : int
        Numbers of the first frame and of the one after the last.
    out : (frame, qy, qx) array
    last : bool
    """
    scan = tuple(int(n) for n in (array.shape[2:] if last else array.shape[:-2]))
    done = 0
    while start < stop:
        *index, column = (int(n) for n in np.unravel_index(start, scan))
        count = min(scan[-1] - column, stop - start)
        chosen = (*index, slice(column, column + count))
        frames = np.moveaxis(array[(..., *chosen)], -1, 0) if last else array[chosen]
        out[done : done + count] = frames
        start, done = start + count, done + count
    return done


def frames_of_array(
    opened: Callable[[], AbstractContextManager[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    last: bool = False,
) -> LazyFrames:
    """The frames of an array that is opened whenever some are read.

    Parameters
    ----------
    opened : callable
        Opens the array, and closes it at the end of the block.
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
    last : bool
        Whether the axes of the frames come after those of the detector.
    """
    scan, frame = (shape[2:], shape[:2]) if last else (shape[:-2], shape[-2:])

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(numbers), *frame), dtype=dtype)
        done = 0
        with opened() as array:
            for start, stop in contiguous_ranges(numbers):
                done += read_range(array, start, stop, out[done:], last=last)
        return out

    return LazyFrames((int(np.prod(scan)), int(frame[0]), int(frame[1])), dtype, read)


def sample_frames(frames: Any, most: int = SAMPLED_FRAMES) -> NDArray[np.float64]:
    """At most `most` frames spread over the scan, (frame, qy, qx) float64, zero where they are not finite."""
    step = math.ceil(len(frames) / most)
    block = np.asarray(frames[np.arange(0, len(frames), step)], dtype=np.float64)
    return np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
