"""Momentum: a sweep starts from an extrapolation of the last two images rather than from the last one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["extrapolate", "next_momentum"]

Array = Any


def extrapolate(current: Array, previous: Array | None, momentum: float) -> Array:
    """The start of a sweep with momentum, ``x + momentum (x - x_previous)``; x if nothing precedes it."""
    if previous is None or momentum == 0:
        return current
    further = current - previous
    further *= np.float32(momentum)
    further += current
    return further


# The t from which Nesterov's sequence starts, rather than from 1. Measured with benchmarks/poster.py and
# benchmarks/raster.py: a smaller value costs sweeps in the first, a larger one in the second.
FIRST_MOMENTUM = 2.0

# A residual whose relative change is smaller than this is at rest: what remains is noise. It changes by a few
# per cent per sweep to the end for clean scans, and by 3e-4 after 100 sweeps for that of docs/benchmarks.md.
REST = 1e-4
# A residual has risen if it grew by more than this share. Sums over other tiles differ by less.
RISEN = 1e-5


def next_momentum(t: float | None, residuals: Sequence[float]) -> tuple[float, float]:
    """The next step of Nesterov's sequence ``t' = (1 + sqrt(1 + 4 t^2)) / 2``, and momentum ``(t - 1) / t'``.

    The sequence restarts when the residual rises (O'Donoghue and Candès, Found. Comput. Math. 15, 715
    (2015)). It pauses while the residual is at rest: momentum would then fit the image to noise, along
    directions that the data hardly determine.

    Parameters
    ----------
    t : float or None
        None before the first step.
    residuals : sequence of float
        R2 of the last three sweeps, or of all sweeps; fewer at the start of a run.

    Returns
    -------
    t, momentum : float
    """
    changes = [later - earlier for earlier, later in pairwise(residuals[-3:])]
    # Two small changes in a row: a residual also rests for one sweep as it turns from falling to rising.
    if len(changes) == 2 and max(map(abs, changes)) < REST * residuals[-1]:
        return FIRST_MOMENTUM, 0.0
    if t is None or (changes and changes[-1] > RISEN * residuals[-1]):
        t = FIRST_MOMENTUM
    following = (1 + math.sqrt(1 + 4 * t * t)) / 2
    return following, (t - 1) / following
