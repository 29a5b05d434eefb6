"""A scan's frames, their Gramian and its phases as dask arrays, lazy and composable.

`amplitudes`, `weighted_frames`, `gramian`, `power_iteration` and `phases` lead from a scan to the phases of
its frames, one chunk a tile, or for H one chunk an overlapping pair of tiles. They put eager functions of
`model` and `sync` over blocks; ``Sync("full")`` runs on the same `Gramian` and the same `find_phases`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from daskptycho.backend import Device, array_module, to_device
from daskptycho.errors import OptionError
from daskptycho.model.amplitudes import Amplitudes, Detector
from daskptycho.model.forward import choose_forward
from daskptycho.model.model import TileModel, choose_model, move_tile
from daskptycho.model.operators import frame_blocks, project_data, split, weigh
from daskptycho.model.sweep import illuminate_tile
from daskptycho.scan.dataset import fresnel_kernel, tile_chunks
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.eigensolvers import Eigenpair, PowerIterate
from daskptycho.sync.gramian import GramianBlock, gramian_blocks
from daskptycho.sync.options import Sync
from daskptycho.sync.phases import Phases
from daskptycho.tasks.blockwise import (
    Gramian,
    Ground,
    each,
    find_phases,
    gramian_of_blocks,
    item,
    iterate,
    map_objects,
    spread,
    with_one,
)
from daskptycho.tiling import Tile, Tiling, Window

__all__ = ["Gramian", "amplitudes", "gramian", "phases", "power_iteration", "weighted_frames"]

Array = Any
DaskArray = Any
"""``dask.array.Array``, with query planning or without."""


def _empty(device: Device, dimensions: int, dtype: Any) -> Array:
    """The meta of an array on a device."""
    return to_device(np.empty((0,) * dimensions, dtype=dtype), device)


# Frames


class _TileOfScan(NamedTuple):
    """What the frames of a tile need beside their counts."""

    tile: Tile
    own: dict[str, Array]
    image: Array | None = None


class _Setting(NamedTuple):
    """A scan's tiles and model, on the client."""

    tiling: Tiling
    model: TileModel
    """With the values of all frames as its own."""

    def on(self, frames: Any) -> dict[str, Array]:
        """The values of some frames."""
        return {name: value[frames] for name, value in self.model.own.items()}


def _set_up(scan: xr.Dataset, probe: ArrayLike | None, subpixel: bool) -> _Setting:
    tiling = lay_out_tiles(scan, whole_pixel=not subpixel)
    fractional = not all(tile.is_whole_pixel for tile in tiling.tiles)
    forward = choose_forward(fresnel_kernel(scan.attrs, tiling.frame_shape))
    options = {"probe": probe, "update_probe": False, "fractional": fractional}
    model, first = choose_model(scan, options, forward)
    shared = {own.name: first[own.name] for own in model.shared}
    return _Setting(tiling, TileModel(model, shared, {own.name: first[own.name] for own in model.per_frame}))


def amplitudes(scan: xr.Dataset, *, device: Device = "cpu") -> DaskArray:
    """Measured amplitudes of a scan, lazily.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    device : "cpu" or "gpu"
        Whether the chunks are NumPy's or CuPy's.

    Returns
    -------
    (frame, qy, qx) float32 dask array
        A chunk a tile. The square roots of the counts, background subtracted; in the far field the zero
        frequency in the corner; -1 where a pixel is not valid.

    Examples
    --------
    >>> a = dp.amplitudes(scan)
    >>> power = da.maximum(a, 0) ** 2  # counts of the valid pixels
    """
    shape = (scan.sizes["qy"], scan.sizes["qx"])
    valid, background = (scan[name].values if name in scan else None for name in ("valid", "background"))
    detector = Detector(valid, background, choose_forward(fresnel_kernel(scan.attrs, shape)), device)
    counts = scan["intensity"].data
    if not hasattr(counts, "__dask_graph__"):
        counts = da.from_array(counts, chunks=(tile_chunks(scan), *shape))
    return da.map_blocks(
        _amplitudes,
        # A tile is all of its frames' detector pixels, however the scan was chunked.
        counts.rechunk({1: -1, 2: -1}),
        each([detector]),
        dtype=np.dtype(np.float32),
        meta=_empty(device, 3, np.float32),
    )


def _amplitudes(counts: Array, detector: Any) -> Array:
    prepared: Amplitudes = item(detector).prepare(counts)
    return prepared[slice(None)]


