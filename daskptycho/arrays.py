"""The frames of a scan, their Gramian H and their phases as lazy dask arrays.

`amplitudes`, `weighted_frames`, `gramian`, `power_iteration` and `phases` lead from a scan to the phases of
its frames. Arrays have one chunk for each tile, and H has one for each pair of tiles that overlap.
``Sync("full")`` uses the same `Gramian` and `find_phases`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from daskptycho.backend import Device, array_module, to_device
from daskptycho.errors import OptionError
from daskptycho.model.amplitudes import Amplitudes, Detector
from daskptycho.model.forward import choose_forward
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import TileModel, choose_model, move_tile
from daskptycho.model.operators import frame_blocks, project_data, split, weigh
from daskptycho.scan.dataset import fresnel_kernel, take_used, tile_chunks
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.eigensolvers import Eigenpair, PowerIterate
from daskptycho.sync.gramian import GramianBlock, gramian_blocks
from daskptycho.sync.options import Sync, check_normalisation
from daskptycho.sync.parts import find_overlaps
from daskptycho.sync.phases import Phases
from daskptycho.tasks.blockwise import Gramian, Ground, find_phases, gramian_of_blocks, iterate
from daskptycho.tasks.chunks import chunk_objects, map_objects, map_slices, map_with_object, unwrap_chunk
from daskptycho.tiling import Tile, Tiling, Window

__all__ = ["Gramian", "amplitudes", "gramian", "phases", "power_iteration", "weighted_frames"]

Array = Any
DaskArray = Any
"""``dask.array.Array``, with query planning or without."""


def _empty(device: Device, dimensions: int, dtype: Any) -> Array:
    """An empty array on a device, as the meta of a dask array."""
    return to_device(np.empty((0,) * dimensions, dtype=dtype), device)


class _TileOfScan(NamedTuple):
    """A tile, the values of per-frame parameters for its frames, and the object on its window."""

    tile: Tile
    own: dict[str, Array]
    image: Array | None = None


class _Setting(NamedTuple):
    """The tiles and the model of a scan, on the client."""

    tiling: Tiling
    model: TileModel
    """Its `own` holds the values of all frames."""

    def on(self, frames: Any) -> dict[str, Array]:
        """Values of per-frame parameters for some frames, by name."""
        return {name: value[frames] for name, value in self.model.own.items()}


def _set_up(scan: xr.Dataset, probe: ArrayLike | None, subpixel: bool) -> _Setting:
    scan = take_used(scan)
    tiling = lay_out_tiles(scan, whole_pixel=not subpixel)
    fractional = not all(tile.is_whole_pixel for tile in tiling.tiles)
    options = {"probe": probe, "update_probe": False, "fractional": fractional}
    model, first = choose_model(scan, options, choose_forward(fresnel_kernel(scan.attrs, tiling.frame_shape)))
    shared = {parameter.name: first[parameter.name] for parameter in model.shared}
    per_frame = {parameter.name: first[parameter.name] for parameter in model.per_frame}
    return _Setting(tiling, TileModel(model, shared, per_frame))


def amplitudes(scan: xr.Dataset, *, device: Device = "cpu") -> DaskArray:
    """Measured amplitudes of a scan, of the frames that are used, lazily.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    device : "cpu" or "gpu"
        Whether chunks are NumPy arrays, or CuPy arrays on a GPU.

    Returns
    -------
    (frame, qy, qx) float32 dask array
        Square roots of the counts, -1 where a pixel is not valid; in the far field the zero frequency is in
        the corner. A background is not subtracted: it is part of the model in `weighted_frames`.

    Examples
    --------
    >>> a = dp.amplitudes(scan)
    >>> power = da.maximum(a, 0) ** 2  # counts of the valid pixels
    """
    scan, shape = take_used(scan), (scan.sizes["qy"], scan.sizes["qx"])
    valid = scan["valid"].values if "valid" in scan else None
    detector = Detector(valid, choose_forward(fresnel_kernel(scan.attrs, shape)), device)
    counts = scan["intensity"].data
    if not hasattr(counts, "__dask_graph__"):
        counts = da.from_array(counts, chunks=(tile_chunks(scan), *shape))
    return da.map_blocks(
        _amplitudes,
        # A tile holds whole frames, even if the scan is chunked across detector pixels.
        counts.rechunk({1: -1, 2: -1}),
        chunk_objects([detector]),
        dtype=np.dtype(np.float32),
        meta=_empty(device, 3, np.float32),
    )


def _amplitudes(counts: Array, detector: Any) -> Array:
    prepared: Amplitudes = unwrap_chunk(detector).prepare(counts)
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
    """The weighted frames of a scan, of the frames that are used, lazily.

    ``u_i = sum_m conj(P_im) . p_im``, where ``p_im`` is the data projection of the exit wave
    ``P_im . psi[x_i + r]`` of probe mode m, and ``P_i`` the probe of frame i, shifted by a fraction of a
    pixel and multiplied by its gain.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    image : (y, x) array, optional
        The object psi on the scan's canvas, as in a result; ones by default.
    probe : (y, x) or (mode, y, x) array, optional
        A probe in place of the scan's.
    amplitudes : (frame, qy, qx) float32 dask array, optional
        From `amplitudes`, with a chunk for each tile and on the same device; those of the scan by default.
    subpixel : bool
        Whether the sub-pixel parts of positions shift the probe; otherwise positions are rounded.
    device : "cpu" or "gpu"
        Whether chunks are NumPy arrays, or CuPy arrays on a GPU.

    Returns
    -------
    (frame, y, x) complex64 dask array
        With one chunk for each tile.

    Raises
    ------
    OptionError
        `image` does not have the shape of the canvas, the chunks of `amplitudes` are not the tiles of the
        scan, or there is no usable probe.
    ScanError
        The scan's gain is not one number above zero for each frame.
    """
    setting = _set_up(scan, probe, subpixel)
    tiling, canvas = setting.tiling, None if image is None else np.asarray(image, dtype=np.complex64)
    if canvas is not None and canvas.shape != tiling.window.shape:
        raise OptionError(f"image has shape {canvas.shape}; expected the canvas's, {tiling.window.shape}")
    measured = _amplitudes_of(scan, device=device) if amplitudes is None else amplitudes
    chunks = getattr(measured, "chunks", ("none, as it is no dask array",))[0]
    if chunks != tuple(len(tile) for tile in tiling.tiles):
        raise OptionError(f"amplitudes has chunks {chunks}; expected the tiles of the scan")
    tiles = [
        _TileOfScan(
            tile, setting.on(tile.frames), None if canvas is None else tiling.cut(canvas, tile.window)
        )
        for tile in tiling.tiles
    ]
    return da.map_blocks(
        _weighted_frames,
        *(measured, chunk_objects(tiles), chunk_objects([setting.model._replace(own={})])),
        device=device,
        dtype=np.dtype(np.complex64),
        meta=_empty(device, 3, np.complex64),
    )


_amplitudes_of = amplitudes


def _weighted_frames(amplitude: Array, tile: Any, model: Any, device: Device) -> Array:
    of_scan: _TileOfScan = unwrap_chunk(tile)
    at, xp = _move_tile_model(unwrap_chunk(model), of_scan.own, device), array_module(amplitude)
    moved = move_tile(of_scan.tile, device)
    image = xp.ones(moved.window.shape, dtype=np.complex64)
    if of_scan.image is not None:
        image = to_device(of_scan.image, device)
    weighted = xp.empty(amplitude.shape, dtype=np.complex64)
    power = xp.empty(len(amplitude), dtype=np.float64)
    for frames in frame_blocks(len(amplitude), at.probe):
        view = at.view(moved, frames)
        waves = split(image, view.probe, view.corner)
        forward = at.model.forward.at(view.fraction)
        projected, _ = project_data(waves, amplitude[frames], forward, at.likelihood)
        weigh(projected, view.probe, out=(weighted[frames], power[frames]))
    return weighted


def _move_tile_model(model: TileModel, own: dict[str, Array], device: Device) -> TileModel:
    """The model with its arrays on a device, and with these values for its frames."""
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

    ``H_ij = sum_r conj(u_i(r - x_i)) u_j(r - x_j) / N(r)`` over the pixels r that frames i and j share, with
    the illumination ``N = sum_i sum_m |P_im(r - x_i)|^2`` of all frames (Marchesini et al., Inverse Problems
    29, 115009 (2013)). The power ``|z_i|^2`` for its normalisation is the sum of the counts of frame i.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan` or `simulate_scan`.
    frames : (frame, y, x) complex64 dask array
        From `weighted_frames`, with one chunk for each tile.
    probe : (y, x) or (mode, y, x) array, optional
        The probe of `frames`, as for `weighted_frames`.
    subpixel : bool
        As for `weighted_frames`.
    device : "cpu" or "gpu"
        Where the chunks of `frames` are.

    Returns
    -------
    Gramian

    Raises
    ------
    OptionError
        The chunks of `frames` are not the tiles of the scan, or there is no usable probe.
    ScanError
        The scan's gain is not one number above zero for each frame.

    Examples
    --------
    >>> u = dp.weighted_frames(scan)
    >>> h = dp.gramian(scan, u)
    >>> h.values  # one chunk for each pair of tiles that overlap
    >>> h.matrix()  # H as a sparse matrix
    """
    setting = _set_up(scan, probe, subpixel)
    tiling = setting.tiling
    if frames.chunks[0] != tuple(len(tile) for tile in tiling.tiles):
        raise OptionError(f"frames has chunks {frames.chunks[0]}; expected the tiles of the scan")
    neighbourhoods = [_collect_neighbourhood(setting, tile) for tile in tiling.tiles]
    blocks = gramian_blocks(tiling)
    ground = map_with_object(
        _ground, chunk_objects(neighbourhoods), chunk_objects([setting.model._replace(own={})]), device=device
    )
    measured = _amplitudes_of(scan, device=device)
    placed = map_objects(_move_block, chunk_objects(blocks), device=device)
    outline, like = [block.outline() for block in blocks], _empty(device, 1, np.complex128)
    power = map_objects(_power, measured)
    return gramian_of_blocks(frames, ground, power, placed, outline, like, find_overlaps(blocks))


