"""Offsets of all frames from one solve over the graph of overlapping frames, and the pace of such updates.

The misfit hardly changes if all frames of a region move together and the image with them. Steps for each
frame alone, of the size that its own misfit asks for, therefore correct an error that is smooth over the scan
in a number of sweeps that grows with the scan. Here the offsets of all frames follow from one linear system,
whose matrix is the Laplacian of the graph of overlapping frames::

    W_ij = o_ij / sqrt(s_i s_j) (H'_i + H'_j) / 2,    L = diag(sum_j W_ij) - W,    L delta = b

H' is the curvature of a frame's misfit with a ridge, and o the overlap of the probe with itself at the
distance of two frames, which stands for the sums over pixels that both frames share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.sync.frame_graph import Frames, laplacian, link_frames, pair_weights, solve, subtract_means
from daskptycho.tiling import Pairs

__all__ = [
    "FARTHEST",
    "Freedom",
    "Moves",
    "Pace",
    "TileForces",
    "find_moves",
]

# The ridge of the curvature, relative to its mean: frames on a blank part of the sample follow their
# neighbours. A smaller one of the matrix itself keeps all frames from moving together.
RIDGE = 1e-2
ANCHOR = 1e-3
# Most steps of conjugate gradients. The next update continues from there.
MOST_STEPS = 300
# An update moves frames by this multiple of the solution. Half of a wave's change is seen in its amplitudes.
FACTOR = 2.0
# A frame whose misfit is above this multiple of the median is looked for.
WORSE = 2.0
# Pixels around where its neighbours would have it in which it is looked for.
FARTHEST = 4
# Pixels that a frame may move in one update against the mean of its neighbours.
LIMIT = 1.0


class TileForces(NamedTuple):
    """What the frames of a tile contribute to the update of all positions. Arrays are on the host."""

    position: NDArray[np.float64]
    """(frame, 2) where the frames are now, [y, x] in pixels of the canvas."""
    force: NDArray[np.float64]
    """(frame, 2) b without the part of the noise."""
    noise: NDArray[np.float64]
    """(frame, 2) the part of the noise, to be multiplied by its variance."""
    curvature: NDArray[np.float64]
    """(frame, 3) H for yy, yx and xx."""
    misfit: float
    lit: int
    """Number of pixels of the object that the tile's frames determine; shared ones count in one tile only."""
    misfits: NDArray[np.float64]
    """(frame,) misfit of each frame."""


class Moves(NamedTuple):
    """The moves of all frames in one update."""

    offset: NDArray[np.float64]
    """(frame, 2) in pixels, to be added to the offsets; zeros if there is nothing to gain."""
    significance: float
    """T = ``b . delta / (sigma^2 frames)``: about 1 if positions are as exact as the noise allows."""
    astray: NDArray[np.bool_]
    """(frame,) whether a frame may lie several pixels away: it fits much worse than others, or is apart."""
    expected: NDArray[np.int64]
    """(frame, 2) whole pixels from where a frame is to where its neighbours would have put it."""


