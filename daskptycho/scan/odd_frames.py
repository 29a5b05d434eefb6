"""Frames and positions that are odd: no counts, dips, repeated frames, one far away, hardly any movement.

All of it follows from the sums of frames and from the positions, before anything is computed. `dataset`,
`validation` and the command line call this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from daskptycho.scan.left_out import list_numbers

__all__ = [
    "Outlying",
    "describe_outlying",
    "describe_repeated",
    "doubt_distance",
    "doubt_step",
    "find_dark_frames",
    "find_outlying",
]

# A frame without counts is no accident where a median frame has so many: the chance is exp(-30) a frame.
SURE_COUNTS = 30
# A dip is a frame with less than this part of the counts of its nearest neighbours, and a flash one with as
# much more; the neighbours have to have counts enough to tell.
DIP, DIP_COUNTS, NEIGHBOURS = 0.5, 1000, 8
# The neighbours have to be calm: a sample that absorbs is seen by several of them. This many may be odd too.
CALM, ODD_NEIGHBOURS = 0.78, 2

# Frames far away are told where they are at most this part of the scan, and where the canvas is so many times
# smaller without them.
FEW, CANVAS_TIMES = 0.05, 4
# Steps below this, in pixels, and spans below this part of a frame, are doubted.
SMALLEST_STEP, SMALLEST_SPAN = 1.0, 0.05
# Repeated frames are told up to this part of the scan: without noise, all frames of empty regions are alike.
FEW_REPEATED = 0.05


def find_dark_frames(
    totals: NDArray[np.float64], position: NDArray[np.float64], frame_shape: Sequence[int], *, whole: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the frames without counts, and those that dip or flash against all of their neighbours.

    Parameters
    ----------
    totals : (frame,) array
        Sums of the counts, divided by the power of the beam where that is known.
    position : (frame, 2) array
        In object pixels.
    frame_shape : (int, int)
    whole : bool
        Whether all counts are whole numbers. They are few then where their sums are small.

    Returns
    -------
    empty, odd : (frame,) bool arrays
    """
    empty = ~(totals > 0)
    lit = totals[~empty]
    if not lit.size or (whole and np.median(lit) < SURE_COUNTS):
        return np.zeros_like(empty), np.zeros_like(empty)
    odd = np.zeros_like(empty)
    shining = np.flatnonzero(~empty & np.isfinite(position).all(axis=1))
    if len(shining) <= NEIGHBOURS or (whole and np.median(lit) < DIP_COUNTS):
        return empty, odd
    distance, near = KDTree(position[shining] / np.asarray(frame_shape)).query(
        position[shining] / np.asarray(frame_shape), k=NEIGHBOURS + 1, p=np.inf
    )
    own, around = totals[shining], np.sort(totals[shining][near[:, 1:]], axis=1)
    # Half a frame away, half of what is seen is the same.
    close = (distance[:, 1:] < 0.5).all(axis=1)
    low, high = around[:, ODD_NEIGHBOURS], around[:, -1 - ODD_NEIGHBOURS]
    # Where the neighbours are dark as well, the sample absorbs.
    usual = np.median(lit)
    close &= (low > CALM * high) & (low > usual / 2) & (high < 2 * usual)
    odd[shining[close & ((own < DIP * low) | (DIP * own > high))]] = True
    return empty, odd


class Outlying(NamedTuple):
    """Frames far away from all others.

    Attributes
    ----------
    frames : (n,) int array
        Their indices, the farthest first.
    times : float
        How many times the canvas would be smaller without them.
    """

    frames: NDArray[np.int64]
    times: float


def find_outlying(position: NDArray[np.float64], frame_shape: Sequence[int]) -> Outlying | None:
    """Find the few frames that overlap no others and make the canvas several times larger.

    Parameters
    ----------
    position : (frame, 2) array
        In object pixels.
    frame_shape : (int, int)

    Returns
    -------
    Outlying or None
        None where no canvas is much smaller without some of the frames.
    """
    size = np.asarray(frame_shape, dtype=float)
    most = max(1, int(FEW * len(position)))
    if len(position) < 3 or _canvas(position, size) < CANVAS_TIMES * size.prod():
        return None
    whole = _canvas(position, size)
    distance = np.abs(position - np.median(position, axis=0)).max(axis=1)
    order = np.argsort(-distance, kind="stable")
    if whole < CANVAS_TIMES * _canvas(position[order[most:]], size):
        return None
    small = _small_parts(position, size, most)
    candidates = [frame for frame in order if small[frame]][:most]
    best: Outlying | None = None
    kept = np.ones(len(position), dtype=bool)
    for count, frame in enumerate(candidates, start=1):
        kept[frame] = False
        times = whole / _canvas(position[kept], size)
        # Each further frame has to pay for itself.
        if times >= CANVAS_TIMES and (best is None or times > 1.5 * best.times):
            best = Outlying(np.array(candidates[:count], dtype=np.int64), float(times))
    return best


