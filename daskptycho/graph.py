r"""The Dask graph of a sweep: tiles as tasks, strips between neighbours, phases.

It puts the eager functions of `model` and `sync` into tasks and holds no mathematics of its own. With the
model held, a sweep is two tasks a tile::

    TileState -> sweep: merge the image, sweep the frames, synchronise the tile -> TileSweep
    TileSweep -> row of G, with the neighbours' strips -> phases of the tiles -> the next TileState

Where parameters are recovered, their sums go through one task for all tiles and the illumination follows from
them before the frames are weighed. Lists have one value for each tile. A sweep's inputs are results that are
already on the workers; a graph holds no array and spans one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple, cast

import numpy as np

from daskptycho.cluster.work import note_sweep
from daskptycho.model.model import Model, TileModel
from daskptycho.model.momentum import extrapolate
from daskptycho.model.parameter import Sums
from daskptycho.model.sweep import (
    Leave,
    TileSweep,
    illuminate_tile,
    overlap_waves,
    sweep_tile,
    weigh_waves,
)
from daskptycho.sync.phases import Phases
from daskptycho.sync.two_level import Surroundings, sweep_inside
from daskptycho.tasks.exact import find_all_phases, turn_frames
from daskptycho.tasks.frames import StoredAmplitudes, load_amplitudes, release_as_read
from daskptycho.tasks.layout import Layout, TileData, find_pairs
from daskptycho.tasks.spec import Value, in_one_process, place, task
from daskptycho.tasks.state import (
    State,
    SweepSettings,
    TileState,
    Unmerged,
    merge_image,
    model_on_tiles,
    previous_image,
    stack_of,
)
from daskptycho.tasks.strips import add_neighbours, bring_strips
from daskptycho.tasks.two_level import join_tiles, synchronise_swept

__all__ = [
    "Report",
    "illuminate_tiles",
    "merge_images",
    "sweep",
    "synchronise",
]

Array = Any


class Report(NamedTuple):
    """What the client learns of a sweep: only scalars."""

    misfit: float
    consensus: float
    spread: float
    localisation: float


class SweepInput(NamedTuple):
    """All that a sweep over one tile needs; in a graph, of values."""

    settings: SweepSettings
    at: TileModel
    data: TileData
    state: TileState
    leave: Leave
    merging: Array | None = None
    """N of the coming merge, where it is known already: the tile is synchronised in the same task."""
    following: TileModel | None = None
    """The model to weigh the frames with, unless it is the one of the sweep."""
    first: TileSweep | None = None
    """What a first pass over the same frames left."""


def _sweep(given: SweepInput) -> TileSweep:
    settings, at, data, state = given.settings, given.at, given.data, given.state
    how, tile = settings.how, data.tile
    kept = None if given.first is None else given.first.image
    merged = merge_image(data, state, at) if kept is None else kept[...]
    previous = previous_image(state) if settings.momentum else None
    image, stack, misfit = extrapolate(merged, previous, settings.momentum), stack_of(data, state), None
    amplitudes = load_amplitudes(data.amplitudes)
    if data.pairs is not None and how.sync.inner > 1:
        block = None if how.normalisation is None else find_pairs(data.pairs, tile)
        around = Surroundings(state.illumination[...], block)
        image, stack, misfit = sweep_inside(
            *(settings.algorithm, at, tile, amplitudes, image, stack, around, how)
        )
    if isinstance(data.amplitudes, StoredAmplitudes):
        amplitudes = release_as_read(amplitudes)
    swept = sweep_tile(
        *(settings.algorithm, at, tile, amplitudes, image),
        stack=stack,
        leave=given.leave,
        following=given.following,
    )
    note_sweep()
    # What was read for this task goes before the Gramian needs room.
    del amplitudes, image
    if settings.keeps_image or settings.due:
        swept = swept._replace(image=merged if kept is None else kept)
    if given.merging is not None and settings.two_level:
        swept = synchronise_swept(data, swept, given.merging, given.following or at, how)
    return swept if misfit is None else swept._replace(misfit=misfit)


def _weigh(settings: SweepSettings, data: TileData, first: TileSweep, merging: Array, at: TileModel) -> Any:
    """Weigh waves that waited for the updated model, and synchronise the tile where that is due."""
    weigh = overlap_waves if settings.leave == "overlap sum" else weigh_waves
    swept = first._replace(left=weigh(data.tile, first.left.waves, at), sums={})
    return synchronise_swept(data, swept, merging, at, settings.how) if settings.two_level else swept


def _illuminate(data: TileData, at: TileModel) -> Array:
    return illuminate_tile(data.tile, at)


class _TileReport(NamedTuple):
    """What of a `TileSweep` goes to one task for all tiles; a sweep has both fields too."""

    misfit: float
    sums: dict[str, Sums]


def _report_tile(swept: TileSweep) -> _TileReport:
    return _TileReport(swept.misfit, swept.sums)


def _gather_reports(swept: list[Value]) -> list[Value]:
    """What one task reads of all tiles: in its own process each sweep where it lies, of others a report."""
    beside = in_one_process(len(swept))
    return [own if beside(0, index) else task(_report_tile, own) for index, own in enumerate(swept)]


def _update_shared(
    model: Model, shared: dict[str, Array], reports: list[_TileReport], due: frozenset[str]
) -> dict[str, Array]:
    updated = dict(shared)
    for parameter in model.shared:
        if parameter.name in due:
            total = reduce(parameter.add, (own.sums[parameter.name] for own in reports))
            updated[parameter.name] = parameter.update(shared[parameter.name], total)
    return updated


def _update_own(model: Model, own: dict[str, Array], swept: TileSweep) -> dict[str, Array]:
    return own | {
        parameter.name: parameter.update(own[parameter.name], swept.sums[parameter.name])
        for parameter in model.per_frame
        if parameter.name in swept.sums
    }


def _extrapolate_shared(
    model: Model, shared: dict[str, Array], previous: dict[str, Array], settings: SweepSettings
) -> dict[str, Array]:
    return shared | {
        parameter.name: extrapolate(shared[parameter.name], previous[parameter.name], settings.momentum)
        for parameter in model.shared
        if parameter.has_momentum and parameter.name in settings.due
    }


def _summarise(reports: list[_TileReport], found: Phases | None) -> Report:
    misfit = sum(own.misfit for own in reports)
    if found is None:
        return Report(misfit, np.nan, np.nan, np.nan)
    return Report(misfit, found.consensus, found.spread, found.localisation)


def illuminate_tiles(layout: Layout, models: Sequence[TileModel]) -> list[Value]:
    """N on each tile's window, summed over all tiles."""
    illuminate = layout.storing(_illuminate)
    return add_neighbours(
        layout, [task(illuminate, *of_tile) for of_tile in zip(layout.tiles, models, strict=True)]
    )