@dataclass(frozen=True)
class Pace:
    """When positions are updated, and how far: the state of the refinement between two sweeps.

    Attributes
    ----------
    every : int
        Sweeps from one update to the next while frames move.
    due_in : int
        Sweeps until the next test; one or less if the coming sweep computes the derivatives.
    interval : int
        Sweeps from one test to the next.
    moving : bool
        Whether the last test found something to gain.
    quiet : int
        Number of tests in a row that found hardly anything.
    scale : float
        Share of the full step that is taken.
    just_moved : bool
        Whether frames took a step after the last sweep, and none was looked for.
    updates : int
        Number of updates so far.
    tests : tuple of float
        Significance of the last tests, at most `TESTS`, before frames move.
    residual : float
        R2 of the last sweep.
    """

    every: int
    due_in: int
    interval: int
    moving: bool = False
    quiet: int = 0
    scale: float = 1.0
    just_moved: bool = False
    updates: int = 0
    tests: tuple[float, ...] = ()
    residual: float = 0.0

    @staticmethod
    def begin(start: int, every: int) -> Pace:
        """The pace of the first sweep; the first test comes with sweep `start`."""
        return Pace(every, start, every)

    def due(self) -> bool:
        """Whether the coming sweep computes the derivatives, and positions are tested after it."""
        return self.due_in <= 1

    def looks(self) -> bool:
        """Whether frames that fit badly are looked for at the coming update."""
        return self.moving and self.updates % LOOK_EVERY == LOOK_EVERY - 1

    def moves(self, significance: float) -> bool:
        """Whether frames move, at this significance."""
        if self.moving or significance > CLEAR:
            return True
        tests = (*self.tests, significance)[-TESTS:]
        settled = len(tests) == TESTS and max(tests) < SETTLED * min(tests)
        return settled and significance > OPEN + OPEN_OF_NOISE * self.residual

    def after(self, residuals: Sequence[float], significance: float) -> Pace:
        """The pace after a sweep, from R2 of all sweeps so far and the significance, NaN without a test."""
        scale = self.scale
        if self.just_moved and len(residuals) > 1:
            # The step is too long if moves make the misfit rise.
            rises = residuals[-1] > (1 + RISE) * residuals[-2]
            scale = max(LEAST_SCALE, scale / 2) if rises else min(1.0, scale * 1.1)
        last = residuals[-1]
        if np.isnan(significance):
            return replace(self, due_in=self.due_in - 1, scale=scale, just_moved=False, residual=last)
        moves = self.moves(significance)
        quiet = self.quiet + 1 if significance < CLOSE else 0
        moving = moves and quiet < 2
        interval = self._wait(significance, moving)
        return Pace(
            *(self.every, interval, interval, moving, quiet if moving else 0, scale),
            just_moved=moves and not self.looks(),
            updates=self.updates + moves,
            tests=() if moves else (*self.tests, significance)[-TESTS:],
            residual=last,
        )

    def _wait(self, significance: float, moving: bool) -> int:
        """Sweeps to the next test, after one of this significance."""
        if moving:
            rests = CLOSE <= significance < REST
            return min(MOST_INTERVAL_AT_REST, 2 * self.interval) if rests else self.every
        return max(2, self.every) if significance > OPEN else min(MOST_INTERVAL, 2 * self.interval)

    def after_return(self) -> Pace:
        """The pace once the run has gone back to an earlier image, with frames where they were then."""
        scale = max(LEAST_SCALE, self.scale / 2)
        return replace(self, due_in=self.interval, scale=scale, just_moved=False, tests=())


# Frames begin to move at once above this significance. An image that has not converged gives exact positions
# 5 to 30 after ten to twenty sweeps; errors of a fifth of a pixel at 1e5 photons in a frame give 40.
CLEAR = 45.0
# They also begin to move above the first of these numbers, and the second times R2 more, once the last tests
# are alike: within this factor. Few counts are not distributed normally: exact positions give 1 at 1e5
# photons in a frame, but 2.5 to 13 at 1e4.
OPEN, OPEN_OF_NOISE = 5.0, 500.0
SETTLED = 1.5
TESTS = 5
# Updates become rarer below the first significance, with at most so many sweeps between them. They stop after
# two in a row below the last.
REST, MOST_INTERVAL_AT_REST = 1.0, 4
CLOSE = 0.15
# Updates from one time that frames are looked for to the next.
LOOK_EVERY = 5
# Most sweeps between two tests of positions that do not move.
MOST_INTERVAL = 16
# A rise of R2 by this share after a move halves the step.
RISE = 0.01
LEAST_SCALE = 0.5


@dataclass(frozen=True)
class Freedom:
    """Which moves are possible.

    Attributes
    ----------
    only : str
        ``"free"``: each frame moves by itself. ``"affine"``, ``"drift"`` and ``"lines"`` are less: a linear
        map of the positions, a smooth curve in the order of acquisition, or one shift for each line.
    hold : str or None
        A part that is taken off the moves, named like `only`; None for no part but the common shift.
    line : int or None
        Number of frames in a line.
    """

    only: str = "free"
    hold: str | None = None
    line: int | None = None

    def limit(self, matrix: Any, force: NDArray, place: NDArray, number: NDArray) -> NDArray[np.float64]:
        """Solve for the moves of `only`, (frame, 2); see `basis` for the arguments."""
        if self.only == "free":
            return solve(matrix, force, MOST_STEPS)
        both = np.kron(self.basis(self.only, place, number), np.eye(2))
        found = np.linalg.lstsq(both.T @ (matrix @ both), both.T @ force.ravel(), rcond=1e-8)[0]
        return (both @ found).reshape(force.shape)

    def take_off(self, moves: NDArray, place: NDArray, number: NDArray) -> NDArray[np.float64]:
        """Moves without the part that is held, (frame, 2)."""
        held = np.ones((len(moves), 1)) if self.hold is None else self.basis(self.hold, place, number)
        rest: NDArray[np.float64] = moves - held @ np.linalg.lstsq(held, moves, rcond=None)[0]
        return rest

    def basis(self, part: str, place: NDArray, number: NDArray) -> NDArray[np.float64]:
        """Functions that span a part of the moves along one axis, (frame, function).

        Parameters
        ----------
        part : str
        place : (frame, 2) array
            Given positions.
        number : (frame,) array
            Numbers of the frames in the order of acquisition.
        """
        if part == "affine":
            centred = place - place.mean(axis=0)
            return np.column_stack([np.ones(len(place)), centred / max(np.abs(centred).max(), 1.0)])
        if part == "drift":
            knots = np.linspace(0, 1, KNOTS - 2)
            ends = np.concatenate([[0] * 3, knots, [1] * 3])
            time = (number - number.min()) / max(np.ptp(number), 1)
            # Imported where it is needed: runs that refine no smooth positions begin without it.
            from scipy.interpolate import BSpline

            curves: NDArray[np.float64] = BSpline.design_matrix(time, ends, 3).toarray()
            return curves
        assert self.line is not None
        lines = number // self.line
        return (lines[:, None] == np.unique(lines)).astype(float)


