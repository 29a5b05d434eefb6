"""Watches over a run: where R2 diverges, the run goes back to an earlier image and makes smaller steps.

The `Loop` asks `Guard` after each sweep, and keeps an `Anchor` to go back to. Both are part of the standing
and of checkpoints, so that a resumed run decides as one without interruption.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daskptycho.model.algorithms import AP, Algorithm
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import Value
from daskptycho.tasks.state import State, TileState, illuminate_tiles, merge_images, model_on_tiles
from daskptycho.tasks.waiting import persist

__all__ = ["ANCHOR_SWEEPS", "Anchor", "Guard", "drop_anchor", "go_back", "warn_of_return"]

# Sweeps in which R2 may still rise: the first guesses of object and probe have not met yet.
FIRST_SWEEPS = 3
# R2 has diverged above this multiple of its best. A synchronisation, or a momentum that is too large for one
# sweep, raised it by at most a third in the scans of tests and benchmarks.
RISE = 2.0
# Above one, where the model is worse than no light at all, this multiple is enough. Algorithms with a stack
# leave good images on purpose: for them this is the only limit.
RISE_ABOVE_ONE = 1.2
# Below this R2 float32 does not resolve rises.
RESOLVED = 1e-6
# Times that a run goes back before it ends, each time with half of the step.
MOST_RETURNS = 6
# Number of sweeps from one anchor to the next.
ANCHOR_SWEEPS = 10
# An anchor is only dropped at an image whose R2 is at most this multiple of the best.
CALM = 1.1


@dataclass(frozen=True)
class Guard:
    """The decisions of a run about its divergence, as scalars.

    Attributes
    ----------
    best : float or None
        Lowest R2 since the start, or since the run has gone back last; None before the first sweep.
    returns : int
        Number of times that the run has gone back.
    """

    best: float | None = None
    returns: int = 0

    @property
    def share(self) -> float:
        """The share of momentum and of each parameter's update that sweeps apply."""
        return 0.5**self.returns

    @property
    def exhausted(self) -> bool:
        """Whether the run has gone back too often, and ends."""
        return self.returns > MOST_RETURNS

    def choose_algorithm(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm of the coming sweep: after a return, no reflections."""
        return AP() if self.returns and algorithm.has_stack else algorithm

    def has_diverged(self, sweep: int, residual: float, *, reflects: bool) -> bool:
        """Whether this R2 means that the run diverges.

        Parameters
        ----------
        sweep : int
            Number of the sweep, from one.
        residual : float
        reflects : bool
            Whether R2 may rise on purpose: the algorithm has a stack, a random start is still growing, or
            frames move.
        """
        if not math.isfinite(residual):
            return True
        if self.best is None or sweep <= FIRST_SWEEPS or residual < RESOLVED:
            return False
        if residual > 1 and residual > RISE_ABOVE_ONE * self.best:
            return True
        return not reflects and residual > RISE * self.best

    def after(self, residual: float) -> Guard:
        """The guard after a sweep that has not diverged."""
        return Guard(residual if self.best is None else min(self.best, residual), self.returns)

    def is_calm(self, residual: float) -> bool:
        """Whether an image of this R2 is good enough for an anchor."""
        return self.best is None or residual <= CALM * self.best


@dataclass(frozen=True)
class Anchor:
    """What a run goes back to if it diverges: an image and the parameters, as values.

    Attributes
    ----------
    sweep : int
        Number of sweeps that had been done.
    images : list of Value
        The object on each tile's window, (y, x) complex64.
    shared, own
        See `State` and `TileState`.
    """

    sweep: int
    images: list[Value]
    shared: Value
    own: Sequence[Any]


def drop_anchor(layout: Layout, state: State, sweep: int) -> Anchor:
    """An anchor at a state after this number of sweeps, with its images merged."""
    return Anchor(
        sweep, persist(merge_images(layout, state)), state.shared, [tile.own for tile in state.tiles]
    )


def go_back(layout: Layout, anchor: Anchor) -> State:
    """The state of an anchor, without momentum and without a stack."""
    illuminations = illuminate_tiles(layout, model_on_tiles(layout, anchor.shared, anchor.own))
    tiles = [TileState(*of_tile) for of_tile in zip(anchor.images, illuminations, anchor.own, strict=True)]
    return persist(State(anchor.shared, tiles))


def warn_of_return(sweep: int, residual: float, guard: Guard, anchor: Anchor, *, is_last: bool) -> None:
    """Tell the user that a sweep has diverged, and what the run does about it.

    Parameters
    ----------
    sweep : int
        Number of the sweep that has diverged.
    residual : float
        Its R2.
    guard : Guard
        The guard after it.
    anchor : Anchor
    is_last : bool
        Whether no more frames will come: a run that follows a scan does not end before that.
    """
    found = f"R2 is {residual:.3g} in sweep {sweep}: the reconstruction diverged"
    there = "the start" if anchor.sweep == 0 else f"the image after sweep {anchor.sweep}"
    then = "ends with" if is_last else "waits for more frames with"
    does = (
        f"the run has gone back {MOST_RETURNS} times and {then} {there}"
        if guard.exhausted
        else f"the run goes back to {there}, with {guard.share:.3g} of its steps and momentum"
    )
    warnings.warn(f"{found}; {does}", stacklevel=2)
