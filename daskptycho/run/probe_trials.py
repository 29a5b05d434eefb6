"""Sweeps over a part of a scan with several first guesses of the probe, to find the one that fits.

A wrong guess costs a run far more than the seconds that this takes: alternating projections find a defocused
beam from a disc, or from the wrong side of its focus, hardly ever. `first_probe` chooses what is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import dask.base
import dask.config
import numpy as np
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from daskptycho.model.algorithms import AP
from daskptycho.model.amplitudes import Amplitudes, prepare_amplitudes
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import merge, overlap_waves, sweep_tile
from daskptycho.scan.dataset import position_in_pixels, take_used
from daskptycho.tiling import Tile, make_tiling

__all__ = ["BEST", "MORE_SWEEPS", "Part", "Trial", "take_part", "try_probes"]

# Frames of a part, and the pixels that they hold about, in all.
FEWEST, MOST, PIXELS = 36, 100, 2**20
# Frames larger than this are cropped to what holds nearly all counts: object pixels grow, and it takes less
# time. The size of the field of view stays.
LARGE, HELD = 128, 0.995
# Sweeps with every guess, and further ones with the best of them.
SWEEPS, MORE_SWEEPS, BEST = 3, 7, 4


@dataclass(frozen=True)
class Part:
    """Frames in the middle of a scan, on whole pixels.

    Attributes
    ----------
    tile : Tile
    amplitudes : Amplitudes
    counts : float
        Their sum.
    frames : (frame, qy, qx) float64 array
        Counts, without background, zero where pixels are not valid.
    mean : (qy, qx) float64 array
        Mean of frames spread over the whole scan, likewise.
    whole_mean : (qy, qx) float64 array
        The same before the frames were cropped.
    larger : (2,) float64 array
        How many times larger its object pixels are than those of the scan, along [y, x].
    """

    tile: Tile
    amplitudes: Amplitudes
    counts: float
    frames: NDArray[np.float64]
    mean: NDArray[np.float64]
    whole_mean: NDArray[np.float64]
    larger: NDArray[np.float64]

    def arrange(self, *, reverse: bool, exchange: bool) -> Part:
        """The same frames with x reversed, and with y and x exchanged after that, in their positions."""
        corner, window = self.tile.corner.copy(), self.tile.window
        if reverse:
            corner[:, 1] = corner[:, 1].max() - corner[:, 1]
        if exchange:
            corner, window = corner[:, ::-1].copy(), replace(window, height=window.width, width=window.height)
        return replace(self, tile=replace(self.tile, corner=corner, window=window))


def take_part(scan: xr.Dataset) -> Part:
    """Read frames from the middle of a far-field scan, and a few of all others."""
    scan = take_used(scan)
    position, pixels = position_in_pixels(scan), scan.sizes["qy"] * scan.sizes["qx"]
    count = int(np.clip(PIXELS // pixels, FEWEST, MOST))
    middle = (position.max(axis=0) + position.min(axis=0)) / 2
    near = np.sort(np.argsort(np.hypot(*(position - middle).T), kind="stable")[:count])
    spread = np.unique(np.linspace(0, len(position) - 1, min(count, len(position))).astype(int))
    valid = scan["valid"].values if "valid" in scan else np.ones((scan.sizes["qy"], scan.sizes["qx"]), bool)
    background = scan["background"].values if "background" in scan else 0.0

    def read(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        block = scan["intensity"].isel(frame=numbers)
        # The frames are read by this process, also where a cluster is in use.
        with dask.config.set(scheduler="threads"):
            counts = np.asarray(block.values, dtype=np.float64)
        return np.where(valid, np.maximum(counts - background, 0), 0.0)

    frames, whole = read(near), read(spread).mean(axis=0)
    rows, columns = (_crop(whole, axis) for axis in (0, 1))
    mean, frames, valid = whole[rows, columns], frames[:, rows, columns], valid[rows, columns]
    scale = np.array(mean.shape) / whole.shape
    tiling = make_tiling(position[near] * scale, mean.shape, (len(near),), whole_pixel=True)
    amplitudes = prepare_amplitudes(frames.astype(np.float32), valid)
    return Part(tiling.tiles[0], amplitudes, float(frames.sum()), frames, mean, whole, 1 / scale)


def _crop(mean: NDArray[np.float64], axis: int) -> slice:
    """The rows or columns round the zero frequency that hold nearly all counts."""
    size = mean.shape[axis]
    if size <= LARGE:
        return slice(0, size)
    profile = mean.sum(axis=1 - axis)
    half, middle = LARGE // 2, size // 2
    while half < middle and profile[middle - half : middle + half].sum() < HELD * profile.sum():
        half += 8
    return slice(0, size) if half >= middle else slice(middle - half, middle + half)


class Trial(NamedTuple):
    """A guess, and where some sweeps have brought it."""

    number: int
    """Of the guess."""
    probe: NDArray[np.complex64]
    """(1, y, x)"""
    image: NDArray[np.complex64]
    residual: float
    """R2 of the last sweep."""


def try_probes(
    part: Part, probes: Sequence[NDArray[np.complex64]], more: int = MORE_SWEEPS, keep: int = BEST
) -> list[Trial]:
    """Sweep with each of these (y, x) probes, and `more` times with the best `keep`; the best comes first."""
    model = Model((Probe(),))
    (probe_parameter,) = model.shared
    frames = len(part.tile)
    begun = [
        Trial(
            number,
            probe_parameter.begin(probe[None].astype(np.complex64), part.counts, frames),
            np.ones(part.tile.window.shape, dtype=np.complex64),
            np.inf,
        )
        for number, probe in enumerate(probes)
    ]
    found = _sweep_all(part, model, begun, SWEEPS)
    return _sweep_all(part, model, found[:keep], more) + found[keep:]


def _sweep_all(part: Part, model: Model, trials: list[Trial], sweeps: int) -> list[Trial]:
    tasks = [delayed(_sweep, pure=False)(part, model, trial, sweeps) for trial in trials]
    found = dask.base.compute(*tasks, scheduler="threads")
    # What is not finite is the worst.
    return sorted(found, key=lambda trial: (not np.isfinite(trial.residual), trial.residual))


def _sweep(part: Part, model: Model, trial: Trial, sweeps: int) -> Trial:
    (parameter,) = model.shared
    probe, image, residual = trial.probe, trial.image, trial.residual
    for _ in range(sweeps):
        at = TileModel(model, {Probe.name: probe}, {}, frozenset({Probe.name}))
        # The object is found first: an update before that would spoil a good probe.
        first = not np.isfinite(residual)
        if first:
            at = at._replace(due=frozenset())
        swept = sweep_tile(AP(), at, part.tile, part.amplitudes, image, leave="waves")
        residual = swept.misfit / part.counts
        if not first:
            probe = parameter.update(probe, swept.sums[Probe.name])
        after = at._replace(shared={Probe.name: probe})
        left = overlap_waves(part.tile, swept.left.waves, after)
        image = merge(left.image_sum, illuminate_tile(part.tile, after), after, image)
    return trial._replace(probe=probe, image=image, residual=residual)