def _move_block(block: Any, device: Device) -> GramianBlock:
    pairs: GramianBlock = unwrap_chunk(block)
    return pairs.to(device)


class _Neighbourhood(NamedTuple):
    """All frames that overlap a tile's window, as a tile with a larger window."""

    corner: Array
    """(frame, 2) corners of the tile's own frames in its window."""
    around: _TileOfScan
    """The larger tile."""
    inside: tuple[slice, slice]
    """The tile's window in that of the larger tile."""


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
        overlapping = np.flatnonzero(inside.all(axis=1))
        numbers.append(overlapping)
        corners.append(corner[overlapping])
    number = np.concatenate(numbers)
    fraction = np.concatenate([part.fraction for part in tiling.tiles])[number]
    around = Tile(tile.index, slice(0, len(number)), wide, np.concatenate(corners), fraction)
    return _Neighbourhood(tile.corner, _TileOfScan(around, setting.on(number)), wide.slices_of(window))


def _ground(neighbourhood: Any, model: Any, device: Device) -> Ground:
    corner, around, inside = unwrap_chunk(neighbourhood)
    at = _move_tile_model(unwrap_chunk(model), around.own, device)
    tile = move_tile(around.tile, device)
    light = illuminate_tile(tile, at)[inside]
    return Ground(corner, at.inverse_illumination(array_module(light).ascontiguousarray(light)))


