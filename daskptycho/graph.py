"""The Dask graph of a sweep: tasks of tiles, strips between neighbouring tiles, and phases.

It puts the eager functions of `model` and `sync` into tasks. With two-level synchronisation and no parameter
to update, a sweep has two tasks for each tile::

    TileState -> sweep: merge the image, sweep the frames, synchronise the tile -> TileSweep
    TileSweep -> row of G, with the strips of neighbours -> phases of the tiles -> the next TileState

If parameters are due for an update, their sums first go through one task for all tiles, and the illumination
is computed from them before frames are weighed: up to six tasks for each tile. Strips that are sent to
another process are cut out in further tasks. Lists have one value for each tile. A graph spans one sweep; its
inputs are results that are on the workers already.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple, cast

import numpy as np

from daskptycho.cluster.work import note_sweep
from daskptycho.model.light import LIGHT, Light
from daskptycho.model.model import Model, TileModel
from daskptycho.model.momentum import extrapolate
from daskptycho.model.parameter import Parameter, Sums
from daskptycho.model.probe_variation import ProbeWeight
from daskptycho.model.sweep import (
    Leave,
    TileSweep,
    overlap_waves,
    sweep_tile,
    weigh_waves,
)
from daskptycho.sync.two_level import Surroundings, sweep_inside
from daskptycho.tasks.exact import find_all_phases, turn_frames
from daskptycho.tasks.frames import StoredAmplitudes, load_amplitudes, release_as_read
from daskptycho.tasks.gains import refine_gains
from daskptycho.tasks.layout import Layout, TileData, find_pairs
from daskptycho.tasks.lbfgs import (
    add_unturned_sum,
    measure_change,
    prepare_polish,
    step_tiles,
)
from daskptycho.tasks.momentum import extrapolate_values
from daskptycho.tasks.positions import refine_positions
from daskptycho.tasks.reports import (
    TileReport,
    add_gains,
    add_moves,
    add_variation,
    gather_reports,
    summarise,
    summarise_joined,
)
from daskptycho.tasks.spec import Value, flatten, place, task
from daskptycho.tasks.state import (
    Joined,
    State,
    Stepped,
    SweepSettings,
    TileState,
    Unmerged,
    illuminate_tiles,
    light_tiles,
    merge_image,
    merge_images,
    model_on_tiles,
    previous_image,
    stack_of,
    with_light,
)
from daskptycho.tasks.strips import add_neighbours, bring_strips
from daskptycho.tasks.two_level import choose_leave, is_coarse, join_tiles, synchronise_swept
from daskptycho.tasks.variation import refine_weights

__all__ = [
    "sweep",
    "synchronise",
]

Array = Any


class SweepInput(NamedTuple):
    """The input of a sweep over one tile. Its fields are values in a graph, and arrays in a task."""

    settings: SweepSettings
    at: TileModel
    data: TileData
    state: TileState
    leave: Leave
    joined: Joined | None
    before: TileModel
    """The model that the image of the sweep before is merged with: without momentum."""
    merging: Array | None = None
    """N of the coming merge, if it is known already. The tile is then synchronised in the same task."""
    following: TileModel | None = None
    """The model to weigh the frames with; that of the sweep by default."""


class Updated(NamedTuple):
    """A sweep that has updated parameters."""

    swept: list[Value]
    """The `TileSweep` of each tile, weighed with the updated model."""
    after: State
    """The model after the sweep, and its illumination; without images."""
    first: list[Value]
    """The `TileSweep` of each tile with its sums."""
    varied: Value | None
    """The `Variation` of the probe, if its weights were fitted."""


def _sweep(inputs: SweepInput) -> TileSweep:
    settings, at, data, state = inputs.settings, inputs.at, inputs.data, inputs.state
    how, tile = settings.how, data.tile
    image = merge_image(data, state, inputs.before)
    moved = measure_change(data, image, state) if settings.measures_change else (0.0, 0.0)
    if settings.polish is not None:
        at, settings = prepare_polish(at, inputs.joined, settings, settings.polish)
    # For the momentum of the coming sweep.
    kept = image if settings.keeps_image else None
    if settings.momentum:
        image = extrapolate(image, previous_image(state), settings.momentum)
    # An opening may have left a stack that this algorithm does not have.
    stack = stack_of(data, state) if settings.algorithm.has_stack else None
    misfit: float | None = None
    amplitudes = load_amplitudes(data.amplitudes)
    if data.pairs is not None and how.sync.inner > 1:
        block = None if how.normalisation is None else find_pairs(data.pairs, at.locate(tile))
        around = Surroundings(state.illumination[...], block)
        image, stack, misfit = sweep_inside(
            *(settings.algorithm, at, tile, amplitudes, image, stack, around, how)
        )
    if isinstance(data.amplitudes, StoredAmplitudes):
        amplitudes = release_as_read(amplitudes)
    leave = inputs.leave
    if inputs.merging is not None and settings.two_level:
        leave = choose_leave(data, at, inputs.following, settings)
    swept = sweep_tile(
        *(settings.algorithm, at, tile, amplitudes, image),
        stack=stack,
        leave=leave,
        following=inputs.following,
    )
    note_sweep()
    # Sums alone are not merged.
    start = None if inputs.leave == "sums only" else image
    swept = swept._replace(image=kept, start=start, moved=moved)
    swept = add_unturned_sum(data, swept, at, state.illumination, settings)
    # Frees memory before the Gramian needs it.
    del amplitudes
    if inputs.merging is not None and settings.two_level:
        swept = synchronise_swept(data, swept, inputs.merging, inputs.following or at, how)
    return swept if misfit is None else swept._replace(misfit=misfit)


def _weigh(settings: SweepSettings, data: TileData, first: TileSweep, merging: Array, at: TileModel) -> Any:
    """Weigh the waves of a sweep with the updated model, and synchronise the tile if the sweep does so."""
    coarse = settings.two_level and is_coarse(data, at, settings.how)
    if coarse or settings.leave == "overlap sum":
        left: Any = overlap_waves(
            data.tile, first.left.waves, at, cast(Any, first.start)[...] if coarse else None
        )
    else:
        left = weigh_waves(data.tile, first.left.waves, at)
    swept = first._replace(left=left, sums={})
    return synchronise_swept(data, swept, merging, at, settings.how) if settings.two_level else swept


def _update_shared(
    model: Model, shared: dict[str, Array], reports: list[TileReport], settings: SweepSettings
) -> dict[str, Array]:
    updated, reports = dict(shared), flatten(reports)
    for parameter in model.shared:
        if parameter.name in settings.due:
            total = reduce(parameter.add, (report.sums[parameter.name] for report in reports))
            updated[parameter.name] = _update(parameter, shared[parameter.name], total, settings)
    return updated


def _update_own(
    model: Model, own: dict[str, Array], swept: TileSweep, settings: SweepSettings
) -> dict[str, Array]:
    return own | {
        parameter.name: _update(parameter, own[parameter.name], swept.sums[parameter.name], settings)
        for parameter in model.per_frame
        if parameter.name in swept.sums
    }


def _update(parameter: Parameter, value: Array, sums: Sums, settings: SweepSettings) -> Array:
    """The next value of a parameter; only a share of the step to it, if the settings say so."""
    following = parameter.update(value, sums)
    if settings.share == 1:
        return following
    return value + (following - value) * np.float32(settings.share)


def sweep(layout: Layout, state: State, settings: SweepSettings) -> tuple[State, Value]:
    """Make the graph of one sweep over all tiles.

    Parameters
    ----------
    layout : Layout
    state : State
        The state before this sweep.
    settings : SweepSettings

    Returns
    -------
    state : State
        The state after this sweep.
    report : Value
        A `Report`.
    """
    merges = _merges_at_once(layout, settings)
    placed = place(replace(settings, keeps_image=settings.keeps_image and not merges))
    shared: Any = state.shared
    own: list[Any] = [tile.own for tile in state.tiles]
    if settings.momentum and settings.due and state.previous_shared is not None:
        shared, own = extrapolate_values(layout, state, placed, settings)
    weighs = any(own.weighs_frames and own.name in settings.due for own in layout.model.parameters)
    unlit = ProbeWeight.name in settings.due or (settings.how.normalisation is not None and not weighs)
    if settings.begins_with_light or unlit:
        state = light_tiles(layout, state)
    # What is tested needs the light of the probe that the sweep begins with, which momentum has changed.
    lights = bool(settings.tested) if weighs else state.tiles[0].illumination is None
    summed = settings.due | settings.tested | ({LIGHT} if lights else set())
    models = model_on_tiles(layout, shared, own, summed)
    varied: Value | None = None
    if weighs:
        swept, after, first, varied = _sweep_and_update(layout, state, settings, placed, models)
        state = _take_light(layout, state, first) if lights else state
    else:
        merging = [tile.illumination for tile in state.tiles]
        swept = first = _sweep_tiles(layout, state, placed, models, settings.leave, merging)
        state = _take_light(layout, state, first) if lights else state
        illuminations = [tile.illumination for tile in state.tiles]
        if settings.due:
            shared = task(_update_shared, layout.tile_model, shared, gather_reports(swept), placed)
        after = State(shared, _make_unmerged_tiles(illuminations, own))
    after, report = synchronise(layout, swept, after, settings, state)
    if settings.pace is not None:
        after, moves = refine_positions(layout, state, after, first, models, settings)
        report = task(add_moves, report, moves)
    if settings.gain_pace is not None:
        after, gains = refine_gains(layout, state, after, first, models, settings)
        report = task(add_gains, report, gains)
    if varied is not None:
        report = task(add_variation, report, varied)
    return after, report


def _own_light(swept: TileSweep) -> Array:
    light = cast(Light, swept.sums[LIGHT])
    return light.illumination[...]


def _take_light(layout: Layout, state: State, swept: list[Value]) -> State:
    """The state before a sweep, with the illumination that the sweep has summed up."""
    own = [task(layout.storing(_own_light), of_tile) for of_tile in swept]
    return replace(state, tiles=with_light(state.tiles, add_neighbours(layout, own)))


def _sweep_and_update(
    layout: Layout, state: State, settings: SweepSettings, placed: Value, models: list[TileModel]
) -> Updated:
    """Sweep, update the parameters that are due, and weigh the frames with the updated model."""
    shared: Any = models[0].shared
    own: list[Any] = [at.own for at in models]
    twice = layout.residency.waves_twice
    first = _sweep_tiles(layout, state, placed, models, "sums only" if twice else "waves")
    updated = task(_update_shared, layout.tile_model, shared, gather_reports(first), placed)
    varied: Value | None = None
    if ProbeWeight.name in settings.due:
        updated, own, varied = refine_weights(layout, state, updated, first, models, settings)
    elif any(parameter.name in settings.due for parameter in layout.model.per_frame):
        own = [
            task(_update_own, layout.tile_model, *of_tile, placed) for of_tile in zip(own, first, strict=True)
        ]
    following = model_on_tiles(layout, updated, own)
    illuminations = illuminate_tiles(layout, following)
    if twice:
        # The update needs the sums of all tiles; their waves do not fit into memory until then.
        models = model_on_tiles(layout, shared, [at.own for at in models])
        swept = _sweep_tiles(layout, state, placed, models, settings.leave, illuminations, following)
    else:
        weigh = layout.storing(_weigh)
        inputs = zip(layout.tiles, first, illuminations, following, strict=True)
        swept = [task(weigh, placed, *of_tile) for of_tile in inputs]
    return Updated(swept, State(updated, _make_unmerged_tiles(illuminations, own)), first, varied)


def _merges_at_once(layout: Layout, settings: SweepSettings) -> bool:
    """Whether images are merged by tasks of their own; the stack of an algorithm stays with its sweep."""
    return layout.residency.merges_at_once and not settings.algorithm.has_stack


def _sweep_tiles(
    layout: Layout,
    state: State,
    settings: Value,
    models: list[TileModel],
    leave: Leave,
    merging: list[Value] | None = None,
    following: list[TileModel] | None = None,
) -> list[Value]:
    """The `TileSweep` of each tile; see `SweepInput` for the arguments."""
    nothing: list[Any] = [None] * len(layout.tiles)
    of_tiles = zip(
        *(models, layout.tiles, state.tiles, [leave] * len(nothing)),
        *([state.joined] * len(nothing), model_on_tiles(layout, state.shared, [t.own for t in state.tiles])),
        merging or nothing,
        following or nothing,
        strict=True,
    )
    function, placed = layout.storing(_sweep), cast(Any, settings)
    # The model, which comes first, is at home beside the tile where it was updated.
    return [
        task(function, SweepInput(placed, *of_tile), home=data.home)
        for data, of_tile in zip(layout.tiles, of_tiles, strict=True)
    ]


def _make_unmerged_tiles(illuminations: list[Value], own: list[Any]) -> list[TileState]:
    """The states of tiles without images, which `synchronise` adds."""
    return [TileState(None, *of_tile) for of_tile in zip(illuminations, own, strict=True)]


def synchronise(
    layout: Layout, swept: list[Value], after: State, settings: SweepSettings, before: State | None = None
) -> tuple[State, Value]:
    """Synchronise the tiles, if the sweep does so, and bring strips to the tiles that merge them.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile.
    after : State
        The model after the sweep, and its illumination; without images.
    settings : SweepSettings
    before : State, optional
        The state before the sweep.

    Returns
    -------
    state : State
        `after` with images: `Unmerged` ones, or merged ones where the run has little memory.
    report : Value
        A `Report`.
    """
    found: Value | None = None
    reports = swept
    if not settings.two_level and (settings.how.normalisation is not None or not settings.pairs):
        reports = gather_reports(swept)
    if not settings.two_level and settings.how.normalisation is not None:
        found = find_all_phases(layout, swept, after, settings)
        swept, found = turn_frames(layout, swept, after, found, reports, settings)
    pieces = bring_strips(layout, swept)
    if settings.pairs:
        assert before is not None
        state = step_tiles(layout, swept, pieces, after, before, settings, found)
        report = task(summarise_joined, state.joined)
    else:
        phases: Value | None = None
        if settings.two_level:
            reports, phases = join_tiles(layout, swept, pieces, after, settings)
            found = phases
        tiles = [
            tile._replace(image=Unmerged(of_tile, brought, phases))
            for tile, of_tile, brought in zip(after.tiles, swept, pieces, strict=True)
        ]
        state = replace(after, tiles=tiles, previous_shared=None if before is None else before.shared)
        report = task(summarise, reports, found)
    if _merges_at_once(layout, settings):
        state = _merge_tiles(layout, state, before if settings.keeps_image else None)
    return state, report


def _merge_tiles(layout: Layout, state: State, before: State | None) -> State:
    """The same state with its images merged, and beside them those of the state before, for momentum."""
    previous = [None] * len(state.tiles) if before is None else merge_images(layout, before)
    images = merge_images(layout, state)
    tiles = [
        tile._replace(
            image=image,
            previous=earlier,
            measured=tile.image.measured if isinstance(tile.image, Stepped) else None,
        )
        for tile, image, earlier in zip(state.tiles, images, previous, strict=True)
    ]
    return replace(state, tiles=tiles)