def _canvas(position: NDArray[np.float64], size: NDArray[np.float64]) -> float:
    return float((np.ptp(position, axis=0) + size).prod())


def _small_parts(position: NDArray[np.float64], size: NDArray[np.float64], most: int) -> NDArray[np.bool_]:
    """Which frames belong to a connected part of at most this number of frames."""
    # Each frame with its nearest ones is enough to tell a large part.
    number = min(len(position), 2 * most + 2, 9)
    distance, near = KDTree(position / size).query(position / size, k=number, p=np.inf)
    first = np.repeat(np.arange(len(position)), number)
    linked = (distance < 1).ravel()
    pairs = (np.ones(int(linked.sum()), dtype=bool), (first[linked], near.ravel()[linked]))
    _, part = connected_components(coo_array(pairs, shape=(len(position),) * 2), directed=False)
    small: NDArray[np.bool_] = np.bincount(part)[part] <= most
    return small


def describe_outlying(
    outlying: Outlying,
    number: NDArray[np.int64],
    position: NDArray[np.float64],
) -> str:
    """A sentence on frames that are far away, with their numbers and what to do.

    Parameters
    ----------
    outlying : Outlying
    number : (frame,) int array
        Numbers of all frames.
    position : (frame, 2) array
        In object pixels.
    """
    numbers = sorted(number[outlying.frames].tolist())
    there = ", ".join(f"{value:.6g}" for value in position[outlying.frames[0]])
    advice = f"(leave_out, --leave-out {','.join(map(str, numbers))})"
    if len(numbers) == 1:
        return (
            f"{list_numbers(numbers)} lies far from all others, at {there} pixels, and makes the canvas "
            f"{outlying.times:.3g} times larger: if its position is wrong, leave it out {advice}"
        )
    return (
        f"{list_numbers(numbers)} lie far from all others, the farthest at {there} pixels, and make the "
        f"canvas {outlying.times:.3g} times larger: if their positions are wrong, leave them out {advice}"
    )


def describe_repeated(
    repeated: Sequence[tuple[int, int]], number: NDArray[np.int64], position: NDArray[np.float64]
) -> str | None:
    """A sentence on frames that hold exactly the counts of another one at another place; None without any.

    Parameters
    ----------
    repeated : sequence of (int, int)
        Indices of frames with the same counts.
    number : (frame,) int array
    position : (frame, 2) array
        In object pixels.
    """
    apart = [pair for pair in repeated if np.abs(position[pair[0]] - position[pair[1]]).max() >= 1]
    if not apart or len(apart) > max(1, FEW_REPEATED * len(number)):
        return None
    later = sorted(number[second] for _, second in apart)
    first, second = apart[0]
    return (
        f"{list_numbers(later)} {'holds' if len(later) == 1 else 'hold'} exactly the counts of an earlier "
        f"frame at another place, frame {number[second]} those of frame {number[first]}: if a detector was "
        f"read out twice, leave out the wrong one (leave_out, --leave-out {','.join(map(str, later))})"
    )


def doubt_step(position: NDArray[np.float64], frame_shape: Sequence[int]) -> str | None:
    """A sentence if the frames hardly move from one to the next; None if they do."""
    if len(position) < 2:
        return None
    # Several frames may be taken at each place.
    places = np.unique(position, axis=0)
    span, step = np.ptp(places, axis=0), 0.0
    if len(places) > 1:
        distance, _ = KDTree(places).query(places, k=2)
        step = float(np.median(distance[:, 1]))
    frame = min(frame_shape)
    if step >= SMALLEST_STEP and span.max() >= SMALLEST_SPAN * frame:
        return None
    return (
        f"positions span {span[0]:.3g} x {span[1]:.3g} pixels for frames of {frame} pixels, {step:.3g} "
        "pixels from one to the next: the unit of the positions, the energy or a distance may be wrong"
    )


def doubt_distance(
    position: NDArray[np.float64], frame_shape: Sequence[int], period: Sequence[int] | None = None
) -> str | None:
    """A sentence if most frames share no pixel with any other one; None if they do.

    Parameters
    ----------
    position : (frame, 2) array
        In object pixels.
    frame_shape : (int, int)
    period : (int, int), optional
        Of a canvas that wraps round.
    """
    if len(position) < 2:
        return None
    size = np.asarray(frame_shape, dtype=float)
    places = position / size
    box = None
    if period is not None:
        box = np.asarray(period) / size
        places = places % box
        # The remainder of a tiny negative number is rounded to the box itself, which `KDTree` refuses.
        places[places >= box] = 0
    # In frames, along the axis in which two frames are farther apart.
    distance, _ = KDTree(places, boxsize=box).query(places, k=2, p=np.inf)
    usual = float(np.median(distance[:, 1]))
    if usual < 1:
        return None
    return (
        f"most frames share no pixel with another one: the nearest is {usual * min(size):.3g} pixels away, "
        f"and a frame has {frame_shape[0]} x {frame_shape[1]}. The unit of the positions, the energy or a "
        "distance may be wrong"
    )
