"""The state of a run with more frames: what is known of the image is carried over to its tiles.

A tile that has not changed keeps its image and its frames. A new one begins with the pixels that it shares
with others, where these have light, and with a constant elsewhere. Its frames are then swept once with the
probe so far, so that it is seen before the next sweep over all tiles, which may take long. The probe goes on
as it is; momentum and stacks begin anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.model.algorithms import AP
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import TileModel
from daskptycho.model.operators import brightest
from daskptycho.model.sweep import merge, sweep_tile
from daskptycho.run.loop import Loop
from daskptycho.tasks.frames import load_amplitudes
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import (
    State,
    TileState,
    illuminate_tiles,
    light_tiles,
    merge_images,
    model_on_tiles,
)
from daskptycho.tasks.strips import add_neighbours
from daskptycho.tiling import Shape, Tiling

__all__ = ["carry_over", "match_tiles"]

# Light, as a share of the probe's brightest pixel, with which half of an earlier image is taken over.
DIM = 0.1

Array = Any
Slices = tuple[slice, slice]


def match_tiles(
    new: Tiling, new_numbers: NDArray[np.int64], old: Tiling, old_numbers: NDArray[np.int64]
) -> dict[int, int]:
    """For tiles that have the same frames at the same positions as an earlier tile, the number of that one.

    Parameters
    ----------
    new, old : Tiling
    new_numbers, old_numbers : (frame,) int arrays
        Numbers of the frames of each, in the order of the tiles.
    """
    by_first = {int(old_numbers[tile.frames.start]): tile for tile in old.tiles}
    same = {}
    for tile in new.tiles:
        other = by_first.get(int(new_numbers[tile.frames.start]))
        if (
            other is not None
            and np.array_equal(new_numbers[tile.frames], old_numbers[other.frames])
            and tile.window == other.window
            and np.array_equal(tile.corner, other.corner)
            and np.array_equal(tile.fraction, other.fraction)
        ):
            same[tile.index] = other.index
    return same


def carry_over(earlier: Loop, state: State, loop: Loop, own: list[Any], same: dict[int, int]) -> State:
    """The state of a run with more frames, lazily.

    Parameters
    ----------
    earlier : Loop
    state : State
        That of the earlier loop.
    loop : Loop
        With more frames.
    own : list of Value
        The values of its parameters that have one for each frame, from `start.place_values`.
    same : dictionary
        From `match_tiles`.
    """
    layout, old = loop.layout, earlier.layout
    state = light_tiles(old, state)
    images, lights = merge_images(old, state), [tile.illumination for tile in state.tiles]
    phase = task(_find_phase, [task(_sum_lit, *of_tile) for of_tile in zip(images, lights, strict=True)])
    models = model_on_tiles(layout, state.shared, own)
    begun, before = [], []
    for tile in layout.tiling.tiles:
        if tile.index in same:
            begun.append(images[same[tile.index]])
            before.append(lights[same[tile.index]])
            continue
        held, places = _places_under(layout.tiling, old.tiling, tile.index)
        pieces, lit = ([values[index] for index in held] for values in (images, lights))
        home, of_tile = layout.home(tile.index), (tile.window.shape, layout.device, places)
        begin = layout.storing(_begin_tile)
        begun.append(task(begin, *of_tile, pieces, phase, home=home))
        before.append(task(begin, *of_tile, lit, np.float32(0), home=home))
    if len(same) < len(old.tiling.tiles):
        # Frames have moved or gone, whose light cannot be told from that of the others.
        tiles = zip(begun, illuminate_tiles(layout, models), own, strict=True)
    else:
        tiles = zip(*_sweep_new(layout, models, same, begun, before, phase), own, strict=True)
    return State(state.shared, [TileState(*of_tile) for of_tile in tiles])


def _sweep_new(
    layout: Layout,
    models: list[TileModel],
    same: dict[int, int],
    begun: list[Value],
    before: list[Value],
    phase: Value,
) -> tuple[list[Value], list[Value]]:
    """Sweep the new tiles once, as if all frames of the others fitted the image.

    Parameters
    ----------
    layout : Layout
    models : list of TileModel
    same : dictionary
        Its keys are the numbers of the tiles that are not new.
    begun, before : list of Value
        Image of each tile, and its illumination by the frames that are not new.
    phase : Value
        The constant for pixels that nothing is known of.

    Returns
    -------
    images, illuminations : list of Value
    """
    new = [index for index in range(len(begun)) if index not in same]
    own: list[Value | None] = [None] * len(begun)
    for index in new:
        own[index] = task(layout.storing(_illuminate), layout.tiles[index], models[index])
    lights = add_neighbours(layout, own)
    starts, illuminations = list(begun), list(before)
    for index, light in enumerate(lights):
        if light is not None:
            of_tile = (begun[index], before[index], light, models[index], phase)
            starts[index] = task(layout.storing(_forget_rim), *of_tile)
            illuminations[index] = task(layout.storing(_add), before[index], light)
    sums: list[Value | None] = [None] * len(begun)
    for index in new:
        sums[index] = task(layout.storing(_sweep_tile), layout.tiles[index], models[index], starts[index])
    images = [
        start
        if image_sum is None
        else task(layout.storing(_join), image_sum, illuminations[index], before[index], models[index], start)
        for index, (image_sum, start) in enumerate(zip(add_neighbours(layout, sums), starts, strict=True))
    ]
    return images, illuminations


def _forget_rim(image: Array, before: Array, light: Array, at: TileModel, phase: complex) -> Array:
    """An image whose dim rim, which is noise, is nearer to the constant, where new frames see it."""
    seen, constant = before[...], np.complex64(phase)
    xp = array_module(seen)
    coming = xp.minimum(light[...], np.float32(DIM) * brightest(at.probe))
    share = seen / xp.maximum(seen + coming, np.finfo(np.float32).tiny)
    # Where nobody sees it, it stays.
    share[coming <= 0] = 1
    return constant + share * (image[...] - constant)


def _sweep_tile(data: TileData, at: TileModel, image: Array) -> Array:
    """The overlap sum of a tile's own frames after alternating projections, (y, x) complex64."""
    swept = sweep_tile(AP(), at, data.tile, load_amplitudes(data.amplitudes), image[...])
    return swept.left.image_sum


