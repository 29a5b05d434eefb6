"""The part of a sweep's graph that refines gains, alike that of positions: sums, one solve, new gains.

Gains change between two sweeps. The image is merged with the gains that it was found with, and then divided
by the local change of the light, so that the frames fit it as before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from daskptycho.backend import array_module, to_host
from daskptycho.model.displacement import weigh_fields
from daskptycho.model.gain import Gain, GainDerivatives
from daskptycho.model.model import TileModel
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.frame_graph import Frames
from daskptycho.sync.gains import GainPace, Gains, TileGainForces, find_gains
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.positions import count_lit
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import (
    State,
    SweepSettings,
    TileState,
    illuminate_tiles,
    light_tiles,
    merge_images,
    model_on_tiles,
    previous_image,
    stack_of,
)
from daskptycho.tasks.strips import add_neighbours

__all__ = ["refine_gains"]

Array = Any


def _derivatives(swept: TileSweep) -> GainDerivatives:
    return cast(GainDerivatives, swept.sums[Gain.name])


def _change(swept: TileSweep) -> Array:
    return _derivatives(swept).change


def _forces(
    data: TileData, swept: TileSweep, at: TileModel, change: Array, illumination: Array
) -> TileGainForces:
    derivatives, weight = _derivatives(swept), at.inverse_illumination(illumination[...])
    # The image takes up most of the misfit: what it will do is no work for the gains.
    coming = change[...] * weight
    field = (derivatives.image[...].conj() * coming).real.astype(np.float32)
    pull = weigh_fields(data.tile, at, field[None])[:, 0]
    tile = at.locate(data.tile)
    position = to_host(tile.corner) + to_host(tile.fraction) + (tile.window.y, tile.window.x)
    force, curvature = to_host(derivatives.force - pull), to_host(derivatives.curvature)
    return TileGainForces(position, force, curvature, swept.misfit, count_lit(data, weight > 0))


def _find(
    shared: dict[str, Array],
    forces: list[TileGainForces],
    frames: Frames,
    pace: GainPace,
    holds_slope: bool,
) -> Gains:
    return find_gains(forces, to_host(shared[Probe.name]), frames, pace, holds_slope=holds_slope)


def _adjust(data: TileData, own: dict[str, Array], gains: Gains) -> dict[str, Array]:
    value = own[Gain.name]
    factor = np.exp(gains.change[data.tile.frames]).astype(np.float32)
    return own | {Gain.name: value * array_module(value).asarray(factor)}


def _follow(image: Array | None, before: Array, after: Array) -> Array | None:
    """An image with the light N before and after gains have changed: the waves stay as they were."""
    if image is None:
        return None
    before, after = before[...], after[...]
    xp = array_module(before)
    return image[...] * xp.sqrt(xp.where(after > 0, before / xp.where(after > 0, after, 1), 1))


def refine_gains(
    layout: Layout,
    before: State,
    after: State,
    swept: list[Value],
    models: list[TileModel],
    settings: SweepSettings,
) -> tuple[State, Value]:
    """Change gains after a sweep, if that is significant.

    Parameters
    ----------
    layout : Layout
    before, after : State
        The states before and after the sweep.
    swept : list of Value
        The `TileSweep` of each tile, with the `GainDerivatives` of its frames.
    models : list of TileModel
        The models of the sweep.
    settings : SweepSettings

    Returns
    -------
    state : State
        `after` with new gains, images merged and the illumination renewed.
    gains : Value
        The `Gains` of all frames.
    """
    (gain,) = (own for own in layout.model.parameters if isinstance(own, Gain))
    changes = add_neighbours(layout, [task(layout.storing(_change), of_tile) for of_tile in swept])
    illuminations = [tile.illumination for tile in before.tiles]
    inputs = zip(layout.tiles, swept, models, changes, illuminations, strict=True)
    forces = [task(_forces, *of_tile) for of_tile in inputs]
    assert settings.gain_pace is not None
    gains = task(_find, before.shared, forces, layout.frames, settings.gain_pace, gain.holds_slope)
    after = light_tiles(layout, after)
    own = [task(_adjust, data, tile.own, gains) for data, tile in zip(layout.tiles, after.tiles, strict=True)]
    lit = illuminate_tiles(layout, model_on_tiles(layout, after.shared, own))
    follow, previous = layout.storing(_follow), layout.storing(previous_image)
    of_tiles = zip(layout.tiles, after.tiles, merge_images(layout, after), lit, own, strict=True)
    tiles = [
        TileState(
            task(follow, image, tile.illumination, light),
            light,
            of_frames,
            task(follow, task(previous, tile), tile.illumination, light),
            task(stack_of, data, tile),
        )
        for data, tile, image, light, of_frames in of_tiles
    ]
    return replace(after, tiles=tiles), gains
