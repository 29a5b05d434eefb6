"""One sweep over one tile, a pure function: split, data projection, and what the frames leave.

A sweep takes the tile's image and leaves its frames weighted by the probe, or their overlap sum. Sums over
tiles divided by the illumination make the next image, which is the caller's part (`merge`).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from daskptycho.backend import array_module
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.amplitudes import take_amplitudes
from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks, illuminate, project_data, split, unsplit, weigh
from daskptycho.model.parameter import Sums, View
from daskptycho.tiling import Tile

__all__ = [
    "Leave",
    "OverlapSum",
    "Stack",
    "TileSweep",
    "Waves",
    "Weighted",
    "illuminate_tile",
    "merge",
    "overlap_waves",
    "sweep_tile",
    "weigh_waves",
]

Array = Any
Leave = Literal["overlap sum", "weighted frames", "waves", "sums only"]


class Weighted(NamedTuple):
    """The weighted frames of a tile."""

    frames: Array
    """(frame, N, N) u_i."""
    power: Array
    """(frame,) |z_i|^2."""


class OverlapSum(NamedTuple):
    """The overlap sum of a tile's weighted frames."""

    image_sum: Array
    """(y, x) ``sum_i omega_i u_i(r - x_i)`` on the tile's window."""
    phase: Array | None = None
    """(frame,) omega, by which the frames were turned; None for ones."""


class Waves(NamedTuple):
    """Waves that wait for a parameter of the model before they are weighed."""

    waves: Array
    """(frame, mode, N, N)"""


class Stack(NamedTuple):
    """The waves that an algorithm carries from sweep to sweep."""

    waves: Array
    """(frame, mode, N, N)"""
    phase: Array | None = None
    """(frame,) phases found by the last synchronisation, which the waves have not seen; None for ones."""


class TileSweep(NamedTuple):
    """What one sweep over one tile leaves. A tuple, so that Dask sees how large it is."""

    misfit: float
    """sum (|Fz| - a)^2 over the tile's valid pixels."""
    left: Any
    """`OverlapSum`, `Weighted`, `Waves`, a synchronised tile (`sync.two_level.TileSum`), or None."""
    sums: dict[str, Sums]
    """Of the parameters that are updated, by name."""
    carried: Array | None = None
    """(frame, mode, N, N) the next stack, for algorithms that have one."""
    image: Array | None = None
    """(y, x) the object that the sweep began with, before momentum, where the next sweep needs it."""

    def with_images(self, convert: Any) -> TileSweep:
        """The same with each (y, x) array converted."""
        left, image = self.left, self.image
        return self._replace(
            left=left._replace(image_sum=convert(left.image_sum)) if hasattr(left, "image_sum") else left,
            image=None if image is None else convert(image),
        )


class _Gathering:
    """Takes frames block by block; `left` is what a sweep leaves of them."""

    def __init__(self, leave: Leave, tile: Tile, probe: Array) -> None:
        xp, frame_shape = array_module(probe), probe.shape[-2:]
        self.left: OverlapSum | Weighted | Waves | None = None
        if leave == "overlap sum":
            self.left = OverlapSum(xp.zeros(tile.window.shape, dtype=np.complex64))
        elif leave == "weighted frames":
            self.left = Weighted(
                xp.empty((len(tile), *frame_shape), dtype=np.complex64),
                xp.empty(len(tile), dtype=np.float64),
            )
        elif leave == "waves":
            self.left = Waves(xp.empty((len(tile), *probe.shape), dtype=np.complex64))

    def take(self, frames: slice, waves: Array, view: View) -> None:
        if isinstance(self.left, OverlapSum):
            unsplit(waves, view.probe, view.corner, self.left.image_sum)
        elif isinstance(self.left, Weighted):
            weigh(waves, view.probe, out=(self.left.frames[frames], self.left.power[frames]))
        elif isinstance(self.left, Waves):
            self.left.waves[frames] = waves


class _Room:
    """The same memory for all blocks of frames.

    Fresh pages cost as much as the arithmetic where an allocator gives them back at once, as Dask has it do
    on its workers.
    """

    def __init__(self, frames: int, probe: Array, *, apart: bool) -> None:
        xp = array_module(probe)
        self._waves = xp.empty((frames, *probe.shape), dtype=np.complex64)
        self._projected = xp.empty_like(self._waves) if apart else None
        self._amplitude = xp.empty((frames, *probe.shape[-2:]), dtype=np.float32)

    def waves(self, count: int) -> Array:
        return self._waves[:count]

    def projected(self, count: int, z: Array) -> Array:
        """Where z is projected: over itself, unless the model's waves are needed afterwards."""
        return z if self._projected is None else self._projected[:count]

    def amplitude(self, count: int) -> Array:
        return self._amplitude[:count]


