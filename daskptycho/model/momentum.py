"""Momentum: where a sweep begins, further along the way from the last image to this one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = ["extrapolate", "next_momentum"]

Array = Any


def extrapolate(current: Array, previous: Array | None, momentum: float) -> Array:
    """``x + momentum (x - x_previous)``: the point that a sweep with momentum starts from."""
    if previous is None or momentum == 0:
        return current
    further = current - previous
    further *= np.float32(momentum)
    further += current
    return further


# Nesterov's sequence is entered here rather than at 1: measured on the two problems of
# benchmarks/poster.py and benchmarks/raster.py, earlier costs sweeps in the first, later in the second.
FIRST_MOMENTUM = 2.0

# A residual that moves by a smaller share of itself is at rest: what is left of it is noise. Clean scans move
# by per cents until the end, the measured one of docs/benchmarks.md by 3e-4 after 100 sweeps.
REST = 1e-4


def next_momentum(t: float | None, residuals: Sequence[float]) -> tuple[float, float]:
    """Nesterov's sequence ``t' = (1 + sqrt(1 + 4 t^2)) / 2``, momentum ``(t - 1) / t'``.

    It begins anew where the residual rises (O'Donoghue and Candès, Found. Comput. Math. 15, 715 (2015)), and
    pauses where the residual is at rest: further along the directions that the data hardly
    tell, momentum would carry the image to where the noise wants it.

    Parameters
    ----------
    t : float or None
        None before the first step.
    residuals : sequence of float
        R2 of the sweeps so far, at least of the last three.

    Returns
    -------
    t, momentum : float
    """
    changes = [later - earlier for earlier, later in pairwise(residuals[-3:])]
    # Twice: where a residual turns from falling to rising, it stands still for one sweep.
    if len(changes) == 2 and max(map(abs, changes)) < REST * residuals[-1]:
        return FIRST_MOMENTUM, 0.0
    if t is None or (changes and changes[-1] > 0):
        t = FIRST_MOMENTUM
    following = (1 + math.sqrt(1 + 4 * t * t)) / 2
    return following, (t - 1) / following
