"""One sweep over one tile, as a pure function: split, data projection, weighted frames or their overlap sum.

A sweep starts from the tile's image. It returns the tile's frames weighted by the probe, or their overlap
sum. The overlap sums of all tiles, added and divided by the illumination, give the next image; the caller
does that.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from daskptycho.backend import array_module, kernels, to_host
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.amplitudes import take_amplitudes
from daskptycho.model.light import LIGHT, Light
from daskptycho.model.model import TileModel
from daskptycho.model.operators import (
    brightest,
    frame_blocks,
    illuminate,
    measure_misfits,
    project_data,
    split,
    unsplit,
    weigh,
)
from daskptycho.model.parameter import Sums, View
from daskptycho.tiling import Tile

__all__ = [
    "FrameMeasures",
    "Leave",
    "OverlapSum",
    "Stack",
    "TileSweep",
    "Waves",
    "Weighted",
    "measure_tile",
    "merge",
    "overlap_waves",
    "sweep_tile",
    "weigh_waves",
]

Array = Any
Leave = Literal["overlap sum", "overlap sum and turns", "weighted frames", "waves", "sums only"]


class Weighted(NamedTuple):
    """The weighted frames of a tile."""

    frames: Array
    """(frame, N, N) complex64 u_i."""
    power: Array
    """(frame,) float64 |z_i|^2."""


class OverlapSum(NamedTuple):
    """The overlap sum of a tile's weighted frames."""

    image_sum: Array
    """(y, x) complex64 ``sum_i omega_i u_i(r - x_i)`` on the tile's window."""
    phase: Array | None = None
    """(frame,) complex64 omega_i, the phase applied to each frame; None stands for ones."""
    turn: Array | None = None
    """(frame,) float64 ``Im <psi, u_i>``, psi what the sweep began with; None if it was not measured."""

    def with_images(self, convert: Any) -> OverlapSum:
        """The same with `convert` applied to the (y, x) array."""
        return self._replace(image_sum=convert(self.image_sum))


class Waves(NamedTuple):
    """Waves of a tile that are weighed later, once the parameters of the model are updated."""

    waves: Array
    """(frame, mode, N, N) complex64"""


class Stack(NamedTuple):
    """The waves that an algorithm carries from sweep to sweep."""

    waves: Array
    """(frame, mode, N, N) complex64"""
    phase: Array | None = None
    """(frame,) complex64 phases of the last synchronisation, not yet applied to the waves; None for ones."""


class TileSweep(NamedTuple):
    """The results of one sweep over one tile. It is a tuple so that Dask can measure its size."""

    misfit: float
    """``sum (|Fz| - a)^2`` over the tile's valid pixels."""
    left: Any
    """`OverlapSum`, `Weighted`, `Waves`, a synchronised tile (`sync.two_level.TileSum`), or None."""
    sums: dict[str, Sums]
    """Sums for the update of each parameter that is due, by name, and `Light` if it is."""
    carried: Array | None = None
    """(frame, mode, N, N) complex64 next stack, for an algorithm that has one."""
    start: Array | None = None
    """(y, x) complex64 object that the sweep began with, momentum included, for the merge."""
    image: Array | None = None
    """(y, x) complex64 the same before momentum, if a later sweep needs it."""
    unturned: Array | None = None
    """(y, x) complex64 sums that no phase multiplies: with smoothing, the differences of neighbours; with
    L-BFGS, if the sweep synchronised, the overlap sum without phases."""
    smoothing: float = 0.0
    """See `merge`."""
    moved: tuple[float, float] = (0.0, 0.0)
    """What the sweep before changed of the object, and the object: sums of ``N |.|^2`` over the tile's share
    of its pixels. Zeros if they were not measured."""
    objective: float | None = None
    """What the likelihood makes small, where that is not the misfit."""

    def with_images(self, convert: Any) -> TileSweep:
        """The same sweep with `convert` applied to each (y, x) array."""
        left, start, image, unturned = self.left, self.start, self.image, self.unturned
        converted = None if start is None else convert(start)
        sums = {
            name: of_one.with_images(convert) if hasattr(of_one, "with_images") else of_one
            for name, of_one in self.sums.items()
        }
        return self._replace(
            sums=sums,
            left=left.with_images(convert) if hasattr(left, "with_images") else left,
            start=converted,
            # Without momentum both are the same array, which is kept once.
            image=None if image is None else converted if image is start else convert(image),
            unturned=None if unturned is None else convert(unturned),
        )


