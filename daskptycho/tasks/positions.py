"""The part of a sweep's graph that refines positions: sums of each tile, one solve, and frames that move.

The derivatives of `model.positions` come with a sweep. What the image adds to them needs the changes of
neighbouring tiles, which come as strips, and a second pass over the frames without Fourier transforms. One
task finds the moves of all frames. Frames move between two sweeps: the image is merged where they were, and
the coming sweep starts from it with the frames at their new positions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from daskptycho.backend import to_host
from daskptycho.model.displacement import pull_of_image
from daskptycho.model.model import TileModel
from daskptycho.model.positions import Derivatives, Positions
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.positions import Frames, Freedom, Moves, Pace, TileForces, find_moves
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import (
    State,
    SweepSettings,
    TileState,
    illuminate_tiles,
    merge_image,
    model_on_tiles,
    previous_image,
    stack_of,
)
from daskptycho.tasks.strips import add_neighbours
from daskptycho.tiling import Shape

__all__ = ["refine_positions"]

Array = Any


def _change(swept: TileSweep) -> Array:
    return _derivatives(swept).change


def _derivatives(swept: TileSweep) -> Derivatives:
    return cast(Derivatives, swept.sums[Positions.name])


def _forces(
    data: TileData, swept: TileSweep, at: TileModel, change: Array, illumination: Array
) -> TileForces:
    derivatives = _derivatives(swept).with_images(lambda image: image[...])
    tile, of_tiles = at.locate(data.tile), illumination[...]
    image, noise = pull_of_image(data.tile, at, derivatives, change[...], of_tiles)
    position = tile.corner + tile.fraction + (tile.window.y, tile.window.x)
    force, curvature = to_host(derivatives.force - image), to_host(derivatives.curvature)
    lit = _count_lit(data, at.inverse_illumination(of_tiles) > 0)
    return TileForces(position, force, to_host(noise), curvature, swept.misfit, lit)


def _count_lit(data: TileData, lit: Array) -> int:
    """Number of pixels that are lit, without those that a tile of a lower number has too."""
    counted = lit.copy()
    for strip in data.strips:
        rows = strip.from_source[0].start, strip.from_source[1].start
        later = (strip.source, rows) > (data.tile.index, (strip.to_target[0].start, strip.to_target[1].start))
        if strip.source < data.tile.index or (strip.source == data.tile.index and not later):
            counted[strip.to_target] = False
    return int(counted.sum())


def _find(
    shared: dict[str, Array], forces: list[TileForces], frames: Frames, pace: Pace, freedom: Freedom
) -> Moves:
    return find_moves(forces, to_host(shared[Probe.name]), frames, pace, freedom)


def _move(
    data: TileData, own: dict[str, Array], moves: Moves, positions: Positions, momentum: float, shape: Shape
) -> dict[str, Array]:
    step, value = moves.offset[data.tile.frames], own[Positions.name]
    return own | {Positions.name: positions.move(value, step, momentum, data.tile, shape)}


def refine_positions(
    layout: Layout,
    before: State,
    after: State,
    swept: list[Value],
    models: list[TileModel],
    settings: SweepSettings,
) -> tuple[State, Value]:
    """Move frames after a sweep, if that is significant.

    Parameters
    ----------
    layout : Layout
    before, after : State
        The states before and after the sweep.
    swept : list of Value
        The `TileSweep` of each tile, with the `Derivatives` of its frames.
    models : list of TileModel
        The models of the sweep.
    settings : SweepSettings

    Returns
    -------
    state : State
        `after` with frames moved, images merged and the illumination renewed.
    moves : Value
        The `Moves` of all frames.
    """
    (positions,) = (own for own in layout.model.parameters if isinstance(own, Positions))
    changes = add_neighbours(layout, [task(layout.storing(_change), of_tile) for of_tile in swept])
    illuminations = [tile.illumination for tile in before.tiles]
    inputs = zip(layout.tiles, swept, models, changes, illuminations, strict=True)
    forces = [task(_forces, *of_tile) for of_tile in inputs]
    freedom = Freedom(positions.moves, positions.hold, positions.line)
    moves = task(_find, before.shared, forces, layout.frames, settings.pace, freedom)
    own = [
        task(_move, data, tile.own, moves, positions, settings.momentum, layout.tiling.frame_shape)
        for data, tile in zip(layout.tiles, after.tiles, strict=True)
    ]
    return replace(after, tiles=_move_frames(layout, after, own)), moves


def _move_frames(layout: Layout, state: State, own: list[Value]) -> list[TileState]:
    """The tiles of a state with frames at new positions: all that depends on the old ones is merged."""
    models = model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles])
    merge, previous = layout.storing(merge_image), layout.storing(previous_image)
    illuminations = illuminate_tiles(layout, model_on_tiles(layout, state.shared, own))
    of_tiles = zip(layout.tiles, state.tiles, models, illuminations, own, strict=True)
    return [
        TileState(
            *(task(merge, data, tile, at), illumination, of_frames),
            *(task(previous, tile), task(stack_of, data, tile)),
        )
        for data, tile, at, illumination, of_frames in of_tiles
    ]
