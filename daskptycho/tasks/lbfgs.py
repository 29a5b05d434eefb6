"""The part of a sweep's graph for L-BFGS: what each tile measures, and the step of all tiles.

The task that computes the tile's row of G, if the sweep synchronises on two levels, also measures the
products for the step: both need the strips of neighbouring tiles. One task for all tiles finds the phases and
the step. The tasks of the coming sweep make it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from daskptycho.backend import array_module
from daskptycho.model.lbfgs import measure_products, next_step, remember
from daskptycho.model.model import TileModel
from daskptycho.model.operators import brightest, neighbour_differences, overlap
from daskptycho.model.sweep import TileSweep, Weighted
from daskptycho.sync.phases import Phases
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, in_one_process, task
from daskptycho.tasks.state import (
    Joined,
    Measured,
    State,
    Stepped,
    SweepSettings,
    TileState,
    Unmerged,
    memory_of,
    model_on_tiles,
    sum_turned,
)
from daskptycho.tasks.strips import Pieces, add_unturned, share_neighbours, share_pixels
from daskptycho.tasks.two_level import find_phases, measure_row

__all__ = ["add_unturned_sum", "step_tiles"]

Array = Any


def add_unturned_sum(
    data: TileData, swept: TileSweep, at: TileModel, illumination: Array, settings: SweepSettings
) -> TileSweep:
    """Add to a sweep the sums that phases must not multiply; see `TileSweep.unturned`."""
    total: Array | None = None
    if settings.pairs and isinstance(swept.left, Weighted):
        total = overlap(swept.left.frames, data.tile.corner, data.tile.window.shape)
    if settings.smoothing and swept.start is not None:
        differences = neighbour_differences(swept.start, _share_lit(data, illumination[...]))
        differences *= np.float32(settings.smoothing) * brightest(at.probe)
        total = differences if total is None else total + differences
    return swept if total is None else swept._replace(unturned=total, smoothing=settings.smoothing)


def _share_lit(data: TileData, illumination: Array) -> tuple[Array, Array]:
    """`share_neighbours` for neighbours that frames cover, zero for others, which not every tile holds."""
    xp = array_module(illumination)
    down, across = map(xp.asarray, share_neighbours(illumination.shape, data.strips))
    covered = illumination > 0
    down *= covered[1:]
    down *= covered[:-1]
    across *= covered[:, 1:]
    across *= covered[:, :-1]
    return down, across


class _TileInput(NamedTuple):
    """What a tile's products are measured from. Its fields are values in a graph, and arrays in a task."""

    data: TileData
    at: TileModel
    illumination: Array
    before: TileState
    """The state of the tile before the sweep."""
    swept: TileSweep
    pieces: Pieces


def _measure(own: _TileInput, joined: Joined | None, settings: SweepSettings) -> Measured:
    data, swept, illumination = own.data, own.swept, own.illumination[...]
    turns = swept.unturned is not None and settings.how.normalisation is not None
    total = array_module(illumination).zeros(illumination.shape, dtype=np.complex64)
    if not turns:
        total = sum_turned(data, Unmerged(swept, own.pieces, None))
    add_unturned(swept, own.pieces, data.strips, total)
    damped = illumination + at_damping(own.at, swept.smoothing)
    change = illumination * swept.start
    change -= total
    change /= damped
    step = None if joined is None else joined.step
    memory = remember(swept.start, change, memory_of(own.before), step)
    share = array_module(damped).asarray(share_pixels(damped.shape, data.strips))
    row = None
    if isinstance(swept.left, TileSum):
        row = measure_row(data, swept, own.pieces, illumination, own.at)
    return Measured(memory, measure_products(memory, damped * share), swept.misfit, row)


def at_damping(at: TileModel, smoothing: float) -> Array:
    """What is added to the illumination, with the weight of the penalty on differences."""
    return at.damping + np.float32(4 * smoothing) * brightest(at.probe) if smoothing else at.damping


def _report_measured(measured: Measured) -> Measured:
    return measured._replace(memory=None)


def _join(
    measured: list[Measured], joined: Joined | None, found: Phases | None, settings: SweepSettings
) -> Joined:
    misfit = sum(own.misfit for own in measured)
    if settings.two_level:
        found = find_phases([own.row for own in measured if own.row is not None], settings)
    products = np.sum([own.products for own in measured], axis=0)
    before = None if joined is None else joined.step
    step = next_step(products, before, misfit, settings.pairs, turned=found is not None)
    return Joined(step, misfit, found)


def step_tiles(
    layout: Layout,
    swept: list[Value],
    pieces: list[list[Value]],
    after: State,
    before: State,
    settings: SweepSettings,
    found: Value | None,
) -> State:
    """Measure the products of all tiles and find the step.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile.
    pieces : list of lists of Value
        The strips of each tile, from `bring_strips`.
    after : State
        The model after the sweep, and its illumination.
    before : State
        The state before the sweep.
    settings : SweepSettings
    found : Value or None
        `Phases` of all frames, if they are found already and in the overlap sums.

    Returns
    -------
    State
        `after` with `Stepped` images.
    """
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    illuminations = [tile.illumination for tile in after.tiles]
    joined = None if settings.begins_anew else before.joined
    inputs = zip(layout.tiles, models, illuminations, before.tiles, swept, pieces, strict=True)
    measured = [task(_measure, _TileInput(*of_tile), joined, settings) for of_tile in inputs]
    share_process = in_one_process(len(measured))
    reports = [
        own if share_process(0, index) else task(_report_measured, own) for index, own in enumerate(measured)
    ]
    joined = task(_join, reports, joined, found, settings)
    synchronised = settings.how.normalisation is not None
    phases = joined if settings.two_level else None
    tiles = [
        tile._replace(
            image=Stepped(own, joined, Unmerged(of_tile, brought, phases) if synchronised else None)
        )
        for tile, own, of_tile, brought in zip(after.tiles, measured, swept, pieces, strict=True)
    ]
    return State(after.shared, tiles, before.shared, joined)
