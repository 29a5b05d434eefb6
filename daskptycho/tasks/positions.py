"""The part of a sweep's graph that refines positions: sums of each tile, one solve, and frames that move.

The derivatives of `model.positions` come with a sweep. What the image adds to them needs the changes of
neighbouring tiles, which come as strips, and a second pass over the frames without Fourier transforms. One
task finds the moves of all frames. Frames move between two sweeps: the image is merged where they were, and
moves along with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from daskptycho.backend import to_host
from daskptycho.model.displacement import carry_image, look_around, pull_of_image, sum_moves
from daskptycho.model.model import TileModel
from daskptycho.model.positions import Derivatives, Positions
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.frame_graph import Frames
from daskptycho.sync.positions import FARTHEST, Freedom, Moves, Pace, TileForces, find_moves
from daskptycho.tasks.frames import load_amplitudes
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import (
    State,
    SweepSettings,
    TileState,
    merge_images,
    model_on_tiles,
    previous_image,
    stack_of,
)
from daskptycho.tasks.strips import add_neighbours
from daskptycho.tiling import Shape

__all__ = ["count_lit", "refine_positions"]

Array = Any

# Largest share of frames that fit badly with which they are looked for.
MOST_ASTRAY = 0.5


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
    lit = count_lit(data, at.inverse_illumination(of_tiles) > 0)
    misfits = to_host(derivatives.misfit)
    return TileForces(position, force, to_host(noise), curvature, swept.misfit, lit, misfits)


def count_lit(data: TileData, lit: Array) -> int:
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


def _sum_moves(data: TileData, at: TileModel, moved: dict[str, Array]) -> Array:
    return sum_moves(data.tile, at, moved[Positions.name][:, 1])


def _carry(image: Array | None, moves: Array, at: TileModel, illumination: Array) -> Array | None:
    if image is None:
        return None
    return carry_image(image[...], moves[...], illumination[...], at.damping)


class Rule(NamedTuple):
    """How frames move."""

    positions: Positions
    frame_shape: Shape


def _move(data: TileData, own: dict[str, Array], moves: Moves, rule: Rule) -> dict[str, Array]:
    step, value = moves.offset[data.tile.frames], own[Positions.name]
    moved = rule.positions.move(value, step, data.tile, rule.frame_shape)
    return own | {Positions.name: moved}


def _look(data: TileData, at: TileModel, image: Array, moves: Moves, rule: Rule) -> dict[str, Array]:
    """The values of a tile's frames, with those that fitted badly where they fit best."""
    frames = np.flatnonzero(moves.astray[data.tile.frames])
    # Where most frames fit badly there is no image yet to find them in.
    if not len(frames) or moves.astray.mean() > MOST_ASTRAY:
        return at.own
    expected = moves.expected[data.tile.frames]
    centre = {int(frame): expected[frame] for frame in frames}
    by = look_around(data.tile, at, load_amplitudes(data.amplitudes), image[...], centre, FARTHEST)
    value, astray = at.own[Positions.name].copy(), by.any(axis=1)
    # They begin again there.
    value[astray] = rule.positions.move(value, by, data.tile, rule.frame_shape)[astray]
    value[astray, 1] = 0
    return at.own | {Positions.name: value}


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
        `after` with frames moved and images merged. The illumination is not known until the coming sweep.
    moves : Value
        The `Moves` of all frames.
    """
    (positions,) = (own for own in layout.model.parameters if isinstance(own, Positions))
    changes = add_neighbours(layout, [task(layout.storing(_change), of_tile) for of_tile in swept])
    illuminations = [tile.illumination for tile in before.tiles]
    inputs = zip(layout.tiles, swept, models, changes, illuminations, strict=True)
    forces = [task(_forces, *of_tile) for of_tile in inputs]
    assert settings.pace is not None
    freedom = Freedom(positions.moves, positions.hold, positions.line)
    moves = task(_find, before.shared, forces, layout.frames, settings.pace, freedom)
    rule = Rule(positions, layout.tiling.frame_shape)
    own = [
        task(_move, data, tile.own, moves, rule) for data, tile in zip(layout.tiles, after.tiles, strict=True)
    ]
    if settings.algorithm.has_stack:
        # Its waves are those of an image that stays where it is.
        previous = layout.storing(previous_image)
        earlier = [task(previous, tile) for tile in after.tiles]
        carried = list(zip(merge_images(layout, after), earlier, strict=True))
    else:
        carried = _carry_images(layout, before, after, own)
    if settings.pace.looks():
        models = model_on_tiles(layout, after.shared, own)
        images = [image for image, _ in carried]
        own = [
            task(_look, *of_tile, moves, rule) for of_tile in zip(layout.tiles, models, images, strict=True)
        ]
    of_tiles = zip(layout.tiles, after.tiles, carried, own, strict=True)
    tiles = [
        TileState(image, None, of_frames, previous, task(stack_of, data, tile))
        for data, tile, (image, previous), of_frames in of_tiles
    ]
    return replace(after, tiles=tiles), moves


def _carry_images(
    layout: Layout, before: State, after: State, moved: list[Value]
) -> list[tuple[Value, Value]]:
    """The image of each tile and the one before it, for momentum, where frames that have moved carry them."""
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    of_tiles = zip(layout.tiles, models, moved, strict=True)
    sums = add_neighbours(layout, [task(layout.storing(_sum_moves), *of_tile) for of_tile in of_tiles])
    carry, previous = layout.storing(_carry), layout.storing(previous_image)
    lit = [tile.illumination for tile in before.tiles]
    inputs = zip(merge_images(layout, after), after.tiles, sums, models, lit, strict=True)
    return [
        (task(carry, image, *how), task(carry, task(previous, tile), *how)) for image, tile, *how in inputs
    ]