class _FrameCollector:
    """Collects the waves of a sweep block by block in `left`, in the form that `leave` asks for."""

    def __init__(self, leave: Leave, tile: Tile, probe: Array, image: Array | None = None) -> None:
        xp, frame_shape = array_module(probe), probe.shape[-2:]
        self.left: OverlapSum | Weighted | Waves | None = None
        self._image, self._lent = image, None
        if leave in ("overlap sum", "overlap sum and turns"):
            turn = None if leave == "overlap sum" else xp.empty(len(tile), dtype=np.float64)
            self.left = OverlapSum(xp.zeros(tile.window.shape, dtype=np.complex64), turn=turn)
        elif leave == "weighted frames":
            self.left = Weighted(
                xp.empty((len(tile), *frame_shape), dtype=np.complex64),
                xp.empty(len(tile), dtype=np.float64),
            )
        elif leave == "waves":
            self.left = Waves(xp.empty((len(tile), *probe.shape), dtype=np.complex64))

    def lend(self, frames: slice) -> Array | None:
        """Where the waves of some frames will be left, for them to be computed there; None if nowhere."""
        self._lent = self.left.waves[frames] if isinstance(self.left, Waves) else None
        return self._lent

    def add(self, frames: slice, waves: Array, view: View, own: Array | None = None) -> None:
        if isinstance(self.left, OverlapSum):
            unsplit(waves, view.probe, view.corner, self.left.image_sum)
            if self.left.turn is not None:
                own = split(self._image, view.probe, view.corner) if own is None else own
                kernels(waves).measure_turns(own, waves, self.left.turn[frames])
        elif isinstance(self.left, Weighted):
            weigh(waves, view.probe, out=(self.left.frames[frames], self.left.power[frames]))
        elif isinstance(self.left, Waves) and waves is not self._lent:
            self.left.waves[frames] = waves


