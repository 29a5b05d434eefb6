"""Gain sync: the gains of all frames from the graph of overlapping frames, as positions are found.

A slow decay of the beam changes the misfit hardly at all if the image fades with it, so that the closed form
for each frame by itself needs sweeps in proportion to the scan. One linear system for the logarithms of all
gains finds it in tens of sweeps, at any size::

    W_ij = o_ij / sqrt(s_i s_j) (H_i + H_j) / 2,    L = diag(sum_j W_ij) - W,    L delta = b

H is the power of a frame's waves and o the overlap of the probe with itself at the distance of two frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.sync.frame_graph import Frames, laplacian, link_frames, pair_weights, solve, subtract_means

__all__ = ["GainPace", "Gains", "TileGainForces", "find_gains"]

# Keeps all gains from changing together, relative to the mean of H.
ANCHOR = 1e-4
# Most steps of conjugate gradients.
MOST_STEPS = 500
# First sweep after which gains are tested, and sweeps from one test to the next.
FIRST_TEST = 4
EVERY = 2
# Gains begin to change above this significance, once it falls no longer by itself: a test after an image
# that has settled is at least the share below of the test this number of tests earlier. For a steady beam it
# settles at 1 to 3, the more the fewer the photons; for a flicker of 5 % at 1e4 photons in a frame at 15.
OPEN = 5.0
SETTLED = 0.8
TESTS = 5
# Gains also begin to change above this significance if each of so many tests is above the one before, by this
# share at least: the image settles, and the gains fit it less and less. For a steady beam it falls from test
# to test. Later, the image would have adapted to wrong gains, which takes as many sweeps to undo.
CLEAR = 80.0
RISES, RISE = 2, 0.03
# Most by which the logarithm of a gain changes in one update.
LIMIT = 1.0


class TileGainForces(NamedTuple):
    """What the frames of a tile contribute to the update of all gains. Arrays are on the host."""

    position: NDArray[np.float64]
    """(frame, 2) where the frames are, [y, x] in pixels of the canvas."""
    force: NDArray[np.float64]
    """(frame,) b."""
    curvature: NDArray[np.float64]
    """(frame,) H."""
    misfit: float
    lit: int
    """Number of pixels of the object that the tile's frames determine; shared ones count in one tile only."""


class Gains(NamedTuple):
    """The changes of all gains in one update."""

    change: NDArray[np.float64]
    """(frame,) to be added to ``log g``; zeros if there is nothing to gain."""
    significance: float
    """T = ``b . delta / (sigma^2 frames)``: about 1 if gains are as exact as the noise allows."""


@dataclass(frozen=True)
class GainPace:
    """When gains are updated: the state of their refinement between two sweeps.

    Attributes
    ----------
    due_in : int
        Sweeps until the next test; one or less if it comes with the coming sweep.
    changing : bool
        Whether gains change; they do so from the first significant test on.
    tests : tuple of float
        Significance of the last tests, at most `TESTS`, before gains change.
    """

    due_in: int = FIRST_TEST
    changing: bool = False
    tests: tuple[float, ...] = ()

    def due(self) -> bool:
        """Whether gains are tested after the coming sweep."""
        return self.due_in <= 1

    def changes(self, significance: float) -> bool:
        """Whether gains change, at this significance."""
        if self.changing:
            return True
        last = (*self.tests[-RISES:], significance)
        rises = len(last) > RISES and all(later > (1 + RISE) * one for one, later in pairwise(last))
        if rises and significance > CLEAR:
            return True
        settled = len(self.tests) == TESTS and significance > SETTLED * self.tests[0]
        return settled and significance > OPEN

    @property
    def is_decided(self) -> bool:
        """Whether enough tests have been made to tell whether gains change."""
        return self.changing or len(self.tests) == TESTS

    def after(self, significance: float) -> GainPace:
        """The pace after a sweep, from the significance, NaN without a test."""
        if np.isnan(significance):
            return replace(self, due_in=self.due_in - 1)
        return GainPace(EVERY, self.changes(significance), (*self.tests, significance)[-TESTS:])

    def after_return(self) -> GainPace:
        """The pace once the run has gone back to an earlier image, with the gains of then."""
        return GainPace(EVERY, changing=False)


def find_gains(
    forces: Sequence[TileGainForces], probe: NDArray, frames: Frames, pace: GainPace, *, holds_slope: bool
) -> Gains:
    """Find the changes of all gains.

    Parameters
    ----------
    forces : sequence of TileGainForces
        One for each tile, in order.
    probe : (mode, N, N) complex64 array
    frames : Frames
    pace : GainPace
    holds_slope : bool
        Whether the part that is linear in the position is taken off; see `model.gain.Gain`.
    """
    position, force, curvature = (
        np.concatenate([getattr(tile, name) for tile in forces])
        for name in ("position", "force", "curvature")
    )
    still = np.zeros(len(force))
    if not curvature.mean() > 0:
        return Gains(still, 0.0)
    variance = frames.estimate_variance(forces)
    graph = link_frames(position, probe, frames.period)
    weights, part = pair_weights(graph, curvature[:, None]), graph.part
    matrix = laplacian(weights, graph.pairs, len(force), ANCHOR * curvature.mean(keepdims=True))
    # The mean of the gains of a part is a factor of the object. A frame by itself keeps its gain.
    force = subtract_means(force, part)
    delta = solve(matrix, force, MOST_STEPS)
    significance = float(force @ delta / (variance * len(delta)))
    if not pace.changes(significance):
        return Gains(still, significance)
    delta = np.clip(delta, -LIMIT, LIMIT)
    delta = subtract_means(delta, part)
    if holds_slope:
        place = subtract_means(position, part)
        delta = delta - place @ np.linalg.lstsq(place, delta, rcond=None)[0]
    return Gains(delta, significance)
