"""The scalars of a sweep that the client needs, summed up over the tiles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.model.parameter import Sums
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.gains import Gains
from daskptycho.sync.phases import Phases
from daskptycho.sync.positions import Moves
from daskptycho.sync.variation import Variation
from daskptycho.tasks.lbfgs import relative_change
from daskptycho.tasks.spec import Value, flatten, gather
from daskptycho.tasks.state import Joined

__all__ = [
    "Report",
    "TileReport",
    "add_gains",
    "add_moves",
    "add_variation",
    "gather_reports",
    "summarise",
    "summarise_joined",
]


class Report(NamedTuple):
    """The scalars of a sweep, for the client. Those of `Phases` are NaN if it did not synchronise."""

    misfit: float
    """``sum (|Fz| - a)^2`` over the valid pixels of all frames."""
    disagreement: float
    spread: float
    localisation: float
    change: float = np.nan
    """Relative change of the object in the sweep before, weighted by N; NaN if it was not measured."""
    significance: float = np.nan
    """See `sync.positions.Moves`; NaN if positions were not tested."""
    moved: float = np.nan
    """Root mean square along an axis of how far frames moved, in pixels; NaN likewise."""
    gain_significance: float = np.nan
    """See `sync.gains.Gains`; NaN if gains were not tested."""
    gain_changed: float = np.nan
    """Root mean square of the change of ``log g``; NaN likewise."""
    variation_significance: float = np.nan
    """See `sync.variation.Variation`; NaN if the sweep did not fit the weights of a varying probe."""
    variation_share: float = np.nan
    """Power of the variation relative to the probe's; NaN likewise."""


class TileReport(NamedTuple):
    """The part of a `TileSweep` that one task for all tiles needs. A `TileSweep` has the same fields."""

    misfit: float
    sums: dict[str, Sums]
    moved: tuple[float, float] = (0.0, 0.0)


def _report_tiles(swept: list[TileSweep]) -> list[TileReport]:
    return [_report_tile(of_tile) for of_tile in swept]


def _report_tile(swept: TileSweep) -> TileReport:
    # Sums with images are for the neighbours of the tile, not for the task of all tiles.
    small = {name: sums for name, sums in swept.sums.items() if not hasattr(sums, "with_images")}
    return TileReport(swept.misfit, small, swept.moved)


def gather_reports(swept: list[Value]) -> list[Value]:
    """The sweeps of all tiles, or their reports, for one task, which has to `spec.flatten` them."""
    return gather(swept, _report_tiles)


def summarise(reports: list[TileReport], found: Phases | None) -> Report:
    """Sum up the reports of all tiles, with what their synchronisation found."""
    reports = flatten(reports)
    misfit = sum(report.misfit for report in reports)
    return _make_report(misfit, found, relative_change([report.moved for report in reports]))


def summarise_joined(joined: Joined) -> Report:
    """The report of a sweep of L-BFGS, whose task for all tiles has summed up already."""
    return _make_report(joined.misfit, joined.phases, joined.change)


def _make_report(misfit: float, found: Phases | None, change: float) -> Report:
    if found is None:
        return Report(misfit, np.nan, np.nan, np.nan, change)
    return Report(misfit, found.disagreement, found.spread, found.localisation, change)


def add_moves(report: Report, moves: Moves) -> Report:
    """The report of a sweep after which positions were tested."""
    return report._replace(significance=moves.significance, moved=_rms(moves.offset))


def add_gains(report: Report, gains: Gains) -> Report:
    """The report of a sweep after which gains were tested."""
    return report._replace(gain_significance=gains.significance, gain_changed=_rms(gains.change))


def add_variation(report: Report, found: Variation) -> Report:
    """The report of a sweep that has fitted the weights of a varying probe."""
    return report._replace(variation_significance=found.significance, variation_share=found.share)


def _rms(values: NDArray) -> float:
    return float(np.sqrt((values**2).mean()))