class _Buffers:
    """Memory that all blocks of frames use in turn.

    Fresh memory would take as long as the arithmetic on Dask's workers, whose allocator returns memory to the
    system as soon as it is freed.
    """

    def __init__(self, frames: int, probe: Array, *, apart: bool) -> None:
        xp = array_module(probe)
        self._waves = xp.empty((frames, *probe.shape), dtype=np.complex64)
        self._projected = xp.empty_like(self._waves) if apart else None
        self._amplitude = xp.empty((frames, *probe.shape[-2:]), dtype=np.float32)

    def waves(self, count: int) -> Array:
        return self._waves[:count]

    def projected(self, count: int, z: Array) -> Array:
        """Memory for the projection of z: z itself, unless the model's waves are needed afterwards."""
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
    """Sweep once over the frames of a tile: split, data projection, weighted frames.

    Parameters
    ----------
    algorithm : Algorithm
    at : TileModel
        The model with its values on the tile. Sums are computed for the parameters in `at.due`, and the light
        if that has `LIGHT`: frames at fractional positions have their probes at hand in a sweep.
    tile : Tile
    amplitude : Amplitudes or (frame, N, N) float32 array
        From `amplitudes.prepare_amplitudes`.
    image : (y, x) complex64 array
        The object on the tile's window.
    stack : Stack, optional
        From the sweep before; None in the first sweep.
    leave : "overlap sum", "overlap sum and turns", "weighted frames", "waves" or "sums only"
        The form in which the frames are returned: "overlap sum", with their turns for a synchronisation on a
        coarse grid; "weighted frames", for any other synchronisation;
        "waves", which `weigh_waves` or `overlap_waves` weigh once the parameters are updated; or not at all.
        Object and parameters are updated one after the other: fitted to the same frames at the same time,
        together they would apply twice the correction that the data ask for.
    following : TileModel, optional
        The model to weigh the frames with; `at` by default.

    Returns
    -------
    TileSweep
        Its ``start`` and ``image`` are None.
    """
    xp, probe = array_module(image), at.probe
    carried = xp.empty((len(tile), *probe.shape), dtype=np.complex64) if algorithm.has_stack else None
    summed = [parameter for parameter in at.model.parameters if parameter.name in at.due]
    sums = {parameter.name: parameter.new_sums(at.value(parameter), image) for parameter in summed}
    likelihood = at.likelihood
    for parameter in summed:
        likelihood = parameter.watch(at.value(parameter), likelihood, at.model.forward, sums[parameter.name])
    collector = _FrameCollector(leave, tile, probe, image)
    blocks = list(frame_blocks(len(tile), probe))
    compared = [parameter for parameter in summed if not parameter.takes_projection]
    apart = bool(compared) or getattr(algorithm, "needs_waves", True)
    buffers = _Buffers(max(block.stop - block.start for block in blocks), probe, apart=apart)
    misfit: Any = 0.0
    light: Array | None = None
    weighing = None if following is None else following.place(tile)
    at, tile = at.place(tile)
    for frames in blocks:
        count = frames.stop - frames.start
        view = at.view(tile, frames)
        if LIGHT in at.due:
            light = illuminate(view.probe, view.corner, tile.window.shape, light)
        lent = None if apart else collector.lend(frames)
        waves = split(image, view.probe, view.corner, out=buffers.waves(count) if lent is None else lent)
        old_stack = None if stack is None else _apply_phases(stack, frames)
        z = algorithm.before(waves, old_stack)
        measured = take_amplitudes(amplitude, frames, buffers.amplitude(count))
        forward, out = at.model.forward.at(view.fraction), buffers.projected(count, z)
        projected, block_misfit = project_data(z, measured, forward, likelihood, out=out)
        misfit += block_misfit
        to_overlap, new_stack = algorithm.after(waves, z, projected, old_stack)
        if carried is not None:
            carried[frames] = new_stack
        weighed = view if weighing is None else weighing[0].view(weighing[1], frames)
        collector.add(frames, to_overlap, weighed, waves if apart and weighing is None else None)
        for parameter in summed:
            if parameter.takes_projection:
                parameter.accumulate(sums[parameter.name], frames, image, projected, view)
        if compared:
            # What changes between sweeps follows the coming image. Reflections overlap other waves than p.
            coming = xp.subtract(to_overlap, waves) if to_overlap is not projected else None
            # The model's waves are not needed any more: the change is written over them.
            change = xp.subtract(projected, waves, out=waves)
            for parameter in compared:
                asked = coming if parameter.between_sweeps and coming is not None else change
                parameter.accumulate(sums[parameter.name], frames, image, asked, view)
    # The misfit is read from a GPU once a sweep, since reading waits for all work that the GPU has queued.
    found = np.atleast_1d(to_host(misfit))
    objective = float(found[1]) if len(found) > 1 else None
    if light is not None:
        sums[LIGHT] = Light(light)
    return TileSweep(float(found[0]), collector.left, sums, carried, objective=objective)


def _apply_phases(stack: Stack, frames: slice) -> Array:
    waves = stack.waves[frames]
    return waves if stack.phase is None else waves * stack.phase[frames, None, None, None]


def weigh_waves(tile: Tile, waves: Array, at: TileModel) -> Weighted:
    """Weigh the (frame, mode, N, N) waves of a tile by the probe."""
    left = _collect_frames(tile, waves, at, "weighted frames")
    assert isinstance(left, Weighted)
    return left


def overlap_waves(tile: Tile, waves: Array, at: TileModel, image: Array | None = None) -> OverlapSum:
    """The overlap sum of the frames of `weigh_waves`; their turns too, if an image is given."""
    leave: Leave = "overlap sum" if image is None else "overlap sum and turns"
    left = _collect_frames(tile, waves, at, leave, image)
    assert isinstance(left, OverlapSum)
    return left