def _power(amplitude: Array) -> Array:
    xp = array_module(amplitude)
    return (xp.maximum(amplitude, 0).astype(np.float64) ** 2).sum(axis=(1, 2))


# Phases


def power_iteration(
    h: Gramian, iterations: int = 100, *, normalisation: Literal["frame", "degree"] = "degree"
) -> DaskArray:
    """The leading eigenvector of a normalised Gramian by power iteration on its blocks, lazily.

    H is not assembled: each step multiplies its blocks by parts of the vector. The iteration starts from the
    consensus vector, whose elements are ``sqrt(d_i)`` or ``|z_i|``.

    Parameters
    ----------
    h : Gramian
        From `gramian`.
    iterations : int
        Number of steps. The long-range phases of a square scan need about as many steps as it has frames.
    normalisation : "degree" or "frame"
        ``H_ij / sqrt(d_i d_j)`` with ``d_i = sum_j |H_ij|``, or ``H_ij / (|z_i| |z_j|)``.

    Returns
    -------
    (frame,) complex128 dask array
        The eigenvector, of unit norm, with one chunk for each tile. The phases of its elements are those that
        synchronise the frames.
    """
    check_normalisation(normalisation)
    return map_slices(
        _vector_of,
        h.frames,
        iterate(h, iterations, normalisation, PowerIterate),
        h.like.astype(np.complex128),
    )


def phases(
    h: Gramian, *, normalisation: Literal["frame", "degree"] = "degree", sync: Sync | None = None
) -> DaskArray:
    """The phases that synchronise the frames of a scan, lazily: those of the leading eigenvector of H.

    Parameters
    ----------
    h : Gramian
        From `gramian`.
    normalisation : "degree" or "frame"
        See `power_iteration`.
    sync : Sync, optional
        Its `eigensolver` and `iterations` are used; ``Sync("full")`` by default.

    Returns
    -------
    (frame,) complex64 dask array
        Numbers of modulus one by which frames are to be multiplied, with one chunk for each tile. Their mean,
        weighted by the power of the frames, is a positive number.
    """
    check_normalisation(normalisation)
    # Every phase that is found, significant or not.
    always = replace(Sync("full") if sync is None else sync, every=1)
    found = find_phases(h, always, normalisation)
    return map_slices(_phase_of, h.frames, found, h.like.astype(np.complex64))


def _vector_of(frames: slice, found: tuple[Eigenpair, Array]) -> Array:
    return found[0].vector[frames]


def _phase_of(frames: slice, found: Phases) -> Array:
    return found.phase[frames]
