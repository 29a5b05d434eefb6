"""A tile whose frames come one by one: held in memory, in the type in which they come, until all are there.

`scan_writer` calls this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.scan.intake import Intake
from daskptycho.scan.left_out import list_numbers
from daskptycho.scan.validation import check_counts

__all__ = ["ArrivingTile", "admit_counts", "find_impossible_frames"]


class ArrivingTile:
    """The frames of a tile that have come, until all of them have.

    Parameters
    ----------
    shape : (int, int, int)
        Frames of the tile, and pixels along qy and qx.
    dtype : numpy.dtype
        Type of the first frame.

    Attributes
    ----------
    counts : (frame, qy, qx) array
    there : (frame,) bool array
        Which frames have come.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # Not filled: pages that no frame has come to take no memory yet.
        self.counts = np.empty(shape, dtype=dtype)
        self.there = np.zeros(shape[0], dtype=bool)

    def take(self, index: int, counts: NDArray[Any]) -> None:
        """Take a frame over; all frames are held in a type that holds each of them."""
        if not np.can_cast(counts.dtype, self.counts.dtype):
            self.counts = self.counts.astype(np.promote_types(counts.dtype, self.counts.dtype))
        self.counts[index], self.there[index] = counts, True


def admit_counts(
    counts: NDArray[Any], numbers: NDArray[np.int64], dtype: np.dtype[Any], intake: Intake, clips: bool
) -> NDArray[Any]:
    """The counts of a tile as they are stored.

    Parameters
    ----------
    counts : (frame, qy, qx) array
    numbers : (frame,) int array
        Numbers of the frames, for the message.
    dtype : numpy.dtype
        The type of the plan.
    intake : Intake
        Made for these frames.
    clips : bool
        Whether `intake` sets negative counts to zero.

    Raises
    ------
    ScanError
        Counts are impossible, or do not fit into the type of the plan.
    """
    try:
        admitted = intake.admit(counts, np.arange(len(counts)))
    except ScanError:
        if not clips:
            # Says the same with the numbers of the plan, if it is about single frames.
            check_counts(counts, intake.valid, numbers)
        raise
    return _convert(admitted, numbers, dtype)


def _convert(counts: NDArray[Any], numbers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The counts in the type of the plan.

    Raises
    ------
    ScanError
        They do not fit.
    """
    if np.can_cast(counts.dtype, dtype):
        return counts
    fits = _find_fitting(counts, dtype)
    if not fits.all():
        bad = ~fits.all(axis=(1, 2))
        raise ScanError(
            f"{list_numbers(numbers[bad])} of type {counts.dtype} {'holds' if bad.sum() == 1 else 'hold'} "
            f"{counts[bad].min()} to {counts[bad].max()}; expected counts that fit into {dtype}, the type of "
            "the plan"
        )
    return counts.astype(dtype)


def _find_fitting(counts: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which counts the type of the plan holds: whole numbers without loss, others as near as float32 is."""
    with np.errstate(invalid="ignore", over="ignore"):
        converted = counts.astype(dtype)
    fits: NDArray[np.bool_] = np.isfinite(converted) if dtype.kind == "f" else converted == counts
    return fits


def find_impossible_frames(
    counts: NDArray[Any], valid: NDArray[np.bool_], dtype: np.dtype[Any], clips: bool
) -> NDArray[np.bool_]:
    """Which frames have counts that cannot be stored on valid pixels; all, if no single one is to blame."""
    negative = np.asarray(counts < 0)
    fits = _find_fitting(counts, dtype)
    possible = fits | negative if clips else fits & ~negative
    bad = np.asarray(~(possible | ~valid).all(axis=(1, 2)))
    return bad if bad.any() else np.ones_like(bad)