def _collect_frames(
    tile: Tile, waves: Array, at: TileModel, leave: Leave, image: Array | None = None
) -> OverlapSum | Weighted | Waves | None:
    collector = _FrameCollector(leave, tile, at.probe, image)
    at, tile = at.place(tile)
    for frames in frame_blocks(len(tile), at.probe):
        collector.add(frames, waves[frames], at.view(tile, frames))
    return collector.left


class FrameMeasures(NamedTuple):
    """How well each frame of a tile fits, and how far others confirm it; arrays on the host."""

    residual: Any
    """(frame,) float64 R2 of each frame, ``sum (|Fz| - a)^2 / sum a^2`` over its valid pixels. It is zero
    where there are no counts and none are expected, infinite where some are."""
    overlap: Any
    """(frame,) float64 share of a frame's light on pixels that other frames light too:
    ``1 - sum (|P_i|^2)^2 / N / sum |P_i|^2``. It is zero for a frame that overlaps no other."""


def measure_tile(
    at: TileModel, tile: Tile, amplitude: Array, image: Array, illumination: Array
) -> FrameMeasures:
    """Measure each frame of a tile.

    Parameters
    ----------
    at : TileModel
    tile : Tile
    amplitude : Amplitudes or (frame, N, N) float32 array
    image : (y, x) complex64 array
        The object on the tile's window.
    illumination : (y, x) float32 array
        N on the tile's window, summed over all tiles.
    """
    xp, (height, width) = array_module(image), at.probe.shape[-2:]
    found = np.zeros((len(tile), 4))
    for frames in frame_blocks(len(tile), at.probe):
        view = at.view(tile, frames)
        waves, measured = split(image, view.probe, view.corner), amplitude[frames]
        of_frames = measure_misfits(waves, measured, at.model.forward.at(view.fraction), at.likelihood)
        power = (xp.abs(view.probe) ** 2).sum(axis=1)
        rows = []
        for number, (y, x) in enumerate(to_host(view.corner).tolist()):
            light = power[number if len(power) > 1 else 0]
            around = xp.maximum(illumination[y : y + height, x : x + width], light)
            own = light**2 / xp.maximum(around, np.finfo(np.float32).tiny)
            counts = (xp.maximum(measured[number], 0) ** 2).sum(dtype=np.float64)
            sums = (of_frames[number], counts, own.sum(dtype=np.float64), light.sum(dtype=np.float64))
            rows.append(xp.stack([xp.asarray(value, dtype=np.float64) for value in sums]))
        # Read from a GPU once a block, since reading waits.
        found[frames] = to_host(xp.stack(rows))
    misfits, counts, alone, light = found.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameMeasures(np.where(misfits > 0, misfits / counts, 0.0), 1 - alone / light)


def merge(
    image_sum: Array,
    illumination: Array,
    at: TileModel,
    start: Array | None = None,
    smoothing: float = 0.0,
) -> Array:
    """The image ``psi = (sum_i u_i + e y) / (N + e)``, (y, x) complex64, with the damping e of the model.

    In the light this is the average ``sum_i u_i / N`` of the frames. A pixel that hardly any light falls on
    stays near to what it was, since setting it to zero would contradict the frames that see it.

    Parameters
    ----------
    image_sum : (y, x) complex64 array
        ``sum_i u_i`` over the frames of all tiles. It is overwritten with the image.
    illumination : (y, x) float32 array
        N, summed over all tiles.
    at : TileModel
    start : (y, x) complex64 array, optional
        y, the image that the sweep began with. Without one there is no damping, and the image is zero where
        there is too little light.
    smoothing : float
        Weight of the penalty on differences of neighbouring pixels, relative to the probe's brightest pixel.
        Their sum, from `operators.neighbour_differences`, has been added to `image_sum`.
    """
    if start is None:
        image_sum *= at.inverse_illumination(illumination)
        return image_sum
    damping = at.damping
    if smoothing:
        damping = damping + np.float32(4 * smoothing) * brightest(at.probe)
    image_sum += damping * start
    image_sum *= 1 / (illumination + damping)
    return image_sum