def weighted_frames(
    scan: xr.Dataset,
    image: ArrayLike | None = None,
    *,
    probe: ArrayLike | None = None,
    amplitudes: DaskArray | None = None,
    subpixel: bool = True,
    device: Device = "cpu",
) -> DaskArray:
    """The weighted frames ``u_i = conj(P_i) . p_i`` of a scan, lazily.

    ``p_i`` is the data projection of the exit wave ``P_i . psi[x_i + r]``; several probe modes are summed.

    Parameters
    ----------
    scan : xarray.Dataset
    image : (y, x) array, optional
        The object psi on the scan's canvas, as in a result; ones unless given.
    probe : (y, x) or (mode, y, x) array, optional
        In place of the scan's.
    amplitudes : dask array, optional
        As from `amplitudes`, whose chunks are the tiles; those of the scan unless given.
    subpixel : bool
        Carry the fractions of the positions by shifting the probe; otherwise round them.
    device : "cpu" or "gpu"

    Returns
    -------
    (frame, y, x) complex64 dask array
        A chunk a tile.

    Raises
    ------
    OptionError
        An image that is not of the canvas's shape, or amplitudes in other chunks than the scan's tiles.
    """
    setting = _set_up(scan, probe, subpixel)
    tiling, canvas = setting.tiling, None if image is None else np.asarray(image, dtype=np.complex64)
    if canvas is not None and canvas.shape != tiling.window.shape:
        raise OptionError(f"image has shape {canvas.shape}; expected the canvas's, {tiling.window.shape}")
    measured = _amplitudes_of(scan, device=device) if amplitudes is None else amplitudes
    if measured.chunks[0] != tuple(len(tile) for tile in tiling.tiles):
        raise OptionError(f"amplitudes has chunks {measured.chunks[0]}; expected the tiles of the scan")
    tiles = [
        _TileOfScan(
            tile, setting.on(tile.frames), None if canvas is None else tiling.cut(canvas, tile.window)
        )
        for tile in tiling.tiles
    ]
    return da.map_blocks(
        _weighted_frames,
        *(measured, each(tiles), each([setting.model._replace(own={})])),
        device=device,
        dtype=np.dtype(np.complex64),
        meta=_empty(device, 3, np.complex64),
    )


_amplitudes_of = amplitudes


def _weighted_frames(amplitude: Array, tile: Any, model: Any, device: Device) -> Array:
    given: _TileOfScan = item(tile)
    at, xp = _move_tile_model(item(model), given.own, device), array_module(amplitude)
    tile_here = move_tile(given.tile, device)
    image = xp.ones(tile_here.window.shape, dtype=np.complex64)
    if given.image is not None:
        image = to_device(given.image, device)
    weighted = xp.empty(amplitude.shape, dtype=np.complex64)
    power = xp.empty(len(amplitude), dtype=np.float64)
    for frames in frame_blocks(len(amplitude), at.probe):
        view = at.view(tile_here, frames)
        waves = split(image, view.probe, view.corner)
        projected, _ = project_data(waves, amplitude[frames], at.model.forward, at.model.likelihood)
        weigh(projected, view.probe, out=(weighted[frames], power[frames]))
    return weighted


def _move_tile_model(model: TileModel, own: dict[str, Array], device: Device) -> TileModel:
    """The model with its arrays on a device."""
    return TileModel(
        model.model.to(device),
        {name: to_device(value, device) for name, value in model.shared.items()},
        {name: to_device(value, device) for name, value in own.items()},
    )


# The Gramian


def gramian(
    scan: xr.Dataset,
    frames: DaskArray,
    *,
    probe: ArrayLike | None = None,
    subpixel: bool = True,
    device: Device = "cpu",
) -> Gramian:
    """The Gramian of a scan's weighted frames, lazily.

    After Marchesini et al., Inverse Problems 29, 115009 (2013).

    Parameters
    ----------
    scan : xarray.Dataset
    frames : (frame, y, x) complex64 dask array
        From `weighted_frames`, a chunk a tile.
    probe, subpixel, device
        As for `weighted_frames`.

    Returns
    -------
    Gramian

    Examples
    --------
    >>> u = dp.weighted_frames(scan)
    >>> h = dp.gramian(scan, u)
    >>> h.values  # one chunk an overlapping pair of tiles
    >>> h.matrix()  # the sparse H
    """
    setting = _set_up(scan, probe, subpixel)
    tiling = setting.tiling
    if frames.chunks[0] != tuple(len(tile) for tile in tiling.tiles):
        raise OptionError(f"frames has chunks {frames.chunks[0]}; expected the tiles of the scan")
    near = [_collect_neighbourhood(setting, tile) for tile in tiling.tiles]
    blocks = gramian_blocks(tiling)
    ground = with_one(_ground, each(near), each([setting.model._replace(own={})]), device=device)
    measured = _amplitudes_of(scan, device=device)
    return gramian_of_blocks(
        *(frames, ground, map_objects(_power, measured)),
        *(map_objects(_move_block, each(blocks), device=device), [own.outline() for own in blocks]),
        like=_empty(device, 1, np.complex128),
    )


