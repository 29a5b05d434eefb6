"""The first state of a run: a constant object, a given object, or random phases in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.graph import synchronise
from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks
from daskptycho.model.sweep import Leave, TileSweep, overlap_waves, weigh_waves
from daskptycho.sync.options import Synchronisation
from daskptycho.tasks.frames import load_amplitudes
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, place, task
from daskptycho.tasks.state import State, SweepSettings, TileState, illuminate_tiles, model_on_tiles
from daskptycho.tasks.two_level import synchronise_swept
from daskptycho.tiling import Shape

__all__ = ["RandomPhases", "begin_random", "begin_uniform", "place_values"]

Array = Any


def place_values(layout: Layout, first: dict[str, NDArray]) -> tuple[Value, list[Any]]:
    """Put the first values of the model's parameters on the workers.

    Parameters
    ----------
    layout : Layout
    first : dictionary
        First values by name; those of per-frame parameters have the frames of the scan as first axis.

    Returns
    -------
    shared : Value
        A dictionary of shared values.
    own : list of Value
        For each tile a dictionary of the values of its frames.
    """
    shared = place({parameter.name: first[parameter.name] for parameter in layout.model.shared})
    shared = task(_move_values, shared, layout.device)
    if not layout.model.per_frame:
        return shared, [{} for _ in layout.tiles]
    own = [
        place(
            {parameter.name: first[parameter.name][tile.frames] for parameter in layout.model.per_frame},
            layout.home(tile.index),
        )
        for tile in layout.tiling.tiles
    ]
    at_home = frozenset(parameter.name for parameter in layout.model.parameters if parameter.on_host)
    return shared, [task(_move_values, values, layout.device, at_home) for values in own]


def _move_values(
    values: dict[str, Array], device: Device, at_home: frozenset[str] = frozenset()
) -> dict[str, Array]:
    """Values on a device, except those that stay on the host."""
    return {name: value if name in at_home else to_device(value, device) for name, value in values.items()}


def _constant(shape: Shape, device: Device) -> Array:
    return to_device(np.ones(shape, dtype=np.complex64), device)


def _cut_image(target: Any, canvas: Array, index: int) -> Array:
    tiling, device = target
    image = tiling.cut(canvas, tiling.tiles[index].window).astype(np.complex64, copy=False)
    return to_device(image, device)


def begin_uniform(layout: Layout, shared: Value, own: list[Any], image: NDArray | None) -> State:
    """Begin with a constant object, or with a given one.

    Parameters
    ----------
    layout : Layout
    shared, own : Value, list of Value
        From `place_values`.
    image : (y, x) array or None
        The object on the canvas; ones if None.
    """
    tiles = layout.tiling.tiles
    if image is None:
        constant = layout.storing(_constant)
        images = [
            task(constant, tile.window.shape, layout.device, home=layout.home(tile.index)) for tile in tiles
        ]
    else:
        canvas, cut = place(image), layout.storing(_cut_image)
        target = place((layout.tiling, layout.device))
        images = [task(cut, target, canvas, tile.index, home=layout.home(tile.index)) for tile in tiles]
    illuminations = illuminate_tiles(layout, model_on_tiles(layout, shared, own))
    return State(shared, [TileState(*of_tile) for of_tile in zip(images, illuminations, own, strict=True)])


@dataclass(frozen=True)
class RandomPhases:
    """Parameters of uniform random phases, which do not depend on the tiles.

    Attributes
    ----------
    seed : int
    numbers : sequence of (frame,) int arrays
        For each tile the numbers of its frames in the scan. The random phases of a frame depend on its number
        and the seed only.
    """

    seed: int
    numbers: Sequence[NDArray]


def _random_frames(data: TileData, at: TileModel, numbers: NDArray, seed: int, leave: Leave) -> TileSweep:
    """Frames of uniform random phase and measured amplitude."""
    amplitudes, probe = load_amplitudes(data.amplitudes), at.probe
    xp = array_module(probe)
    mode_power = (xp.abs(probe) ** 2).sum(axis=(1, 2))
    waves = xp.empty((len(data.tile), *probe.shape), dtype=np.complex64)
    for frames in frame_blocks(len(data.tile), probe):
        # NumPy's random numbers, also for a GPU, so that a run has the same start on every device.
        random_numbers = [
            np.random.default_rng((seed, int(number))).random(probe.shape[-2:], dtype=np.float32)
            for number in numbers[frames]
        ]
        phase = xp.exp(2j * np.pi * xp.asarray(np.stack(random_numbers)))
        forward = at.model.forward.at(data.tile.fraction[frames])
        wave = forward.propagate_back((xp.maximum(amplitudes[frames], 0) * phase).astype(np.complex64))
        # The random wave is divided between the modes in proportion to their power.
        share = xp.sqrt(forward.scale(probe.shape[-2:]) * mode_power / mode_power.sum()).astype(np.float32)
        waves[frames] = wave[:, None] * share[:, None, None]
    weigh = overlap_waves if leave == "overlap sum" else weigh_waves
    return TileSweep(0.0, weigh(data.tile, waves, at), {})


def begin_random(
    layout: Layout, shared: Value, own: list[Any], phases: RandomPhases, how: Synchronisation
) -> tuple[State, Value]:
    """Begin with random phases in every frame, synchronised once if `how` says so, and overlapped.

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
        A `Report` with a misfit of zero.
    """
    # There is no misfit yet with which phases could be compared.
    settings = SweepSettings(how=how)
    models = model_on_tiles(layout, shared, own)
    illuminations = illuminate_tiles(layout, models)
    numbers = [place(number) for number in phases.numbers]
    swept = [
        task(_random_frames, *of_tile, phases.seed, settings.leave)
        for of_tile in zip(layout.tiles, models, numbers, strict=True)
    ]
    if settings.two_level:
        first_level = layout.storing(synchronise_swept)
        inputs = zip(layout.tiles, swept, illuminations, models, strict=True)
        swept = [task(first_level, *of_tile, how) for of_tile in inputs]
    after = State(shared, [TileState(None, *of_tile) for of_tile in zip(illuminations, own, strict=True)])
    return synchronise(layout, swept, after, settings)
