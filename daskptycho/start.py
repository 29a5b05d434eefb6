"""Where a run begins: a constant object, a given one, or random phases in every frame.

`reconstruct` calls this module; it builds on `graph` and `phase_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from daskptycho.algorithms import TileSweep
from daskptycho.backend import array_module
from daskptycho.geometry import Shape, Tile, Window
from daskptycho.graph import State, illuminations, next_images, report
from daskptycho.operators import inverse_transform, shift_probe, weigh
from daskptycho.phase_graph import phases_of_tiles, synchronise
from daskptycho.plan import Plan
from daskptycho.synchronise import Normalisation, Sync
from daskptycho.tasks import place, task

__all__ = ["random_start", "uniform_start"]

Array = Any


def _window_of(canvas: Array, window: Window, origin: Window, period: Shape | None) -> Array:
    rows = np.arange(window.height) + window.y - origin.y
    columns = np.arange(window.width) + window.x - origin.x
    if period is not None:
        rows, columns = rows % period[0], columns % period[1]
    return np.ascontiguousarray(canvas[np.ix_(rows, columns)], dtype=np.complex64)


def uniform_start(plan: Plan, probe: Delayed, image: NDArray | None) -> State:
    """A start from a constant object, or from the one given on the canvas."""
    tiling = plan.tiling
    if image is None:
        images = [task(np.ones, tile.window.shape, np.complex64) for tile in tiling.tiles]
    else:
        canvas = place(image)
        images = [
            task(_window_of, canvas, tile.window, tiling.window, tiling.period) for tile in tiling.tiles
        ]
    return State(images, illuminations(plan, probe), probe)


def _random_frames(tile: Tile, amplitude: Array, probe: Array, numbers: NDArray, seed: int) -> TileSweep:
    """Frames of uniform random phase, the same for a frame whatever its tile."""
    xp = array_module(amplitude)
    phase = np.empty(amplitude.shape, dtype=np.float32)
    for own, number in zip(phase, numbers, strict=True):
        own[:] = np.random.default_rng((seed, int(number))).random(own.shape, dtype=np.float32)
    weighted = xp.empty(amplitude.shape, dtype=np.complex64)
    power = xp.empty(len(tile), dtype=np.float64)
    for f in range(len(tile)):
        spectrum = xp.maximum(amplitude[f], 0) * xp.exp(2j * np.pi * xp.asarray(phase[f]))
        wave = inverse_transform(spectrum.astype(np.complex64)[None, None])
        # The random wave is shared out between the modes as the probe is.
        share = xp.sqrt((xp.abs(probe) ** 2).sum(axis=(1, 2)) / (xp.abs(probe) ** 2).sum())
        waves = (wave * share[None, :, None, None]).astype(np.complex64)
        block, power[f : f + 1] = weigh(waves, shift_probe(probe, tile.fraction[f : f + 1]))
        weighted[f] = block[0]
    return TileSweep(0.0, power, weighted, None, None, None)


def random_start(
    plan: Plan,
    probe: Delayed,
    numbers: Sequence[NDArray],
    seed: int,
    sync: Sync,
    normalisation: Normalisation,
) -> tuple[State, Delayed]:
    """The hard case of the poster: random phases in every frame, synchronised once, overlapped."""
    lit = illuminations(plan, probe)
    swept = [
        task(_random_frames, tile, amplitude, probe, place(number), seed)
        for tile, amplitude, number in zip(plan.tiles, plan.amplitudes, numbers, strict=True)
    ]
    synced = synchronise(plan, swept, lit, sync, normalisation) if sync.method else None
    images = next_images(plan, swept, phases_of_tiles(plan, synced), lit)
    return State(images, lit, probe), report(swept, synced)
