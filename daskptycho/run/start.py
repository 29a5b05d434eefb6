"""Where a run begins: a constant object, a given one, or random phases in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.graph import illuminate_tiles, synchronise
from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks
from daskptycho.model.sweep import Leave, TileSweep, overlap_waves, weigh_waves
from daskptycho.sync.options import Synchronisation
from daskptycho.tasks.frames import load_amplitudes
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, place, task
from daskptycho.tasks.state import State, SweepSettings, TileState, model_on_tiles
from daskptycho.tasks.two_level import synchronise_swept
from daskptycho.tiling import Shape

__all__ = ["RandomPhases", "begin_random", "begin_uniform", "place_values"]

Array = Any


def place_values(layout: Layout, first: dict[str, NDArray]) -> tuple[Value, list[Any]]:
    """The parameters of the model where the tiles are: shared ones, and those of each tile's frames.

    Parameters
    ----------
    layout : Layout
    first : dictionary
        Their first values: one array, or one along the frames.
    """
    shared = place({own.name: first[own.name] for own in layout.model.shared})
    shared = task(_move_values, shared, layout.device)
    if not layout.model.per_frame:
        return shared, [{} for _ in layout.tiles]
    own = [
        place(
            {own.name: first[own.name][tile.frames] for own in layout.model.per_frame},
            layout.home(tile.index),
        )
        for tile in layout.tiling.tiles
    ]
    return shared, [task(_move_values, values, layout.device) for values in own]


def _move_values(values: dict[str, Array], device: Device) -> dict[str, Array]:
    return {name: to_device(value, device) for name, value in values.items()}


def _constant(shape: Shape, device: Device) -> Array:
    return to_device(np.ones(shape, dtype=np.complex64), device)


def _cut_image(layout: Any, canvas: Array, index: int) -> Array:
    tiling, device = layout
    image = tiling.cut(canvas, tiling.tiles[index].window).astype(np.complex64, copy=False)
    return to_device(image, device)


def begin_uniform(layout: Layout, shared: Value, own: list[Any], image: NDArray | None) -> State:
    """Begin with a constant object, or with the one given on the canvas.

    Parameters
    ----------
    layout : Layout
    shared, own : Value, list of Value
        From `place_values`.
    image : (y, x) array or None
    """
    tiles = layout.tiling.tiles
    if image is None:
        constant = layout.storing(_constant)
        images = [
            task(constant, tile.window.shape, layout.device, home=layout.home(tile.index)) for tile in tiles
        ]
    else:
        canvas, cut = place(image), layout.storing(_cut_image)
        about = place((layout.tiling, layout.device))
        images = [task(cut, about, canvas, tile.index, home=layout.home(tile.index)) for tile in tiles]
    lit = illuminate_tiles(layout, model_on_tiles(layout, shared, own))
    return State(shared, [TileState(*of_tile) for of_tile in zip(images, lit, own, strict=True)])


@dataclass(frozen=True)
class RandomPhases:
    """Uniform random phases, the same for a frame whatever its tile.

    Attributes
    ----------
    seed : int
    numbers : sequence of (frame,) int arrays
        The frames' own numbers, tile by tile: a frame's random phases follow its number.
    """

    seed: int
    numbers: Sequence[NDArray]


def _random_frames(data: TileData, at: TileModel, numbers: NDArray, seed: int, leave: Leave) -> TileSweep:
    """Frames of uniform random phase and measured amplitude."""
    amplitudes, probe, forward = load_amplitudes(data.amplitudes), at.probe, at.model.forward
    xp = array_module(probe)
    mode_power = (xp.abs(probe) ** 2).sum(axis=(1, 2))
    # The random wave is shared out between the modes as the probe is.
    share = xp.sqrt(forward.scale(probe.shape[-2:]) * mode_power / mode_power.sum()).astype(np.float32)
    waves = xp.empty((len(data.tile), *probe.shape), dtype=np.complex64)
    for frames in frame_blocks(len(data.tile), probe):
        # NumPy's random numbers on a GPU too: the same start wherever a run computes.
        drawn = [
            np.random.default_rng((seed, int(number))).random(probe.shape[-2:], dtype=np.float32)
            for number in numbers[frames]
        ]
        turn = xp.exp(2j * np.pi * xp.asarray(np.stack(drawn)))
        wave = forward.propagate_back((xp.maximum(amplitudes[frames], 0) * turn).astype(np.complex64))
        waves[frames] = wave[:, None] * share[:, None, None]
    weigh = overlap_waves if leave == "overlap sum" else weigh_waves
    return TileSweep(0.0, weigh(data.tile, waves, at), {})


def begin_random(
    layout: Layout, shared: Value, own: list[Any], phases: RandomPhases, how: Synchronisation
) -> tuple[State, Value]:
    """The hard case of the poster: random phases in every frame, synchronised once, overlapped.

    Parameters
    ----------
    layout : Layout
    shared, own : Value, list of Value
        From `place_values`.
    phases : RandomPhases
    how : Synchronisation

    Returns
    -------
    state : State
    report : Value
        Of a `Report`.
    """
    # Nothing has been swept: no misfit yet that phases could be measured against.
    settings = SweepSettings(how=how)
    models = model_on_tiles(layout, shared, own)
    lit = illuminate_tiles(layout, models)
    numbers = [place(number) for number in phases.numbers]
    swept = [
        task(_random_frames, *of_tile, phases.seed, settings.leave)
        for of_tile in zip(layout.tiles, models, numbers, strict=True)
    ]
    if settings.two_level:
        first_level = layout.storing(synchronise_swept)
        given = zip(layout.tiles, swept, lit, models, strict=True)
        swept = [task(first_level, *of_tile, how) for of_tile in given]
    after = State(shared, [TileState(None, *of_tile) for of_tile in zip(lit, own, strict=True)])
    return synchronise(layout, swept, after, settings)