def sweep_tile(
    algorithm: Algorithm,
    at: TileModel,
    tile: Tile,
    amplitude: Array,
    image: Array,
    *,
    stack: Stack | None = None,
    leave: Leave = "overlap sum",
    following: TileModel | None = None,
) -> TileSweep:
    """One sweep over the frames of a tile: split, data projection, weighted frames.

    Parameters
    ----------
    algorithm : Algorithm
    at : TileModel
        The model, with the values of its parameters and those that are due: their sums are taken.
    tile : Tile
    amplitude : Amplitudes or (frame, N, N) float32 array
        From `amplitudes.prepare_amplitudes`.
    image : (y, x) complex64 array
        The object on the tile's window.
    stack : Stack, optional
        From the sweep before; absent in the first.
    leave : "overlap sum", "weighted frames", "waves" or "sums only"
        What of the frames: their overlap sum; weighted frames, for a synchronisation; waves, which
        `weigh_waves` or `overlap_waves` weigh once parameters are updated (object and probe fitted to the
        same frames at once, rather than one after the other, would take twice the correction that the data
        ask for); or nothing.
    following : TileModel, optional
        The frames are swept with `at` and weighed with this.
    """
    xp, probe = array_module(image), at.probe
    carried = xp.empty((len(tile), *probe.shape), dtype=np.complex64) if algorithm.has_stack else None
    summed = [own for own in at.model.parameters if own.name in at.due]
    sums = {own.name: own.new_sums(at.value(own)) for own in summed}
    gathering = _Gathering(leave, tile, probe)
    blocks = list(frame_blocks(len(tile), probe))
    needs_waves = bool(summed) or getattr(algorithm, "needs_waves", True)
    room = _Room(max(own.stop - own.start for own in blocks), probe, apart=needs_waves)
    misfit: Any = 0.0
    for frames in blocks:
        count = frames.stop - frames.start
        view = at.view(tile, frames)
        waves = split(image, view.probe, view.corner, out=room.waves(count))
        own_stack = None if stack is None else _turned(stack, frames)
        z = algorithm.before(waves, own_stack)
        measured = take_amplitudes(amplitude, frames, room.amplitude(count))
        projected, block_misfit = project_data(
            z, measured, at.model.forward, at.model.likelihood, out=room.projected(count, z)
        )
        misfit += block_misfit
        to_overlap, block_stack = algorithm.after(waves, z, projected, own_stack)
        if carried is not None:
            carried[frames] = block_stack
        if summed:
            # Nobody needs the model's waves any more: the change is written over them.
            change = xp.subtract(projected, waves, out=waves)
            for own in summed:
                own.accumulate(sums[own.name], frames, image, change, view)
        gathering.take(frames, to_overlap, view if following is None else following.view(tile, frames))
    # Read from a GPU once a sweep: each reading waits for all that was asked of it before.
    return TileSweep(float(misfit), gathering.left, sums, carried)


def _turned(stack: Stack, frames: slice) -> Array:
    waves = stack.waves[frames]
    return waves if stack.phase is None else waves * stack.phase[frames, None, None, None]


def weigh_waves(tile: Tile, waves: Array, at: TileModel) -> Weighted:
    """Weighted frames of a tile from its waves, (frame, mode, N, N)."""
    left = _gather(tile, waves, at, "weighted frames")
    assert isinstance(left, Weighted)
    return left


def overlap_waves(tile: Tile, waves: Array, at: TileModel) -> OverlapSum:
    """The overlap sum of `weigh_waves` without keeping the weighted frames."""
    left = _gather(tile, waves, at, "overlap sum")
    assert isinstance(left, OverlapSum)
    return left


def _gather(tile: Tile, waves: Array, at: TileModel, leave: Leave) -> OverlapSum | Weighted | Waves | None:
    gathering = _Gathering(leave, tile, at.probe)
    for frames in frame_blocks(len(tile), at.probe):
        gathering.take(frames, waves[frames], at.view(tile, frames))
    return gathering.left


def illuminate_tile(tile: Tile, at: TileModel) -> Array:
    """Illumination of a tile's own frames on its window, (y, x) float32."""
    out = None
    # Each frame at a fraction of a pixel has its own copy of the probe: not all at once.
    for frames in frame_blocks(len(tile), at.probe):
        view = at.view(tile, frames)
        out = illuminate(view.probe, view.corner, tile.window.shape, out)
    return out


def merge(image_sum: Array, illumination: Array, at: TileModel) -> Array:
    """The image ``psi = sum_i u_i / N``, zero where nothing shone.

    `illumination` is N, summed over all tiles.
    """
    return image_sum * at.inverse_illumination(illumination)
