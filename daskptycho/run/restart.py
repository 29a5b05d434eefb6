"""A run whose object begins anew, once the probe has been found to vary."""

from __future__ import annotations

from dataclasses import replace

from daskptycho.run.guard import Guard, drop_anchor
from daskptycho.run.options import RunOptions
from daskptycho.run.standing import Standing
from daskptycho.run.start import begin_uniform
from daskptycho.sync.options import Cadence
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.waiting import persist

__all__ = ["begin_anew", "has_to_begin_anew"]


def has_to_begin_anew(before: Standing, after: Standing, options: RunOptions) -> bool:
    """Whether the object begins anew after a sweep which has found that the probe varies.

    The object has taken up part of what varies slowly, and would be slow to let it go. Most of the sweeps
    have to be left, and the object not to be one that the user gave, or that has grown from random phases.
    """
    early = 2 * len(after.recent) <= options.sweeps
    return after.varies and not before.varies and early and options.start == "ones"


def begin_anew(layout: Layout, standing: Standing, options: RunOptions) -> Standing:
    """The same standing with a constant object, and without momentum."""
    state = standing.state
    begun = persist(begin_uniform(layout, state.shared, [tile.own for tile in state.tiles], None))
    pace, gains = standing.pace, standing.gain_pace
    return replace(
        standing,
        state=begun,
        cadence=Cadence.begin(options.sync, growing=False),
        step=None,
        guard=Guard(returns=standing.guard.returns),
        anchor=drop_anchor(layout, begun, standing.sweep),
        pace=None if pace is None else pace.after_return(),
        gain_pace=None if gains is None else gains.after_return(),
    )