def merge_images(layout: Layout, state: State) -> list[Value]:
    """The object on each tile's window, (y, x)."""
    models = model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles])
    merge = layout.storing(merge_image)
    return [
        task(merge, *of_tile) if isinstance(of_tile[1].image, Unmerged) else of_tile[1].image
        for of_tile in zip(layout.tiles, state.tiles, models, strict=True)
    ]


def sweep(layout: Layout, state: State, settings: SweepSettings) -> tuple[State, Value]:
    """The graph of one sweep over all tiles.

    Returns
    -------
    state : State
    report : Value
        Of a `Report`.
    """
    placed = place(settings)
    shared, own = state.shared, [tile.own for tile in state.tiles]
    if settings.momentum and settings.due and state.previous_shared is not None:
        shared = task(_extrapolate_shared, layout.tile_model, shared, state.previous_shared, placed)
    models = model_on_tiles(layout, shared, own, settings.due)
    illuminations = [tile.illumination for tile in state.tiles]
    if not settings.due:
        swept = _sweep_tiles(layout, state, placed, models, settings.leave, illuminations)
        return synchronise(
            layout, swept, State(shared, _make_unmerged_tiles(illuminations, own)), settings, state.shared
        )
    again = layout.residency.waves_twice
    first = _sweep_tiles(layout, state, placed, models, "sums only" if again else "waves")
    updated = task(_update_shared, layout.tile_model, shared, _gather_reports(first), settings.due)
    if any(parameter.name in settings.due for parameter in layout.model.per_frame):
        own = [task(_update_own, layout.tile_model, *of_tile) for of_tile in zip(own, first, strict=True)]
    following = model_on_tiles(layout, updated, own)
    illuminations = illuminate_tiles(layout, following)
    if again:
        # The waves of all tiles found no room while the model waited for the last of them.
        models = model_on_tiles(layout, shared, [tile.own for tile in state.tiles])
        swept = _sweep_tiles(layout, state, placed, models, settings.leave, illuminations, following, first)
    else:
        weigh = layout.storing(_weigh)
        given = zip(layout.tiles, first, illuminations, following, strict=True)
        swept = [task(weigh, placed, *of_tile) for of_tile in given]
    return synchronise(
        layout, swept, State(updated, _make_unmerged_tiles(illuminations, own)), settings, state.shared
    )


def _sweep_tiles(
    layout: Layout,
    state: State,
    settings: Value,
    models: list[TileModel],
    leave: Leave,
    merging: list[Value] | None = None,
    following: list[TileModel] | None = None,
    first: list[Value] | None = None,
) -> list[Value]:
    """A `TileSweep` of each tile; see `SweepInput`."""
    nothing: list[Any] = [None] * len(layout.tiles)
    of_tiles = zip(
        *(models, layout.tiles, state.tiles, [leave] * len(nothing)),
        *(merging or nothing, following or nothing, first or nothing),
        strict=True,
    )
    function, placed = layout.storing(_sweep), cast(Any, settings)
    return [task(function, SweepInput(placed, *of_tile)) for of_tile in of_tiles]


def _make_unmerged_tiles(illuminations: list[Value], own: list[Any]) -> list[TileState]:
    """Tiles without an image yet."""
    return [TileState(None, *of_tile) for of_tile in zip(illuminations, own, strict=True)]


def synchronise(
    layout: Layout, swept: list[Value], after: State, settings: SweepSettings, previous: Value | None = None
) -> tuple[State, Value]:
    """Bring what each tile has left to the tiles around it, in phase where that is due.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        `TileSweep` of each tile.
    after : State
        The model after the sweep, and the illumination that goes with it.
    settings : SweepSettings
    previous : Value, optional
        The shared parameters before the sweep.

    Returns
    -------
    state : State
    report : Value
        Of a `Report`.
    """
    phases: Value | None = None
    found: Value | None = None
    reports = swept
    if settings.two_level:
        pieces = bring_strips(layout, swept)
        reports, phases = join_tiles(layout, swept, pieces, after, settings)
        found = phases
    else:
        reports = _gather_reports(swept)
        if settings.how.normalisation is not None:
            found = find_all_phases(layout, swept, after, settings)
            swept, found = turn_frames(layout, swept, found, reports, settings)
        pieces = bring_strips(layout, swept)
    tiles = [
        tile._replace(image=Unmerged(own, brought, phases))
        for tile, own, brought in zip(after.tiles, swept, pieces, strict=True)
    ]
    return replace(after, tiles=tiles, previous_shared=previous), task(_summarise, reports, found)
