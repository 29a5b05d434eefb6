"""Pixels of a detector that do not count: codes in place of counts, stuck, hot and dead pixels.

Statistics of every pixel are collected tile by tile, and the pixels follow from them. A pixel is dead if the
same thing is wrong with it in frame after frame; one wrong value in one frame makes no pixel dead. `intake`
calls this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["FEWEST_FRAMES", "PixelStatistics", "find_dead_pixels", "refuse_wrapped_counts"]

# Fewest frames from which dead pixels are told; all frames of a scan that has fewer.
FEWEST_FRAMES = 8
# Frames that have to agree before a constant count is taken for a stuck pixel, and the count from which on:
# photons that arrive at random do not repeat a number like this, and rounding does not hide how it varies.
STUCK_FRAMES, STUCK_COUNTS = 16, 100
# A code or a hot pixel is this many times above what all others, or all its neighbours, ever count.
FAR_ABOVE_ALL, FAR_ABOVE_NEIGHBOURS = 4, 10
# Least counts of the pixels on both sides of one that never counts and is taken for dead: in a frame on
# average, and in all frames.
BRIGHT, BRIGHT_SUM = 2, 100
# Largest part of the pixels that is masked without having been asked for.
MOST = 0.5
# Largest part of pixels with negative codes, if negative counts are to be clipped.
MOST_NEGATIVE = 0.25
# Pixels that jump from near zero to near the largest number of the type: fewer may be cosmic rays.
FEWEST_WRAPPED = 4

# Largest numbers of types that detectors write; in an array of another type they are codes as well.
ENDS = (2**16 - 1, 2**31 - 1, 2**32 - 1)


def _ends_of(dtype: np.dtype[Any]) -> tuple[float, ...]:
    """Numbers of a type that are the end of it, or of another one that detectors write."""
    if dtype.kind == "f":
        return tuple({float(dtype.type(end)) for end in ENDS})
    info = np.iinfo(dtype)
    return (*(end for end in ENDS if end < info.max), info.max, *([info.min] if info.min < 0 else []))


@dataclass
class PixelStatistics:
    """Statistics of each pixel over the frames that have been added.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
        Type of the counts as they were given.
    frames : int
        Number of frames.
    lowest, highest : (qy, qx) arrays
        Over the finite counts.
    total : (qy, qx) float64 array
        Sum of the finite counts.
    lost : (qy, qx) int64 array
        Number of frames in which the pixel is not finite.
    at_end : dict
        For each number that is an end of a type, and was found: in how many frames a pixel has it.
    varies_in_sign : bool
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    frames: int = 0
    lowest: NDArray[Any] = field(init=False)
    highest: NDArray[Any] = field(init=False)
    total: NDArray[np.float64] = field(init=False)
    lost: NDArray[np.int64] = field(init=False)
    at_end: dict[float, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Numbers of up to 53 bits are exact in float64, and so are the ends of all types up to 32 bits.
        self.lowest = np.full(self.shape, np.inf)
        self.highest = np.full(self.shape, -np.inf)
        self.total = np.zeros(self.shape)
        self.lost = np.zeros(self.shape, dtype=np.int64)

    def add(self, frames: NDArray[Any]) -> None:
        """Add (frame, qy, qx) counts as they were given."""
        self.frames += len(frames)
        if not len(frames):
            return
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            finite = np.isfinite(frames)
            self.lost += (~finite).sum(axis=0)
            low = np.where(finite, frames, np.inf).min(axis=0)
            high = np.where(finite, frames, -np.inf).max(axis=0)
            self.total += np.where(finite, frames, 0).sum(axis=0, dtype=np.float64)
        else:
            low, high = frames.min(axis=0), frames.max(axis=0)
            self.total += frames.sum(axis=0, dtype=np.float64)
        np.minimum(self.lowest, low, out=self.lowest)
        np.maximum(self.highest, high, out=self.highest)
        top, bottom = high.max(), low.min()
        for end in _ends_of(frames.dtype):
            if end <= top and (end >= 0 or end >= bottom):
                count = (frames == frames.dtype.type(end)).sum(axis=0)
                if count.any():
                    self.at_end[end] = self.at_end.get(end, 0) + count

    def mean(self, valid: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean frame, zero at pixels that are not valid."""
        counted = np.maximum(self.frames - self.lost, 1)
        return np.where(valid, np.maximum(self.total, 0) / counted, 0.0)


def find_dead_pixels(
    statistics: PixelStatistics, valid: NDArray[np.bool_], *, clip_negative: bool = False
) -> tuple[NDArray[np.bool_], list[str]]:
    """Find the pixels that do not count, besides those that are known not to be valid.

    Parameters
    ----------
    statistics : PixelStatistics
    valid : (qy, qx) bool array
    clip_negative : bool
        Whether counts below zero are set to zero, so that many pixels may always be negative.

    Returns
    -------
    dead : (qy, qx) bool array
    findings : list of str
        What was found, one sentence a kind.

    Raises
    ------
    ScanError
        They are more than half of the pixels.
    """
    dead = np.zeros(statistics.shape, dtype=bool)
    findings = []
    kinds = (_find_codes, _find_lost, _find_negative, _find_constant, _find_hot, _find_dark)
    for find in kinds:
        for found, words in find(statistics, valid & ~dead):
            found = found & valid & ~dead
            number = int(found.sum())
            if clip_negative and find is _find_negative and number > MOST_NEGATIVE * valid.sum():
                continue
            if number:
                dead |= found
                findings.append(f"{number:,} pixel{'s' if number > 1 else ''} {words}")
    if dead.sum() > MOST * valid.sum():
        raise ScanError(
            f"intensity cannot be believed: of {int(valid.sum()):,} pixels, {'; '.join(findings)}; expected "
            "counts on most of the detector: give its mask (valid, --valid-key), or, where counts were "
            "saturated or went below zero, mend the frames (clip_negative, --clip-negative)"
        )
    return dead, findings


Found = list[tuple[NDArray[np.bool_], str]]


def _find_codes(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    """The end of a type in at least half of the frames."""
    return [
        (count >= max(1, of.frames / 2), f"with {end:.0f}, the end of a type, in most frames")
        for end, count in of.at_end.items()
    ]


def _find_lost(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    return [(of.lost >= max(1, of.frames / 2), "with NaN or infinity in most frames")]


def _find_negative(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    """The same negative whole number in every frame."""
    constant = (of.lowest == of.highest) & (of.highest < 0) & (of.highest == np.rint(of.highest))
    codes = np.unique(of.highest[constant & valid])
    names = ", ".join(f"{code:.0f}" for code in codes[-3:])
    return [(constant, f"with a negative code ({names}) in every frame")]


def _find_constant(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    """A count that never changes, far above all others or too large to repeat by chance."""
    constant = (of.lowest == of.highest) & (of.highest > 0) & valid
    others = valid & (of.highest > 0) & ~constant
    if of.frames < FEWEST_FRAMES or not constant.any() or not others.any():
        return []
    found = constant & (of.highest > FAR_ABOVE_ALL * of.highest[others].max())
    if of.frames >= STUCK_FRAMES and others.sum() > constant.sum():
        found |= constant & (of.highest >= STUCK_COUNTS)
    return [(found, "with one and the same count in every frame")]


def _find_hot(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    """In every frame far above all that the neighbours ever count, away from the direct beam."""
    if of.frames < FEWEST_FRAMES:
        return []
    around = np.ones((3, 3), dtype=bool)
    around[1, 1] = False
    # Imported where it is needed: runs begin without it.
    from scipy.ndimage import maximum_filter

    neighbours = maximum_filter(
        np.where(valid, np.maximum(of.highest, 0), 0), footprint=around, mode="constant"
    )
    found = of.lowest > FAR_ABOVE_NEIGHBOURS * np.maximum(neighbours, 1)
    # A beam that is hardly wider than a pixel may be as sharp as a hot pixel.
    for middle in ([n // 2 for n in of.shape], (0, 0)):
        found[tuple(slice(max(0, at - 1), at + 2) for at in middle)] = False
    return [(found, "far above all neighbours in every frame")]


def _find_dark(of: PixelStatistics, valid: NDArray[np.bool_]) -> Found:
    """Never a count, between two neighbours that count."""
    if of.frames < FEWEST_FRAMES:
        return []
    bright = np.pad(valid & (of.total >= max(BRIGHT_SUM, BRIGHT * of.frames)), 1)
    rows, columns = of.shape

    def shifted(y: int, x: int) -> NDArray[np.bool_]:
        return bright[1 + y : 1 + y + rows, 1 + x : 1 + x + columns]

    between = np.zeros(of.shape, dtype=bool)
    for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
        between |= shifted(y, x) & shifted(-y, -x)
    return [(between & (of.highest == 0), "without counts, between others that have some")]


def refuse_wrapped_counts(of: PixelStatistics, valid: NDArray[np.bool_]) -> None:
    """Refuse unsigned counts that went below zero, as where a dark frame was subtracted.

    Raises
    ------
    ScanError
        Pixels jump from near zero to near the largest number of the type.
    """
    if of.dtype.kind != "u" or of.dtype.itemsize < 2:
        return
    end = float(np.iinfo(of.dtype).max)
    jumps = valid & (of.lowest < end / 16) & (of.highest > end * 15 / 16)
    number = int(jumps.sum())
    if number >= FEWEST_WRAPPED or (number and of.dtype.itemsize > 2):
        largest = int(of.highest[jumps].min())
        raise ScanError(
            f"intensity ({of.dtype}) jumps in {number:,} pixel{'' if number == 1 else 's'} from near 0 to "
            f"{largest:,} or more, as counts do that went below zero when a dark frame was subtracted, and "
            "as codes do in single frames; expected counts: set what is below zero to 0 with "
            "clip_negative=True (--clip-negative), or mask the pixels of a code, as with "
            f"mask_value={end:.0f} (--mask-value {end:.0f})"
        )