# Number of cubic B-splines of a drift.
KNOTS = 12


def find_moves(
    forces: Sequence[TileForces], probe: NDArray, frames: Frames, pace: Pace, freedom: Freedom
) -> Moves:
    """Find how far each frame moves.

    Parameters
    ----------
    forces : sequence of TileForces
        One for each tile, in order.
    probe : (mode, N, N) complex64 array
    frames : Frames
    pace : Pace
    freedom : Freedom
    """
    position, force, noise, curvature = (
        np.concatenate([getattr(tile, name) for tile in forces])
        for name in ("position", "force", "noise", "curvature")
    )
    variance = frames.estimate_variance(forces)
    force = force - variance * noise
    ridge = RIDGE * curvature[:, [0, 2]].mean()
    misfits = np.concatenate([tile.misfits for tile in forces])
    astray = misfits > WORSE * np.median(misfits)
    still = np.zeros_like(force)
    if not ridge > 0:
        return Moves(still, 0.0, astray, still.astype(np.int64))
    graph = link_frames(position, probe, frames.period)
    pairs, part = graph.pairs, graph.part
    weights = pair_weights(graph, curvature + ridge * np.array([1, 0, 1]))
    shares = weights[:, 0] + weights[:, 2]
    offset = position - frames.place
    expected = np.rint(_mean_of_neighbours(shares, pairs, offset) - offset).astype(np.int64)
    astray |= np.abs(expected).max(axis=1) > FARTHEST
    # Where no other frame sees the object, nothing tells where a frame is.
    single = np.bincount(part)[part] == 1
    astray &= ~single
    expected[single] = 0
    if part.any():
        # Nothing tells how far each part moves as a whole.
        force = subtract_means(force, part)
    matrix = laplacian(weights, pairs, len(position), ANCHOR * ridge * np.array([1, 0, 1]))
    delta = freedom.limit(matrix, force, frames.place, frames.number)
    significance = float((force * delta).sum() / (variance * len(delta)))
    if not pace.moves(significance):
        return Moves(still, significance, astray, expected)
    delta = FACTOR * pace.scale * subtract_means(delta, part)
    smooth = _mean_of_neighbours(shares, pairs, delta)
    delta = smooth + _clip_length(delta - smooth, LIMIT)
    delta = subtract_means(freedom.take_off(delta, frames.place, frames.number), part)
    return Moves(delta, significance, astray, expected)


def _mean_of_neighbours(weight: NDArray, pairs: Pairs, value: NDArray) -> NDArray[np.float64]:
    """The mean of the neighbours' values at each frame, by the weights of their pairs."""
    frames, apart = len(value), pairs.first != pairs.second
    rows = np.concatenate([pairs.first[apart], pairs.second[apart]])
    columns = np.concatenate([pairs.second[apart], pairs.first[apart]])
    of_pairs = np.concatenate([weight[apart], weight[apart]])
    total = np.bincount(rows, of_pairs, frames)
    sums = [np.bincount(rows, of_pairs * value[columns, axis], frames) for axis in (0, 1)]
    mean: NDArray[np.float64] = np.stack(sums, axis=1) / np.maximum(total, np.finfo(float).tiny)[:, None]
    return mean


def _clip_length(vectors: NDArray, limit: float) -> NDArray[np.float64]:
    length = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    clipped: NDArray[np.float64] = vectors * np.minimum(1, limit / np.maximum(length, limit))
    return clipped
