"""Where a run begins: a constant object, a given one, or random phases in every frame.

`run` calls this module; it builds on `graph` and `phase_graph`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from daskptycho.backend import Device, array_module, to_device
from daskptycho.graph import State, illuminations, images_of, overlap_sums, summarise, synchronised_images
from daskptycho.model.algorithms import Weighted, weigh_tile
from daskptycho.model.operators import Amplitudes, detector_scale, frame_blocks, from_detector
from daskptycho.sync.phases import Normalisation, Sync
from daskptycho.tasks.plan import Plan, StoredAmplitudes, resident
from daskptycho.tasks.spec import Home, place, task
from daskptycho.tiling import Shape, Tile, Window

__all__ = ["random_start", "uniform_start"]

Array = Any


def _constant(shape: Shape, device: Device) -> Array:
    return to_device(np.ones(shape, dtype=np.complex64), device)


def _window_of(canvas: Array, window: Window, origin: Window, period: Shape | None, device: Device) -> Array:
    rows = np.arange(window.height) + window.y - origin.y
    columns = np.arange(window.width) + window.x - origin.x
    if period is not None:
        rows, columns = rows % period[0], columns % period[1]
    return to_device(np.ascontiguousarray(canvas[np.ix_(rows, columns)], dtype=np.complex64), device)


def uniform_start(plan: Plan, probe: Delayed, image: NDArray | None) -> State:
    """A start from a constant object, or from the one given on the canvas."""
    tiling = plan.tiling
    if image is None:
        constant = plan.leaving(_constant)
        images = [
            task(constant, tile.window.shape, plan.device, home=Home(tile.index, len(tiling.tiles)))
            for tile in tiling.tiles
        ]
    else:
        canvas, window_of = place(image), plan.leaving(_window_of)
        images = [
            task(
                window_of,
                canvas,
                tile.window,
                tiling.window,
                tiling.period,
                plan.device,
                home=Home(tile.index, len(tiling.tiles)),
            )
            for tile in tiling.tiles
        ]
    return State(images, illuminations(plan, probe), probe)


def _random_frames(
    tile: Tile, amplitude: Amplitudes | StoredAmplitudes, probe: Array, numbers: NDArray, seed: int
) -> Weighted:
    """Frames of uniform random phase, the same for a frame whatever its tile."""
    xp, amplitude = array_module(probe), resident(amplitude)
    mode_power = (xp.abs(probe) ** 2).sum(axis=(1, 2))
    # The random wave is shared out between the modes as the probe is.
    scale = detector_scale(probe.shape[-2:], amplitude.kernel)
    share = xp.sqrt(scale * mode_power / mode_power.sum()).astype(np.float32)
    waves = xp.empty((len(tile), *probe.shape), dtype=np.complex64)
    for frames in frame_blocks(len(tile), probe):
        # NumPy's random numbers on a GPU too: the same start wherever a run computes.
        drawn = [
            np.random.default_rng((seed, int(number))).random(probe.shape[-2:], dtype=np.float32)
            for number in numbers[frames]
        ]
        turn = xp.exp(2j * np.pi * xp.asarray(np.stack(drawn)))
        wave = from_detector((xp.maximum(amplitude[frames], 0) * turn).astype(np.complex64), amplitude.kernel)
        waves[frames] = wave[:, None] * share[:, None, None]
    return weigh_tile(tile, waves, probe)


def random_start(
    plan: Plan,
    probe: Delayed,
    numbers: Sequence[NDArray],
    seed: int,
    sync: Sync,
    normalisation: Normalisation,
) -> tuple[State, Delayed]:
    """The hard case of the poster: random phases in every frame, synchronised once, overlapped.

    Parameters
    ----------
    plan : Plan
    probe : Delayed
        Of a (mode, N, N) array.
    numbers : sequence of (frame,) int arrays
        The frames' own numbers, tile by tile: a frame's random phases follow its number.
    seed : int
    sync, normalisation : Sync, "frame" or "degree"

    Returns
    -------
    state : State
    report : Delayed
        Of a `Report`.
    """
    lit = illuminations(plan, probe)
    weighted = [
        task(_random_frames, tile, amplitude, probe, place(number), seed)
        for tile, amplitude, number in zip(plan.tiles, plan.amplitudes, numbers, strict=True)
    ]
    if sync.method is None:
        sums = overlap_sums(plan, weighted, [None] * len(weighted))
        return State(images_of(plan, sums, lit, probe), lit, probe), task(summarise, [], None)
    # Nothing has been swept: no misfit yet that phases could be measured against.
    misfits = [place(0.0) for _ in weighted]
    images, _, found = synchronised_images(plan, weighted, lit, probe, sync, normalisation, misfits, 1.0)
    return State(images, lit, probe), task(summarise, [], found)