def _illuminate(data: TileData, at: TileModel) -> Array:
    return illuminate_tile(data.tile, at)


def _add(before: Array, light: Array) -> Array:
    return before[...] + light[...]


def _join(image_sum: Array, illumination: Array, before: Array, at: TileModel, image: Array) -> Array:
    """The image of all frames: those that are not new overlap to the image that there is."""
    start = image[...]
    return merge(image_sum[...] + before[...] * start, illumination[...], at, start)


def _places_under(new: Tiling, old: Tiling, index: int) -> tuple[list[int], list[tuple[Slices, Slices]]]:
    """The earlier tiles that meet the window of a tile: where their shared pixels are, in each and in it."""
    window = new.tiles[index].window
    shifts = [(0, 0)]
    if new.period is not None:
        shifts = [(y * new.period[0], x * new.period[1]) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    held, places = [], []
    for tile in old.tiles:
        for shift in shifts:
            moved = tile.window.shift(*shift)
            shared = moved.intersection(window)
            if shared is not None:
                held.append(tile.index)
                places.append((moved.slices_of(shared), window.slices_of(shared)))
    return held, places


def _begin_tile(
    shape: Shape, device: Device, places: list[tuple[Slices, Slices]], pieces: list[Array], constant: Any
) -> Array:
    """A tile's first image or illumination: the pixels that it shares with earlier ones, else a constant."""
    image = to_device(np.full(shape, constant), device)
    for (source, target), piece in zip(places, pieces, strict=True):
        image[target] = piece[source]
    return image


def _sum_lit(image: Array, illumination: Array) -> complex:
    """The sum of an image, weighted by its illumination."""
    xp = array_module(illumination[...])
    return complex(xp.vdot(illumination[...].astype(np.complex64), image[...]))


def _find_phase(sums: list[complex]) -> np.complex64:
    """The mean phase factor of all tiles, for pixels that nothing is known of: the same in every new tile."""
    total = sum(sums)
    return np.complex64(total / abs(total) if total else 1.0)