def _move_block(block: Any, device: Device) -> GramianBlock:
    own: GramianBlock = item(block)
    return own.to(device)


class _Neighbourhood(NamedTuple):
    """All frames that shine on a tile's window, as if they were one tile."""

    corner: Array
    """Of the tile's own frames, in its window."""
    around: _TileOfScan
    inside: tuple[slice, slice]
    """Where the tile's window lies in that of `around`."""


def _collect_neighbourhood(setting: _Setting, tile: Tile) -> _Neighbourhood:
    tiling = setting.tiling
    height, width = tiling.frame_shape
    window = tile.window
    wide = Window(
        window.y - height + 1,
        window.x - width + 1,
        window.height + 2 * (height - 1),
        window.width + 2 * (width - 1),
    )
    numbers, corners = [], []
    for shift in tiling.whole_periods(window):
        corner = tiling.corner + shift - (wide.y, wide.x)
        inside = (corner >= 0) & (corner <= (window.height + height - 2, window.width + width - 2))
        found = np.flatnonzero(inside.all(axis=1))
        numbers.append(found)
        corners.append(corner[found])
    number = np.concatenate(numbers)
    fraction = np.concatenate([own.fraction for own in tiling.tiles])[number]
    around = Tile(tile.index, slice(0, len(number)), wide, np.concatenate(corners), fraction)
    return _Neighbourhood(tile.corner, _TileOfScan(around, setting.on(number)), wide.slices_of(window))


def _ground(near: Any, model: Any, device: Device) -> Ground:
    given: _Neighbourhood = item(near)
    at = _move_tile_model(item(model), given.around.own, device)
    tile = move_tile(given.around.tile, device)
    light = illuminate_tile(tile, at)[given.inside]
    return Ground(given.corner, at.inverse_illumination(array_module(light).ascontiguousarray(light)))


def _power(amplitude: Array) -> Array:
    xp = array_module(amplitude)
    return (xp.maximum(amplitude, 0).astype(np.float64) ** 2).sum(axis=(1, 2))


# Phases


def power_iteration(
    h: Gramian, iterations: int = 100, *, normalisation: Literal["frame", "degree"] = "degree"
) -> DaskArray:
    """The leading eigenvector of a normalised Gramian by power iteration on its blocks, lazily.

    Parameters
    ----------
    h : Gramian
    iterations : int
        About as many as there are frames, for the long range of a square scan.
    normalisation : "degree" or "frame"
        ``H_ij / sqrt(d_i d_j)`` with ``d_i = sum_j |H_ij|``, or ``H_ij / (|z_i| |z_j|)``.

    Returns
    -------
    (frame,) complex128 dask array
        A chunk a tile, of unit norm. The phases that bring the frames in step are those of this vector.
    """
    return spread(_vector_of, h, iterate(h, iterations, normalisation, PowerIterate), np.complex128)


def phases(
    h: Gramian, *, normalisation: Literal["frame", "degree"] = "degree", sync: Sync | None = None
) -> DaskArray:
    """The phases that bring frames in step, lazily.

    Parameters
    ----------
    h : Gramian
    normalisation : "degree" or "frame"
        As for `power_iteration`.
    sync : Sync, optional
        Which eigensolver, and how many steps; ``Sync("full")`` unless given.

    Returns
    -------
    (frame,) complex64 dask array
        A chunk a tile: numbers of modulus one, to be multiplied onto the frames; their weighted mean is one.
    """
    found = find_phases(h, Sync("full") if sync is None else sync, normalisation)
    return spread(_phase_of, h, found, np.complex64)


def _vector_of(frames: slice, found: tuple[Eigenpair, Array]) -> Array:
    return found[0].vector[frames]


def _phase_of(frames: slice, found: Phases) -> Array:
    return found.phase[frames]
