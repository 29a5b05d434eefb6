"""The state of a run with more frames: what is known of the image is carried over to its tiles.

A tile that has not changed keeps its image and its frames. A new one begins with the pixels that it shares
with others, and with a constant elsewhere. The probe goes on as it is; momentum and stacks begin anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.run.loop import Loop
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import (
    State,
    TileState,
    illuminate_tiles,
    light_tiles,
    merge_images,
    model_on_tiles,
)
from daskptycho.tiling import Shape, Tiling

__all__ = ["carry_over", "match_tiles"]

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
    images = merge_images(old, state)
    phase = task(
        _find_phase,
        [task(_sum_lit, image, of.illumination) for image, of in zip(images, state.tiles, strict=True)],
    )
    begun = []
    for tile in layout.tiling.tiles:
        if tile.index in same:
            begun.append(images[same[tile.index]])
            continue
        pieces, places = _pieces_under(layout.tiling, old.tiling, tile.index, images)
        begin = layout.storing(_begin_tile)
        begun.append(
            task(
                *(begin, tile.window.shape, layout.device, phase, places, pieces),
                home=layout.home(tile.index),
            )
        )
    illuminations = illuminate_tiles(layout, model_on_tiles(layout, state.shared, own))
    return State(
        state.shared, [TileState(*of_tile) for of_tile in zip(begun, illuminations, own, strict=True)]
    )


def _pieces_under(
    new: Tiling, old: Tiling, index: int, images: list[Value]
) -> tuple[list[Value], list[tuple[Slices, Slices]]]:
    """The earlier images that meet the window of a tile: where their shared pixels are, in each and in it."""
    window = new.tiles[index].window
    shifts = [(0, 0)]
    if new.period is not None:
        shifts = [(y * new.period[0], x * new.period[1]) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    pieces, places = [], []
    for tile, image in zip(old.tiles, images, strict=True):
        for shift in shifts:
            moved = tile.window.shift(*shift)
            shared = moved.intersection(window)
            if shared is not None:
                pieces.append(image)
                places.append((moved.slices_of(shared), window.slices_of(shared)))
    return pieces, places


def _begin_tile(
    shape: Shape, device: Device, phase: complex, places: list[tuple[Slices, Slices]], pieces: list[Array]
) -> Array:
    """The first image of a tile: a constant, and the pixels of earlier images that it shares."""
    image = to_device(np.full(shape, phase, dtype=np.complex64), device)
    for (source, target), piece in zip(places, pieces, strict=True):
        image[target] = piece[source]
    return image


def _sum_lit(image: Array, illumination: Array) -> complex:
    """The sum of an image, weighted by its illumination."""
    xp = array_module(illumination[...])
    return complex(xp.vdot(illumination[...].astype(np.complex64), image[...]))


def _find_phase(sums: list[complex]) -> complex:
    """The mean phase factor of all tiles, for pixels that nothing is known of: the same in every new tile."""
    total = sum(sums)
    return total / abs(total) if total else 1.0
