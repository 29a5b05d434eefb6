"""Simulated scans: positions, an object, a probe, and the frames that a detector would count.

The object and the probe are kept in the scan as the truth. Positions are in object pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.signal import oaconvolve

from daskptycho.errors import OptionError
from daskptycho.scan.calibration import geometry_attributes
from daskptycho.scan.dataset import create_scan, default_tile_frames
from daskptycho.scan.optics import FAR_FIELD, PHOTON, fresnel_kernel
from daskptycho.scan.phantom import diffuser_probe, phantom_object, zone_plate_probe
from daskptycho.tiling import Shape, Window, compact_order, split_position

__all__ = ["simulate_scan"]

GOLDEN_ANGLE = np.pi * (3.0 - np.sqrt(5.0))

# Pixels that one dask block simulates at once: 4 MB in each of its complex128 temporaries.
BLOCK_PIXELS = 2**18

# Independent streams of random numbers from one seed.
JITTER_STREAM, NOISE_STREAM = 0, 1


def simulate_scan(
    url: str | Path,
    frames: Shape = (64, 64),
    frame_size: int = 32,
    step: float = 8,
    periodic: bool = False,
    jitter: float = 0,
    photons: float | None = None,
    seed: int = 0,
    *,
    pattern: str = "raster",
    subpixel: bool = False,
    modes: int = 1,
    object: ArrayLike | None = None,
    probe: ArrayLike | None = None,
    propagation: str = FAR_FIELD,
    energy_eV: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_size_m: float | tuple[float, float] | None = None,
    source_distance_m: float | None = None,
    radiation: str = PHOTON,
    tile_frames: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> xr.Dataset:
    """Simulate a scan, write it and open it.

    The same arguments give the same counts for tiles of any size. Frames are simulated tile by tile; the
    stack is never in memory.

    Parameters
    ----------
    url : str or Path
        Where to write the scan, as for `create_scan`.
    frames : (int, int)
        Number of frames along y and x. A spiral has as many as their product.
    frame_size : int
        Pixels along each side of a frame, at least 4.
    step : float
        Distance between neighbouring frames in pixels, at least 1.
    periodic : bool
        Let the canvas wrap round after ``frames * step`` pixels. For a raster only.
    jitter : float
        Largest random shift of each position along y and x, in pixels.
    photons : float, optional
        Mean counts of a frame, with Poisson noise. Without it there is no noise, and the power of the probe
        is `frame_size` squared.
    seed : int
        Seed of the jitter and of the noise, 0 or more.
    pattern : {"raster", "spiral"}
        How the positions are arranged. The spiral is a Fermat spiral as dense as the raster.
    subpixel : bool
        Keep the fractions of the positions, which otherwise are rounded to whole pixels.
    modes : int
        Number of incoherent probe modes. They are orthogonal and of decreasing power.
    object : (y, x) complex array, optional
        At least as large as the canvas, or of exactly one period. By default two photographs, one as
        amplitude and one as phase.
    probe : (mode, y, x) or (y, x) complex array, optional
        Its power is scaled as `photons` says. By default the defocused focus of a zone plate, and in the near
        field a beam behind a diffuser.
    propagation : {"far-field", "near-field"}
        Whether frames are diffraction patterns or Fresnel images. These need the geometry, and are periodic.
    energy_eV, detector_distance_m : float, optional
        See `create_scan`.
    detector_pixel_size_m : float or (float, float), optional
        See `create_scan`.
    source_distance_m : float, optional
        See `create_scan`.
    radiation : {"photon", "electron"}
        See `create_scan`.
    tile_frames : int, optional
        Number of frames in a tile, as for `create_scan`.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.

    Returns
    -------
    xarray.Dataset
        The scan, with `truth_object` and `truth_probe`, and the true probe as its `probe` too. Positions are
        in pixels.

    Raises
    ------
    OptionError
        An option is impossible, alone or together with others, or `url` is malformed.
    ScanError
        The geometry is impossible, or something lies at `url` that must not be overwritten.
    StoreError
        The server does not answer, or denies access.
    """
    geometry: dict[str, Any] = {
        "propagation": propagation,
        "energy_eV": energy_eV,
        "detector_distance_m": detector_distance_m,
        "detector_pixel_size_m": detector_pixel_size_m,
        "source_distance_m": source_distance_m,
        "radiation": radiation,
    }
    frames = _check_options(frames, frame_size, step, periodic, jitter, photons, pattern, modes, probe)
    if seed < 0:
        raise OptionError(f"seed is {seed}; expected 0 or more")
    period = (round(frames[0] * step), round(frames[1] * step)) if periodic else None
    position = _make_positions(frames, step, jitter, seed, pattern, subpixel, period)
    if tile_frames is None:
        tile_frames = default_tile_frames(len(position), frame_size, frame_size)
    elif tile_frames < 1:
        raise OptionError(f"tile_frames is {tile_frames}; expected at least 1")
    order = compact_order(position, tile_frames)
    corner, fraction = split_position(position)
    canvas = Window.from_corners(corner, (frame_size, frame_size)).shape if period is None else period
    sample = _prepare_object(object, canvas, periodic)
    shape = (frame_size, frame_size)
    kernel = fresnel_kernel(geometry_attributes(shape, **geometry), shape)
    if probe is None:
        make_probe = zone_plate_probe if kernel is None else diffuser_probe
        unscaled_probe = make_probe(frame_size, modes)
    else:
        unscaled_probe = _prepare_probe(probe, frame_size)
    scale = _probe_scale(sample, unscaled_probe, corner, photons)
    true_probe = (unscaled_probe * scale).astype(np.complex64)
    model = _ForwardModel(sample, true_probe.astype(np.complex128), photons, seed, kernel)
    rows = np.column_stack([order, corner[order], fraction[order]])
    return create_scan(
        url,
        _simulate_lazily(model, rows, tile_frames),
        position[order],
        probe=true_probe,
        position_unit="pixel",
        period=period,
        tile_frames=tile_frames,
        frame_number=order,
        truth_object=_label_axes(sample),
        truth_probe=true_probe,
        **geometry,
        source=f"simulated: {pattern} of {frames[0]} x {frames[1]} frames, step {step} pixels",
        overwrite=overwrite,
        progress=progress,
    )


@dataclass(frozen=True)
class _ForwardModel:
    """The counts of a frame as a function of its position.

    Attributes
    ----------
    object : (y, x) complex64 array
    probe : (mode, y, x) complex128 array
    photons : float or None
        Without it, frames have no noise.
    seed : int
    kernel : (qy, qx) complex64 array or None
        The propagator of the near field; None in the far field.
    """

    object: NDArray[np.complex64]
    probe: NDArray[np.complex128]
    photons: float | None
    seed: int
    kernel: NDArray[np.complex64] | None = None

    def exit_waves(self, corner: NDArray[np.int64], fraction: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Exit waves (frame, mode, y, x): the probe, shifted by the fraction, times the object under it."""
        probe = self.probe[np.newaxis]
        if fraction.any():
            probe = fft.ifft2(fft.fft2(probe) * self.shift_ramp(fraction))
        return probe * _object_patches(self.object, corner, self.probe.shape[-1])[:, np.newaxis]

    def shift_ramp(self, fraction: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Fourier factors (frame, 1, qy, qx) that shift waves by fractions of a pixel."""
        ramp = np.exp(-2j * np.pi * fraction[:, :, np.newaxis] * np.fft.fftfreq(self.probe.shape[-1]))
        return ramp[:, np.newaxis, 0, :, np.newaxis] * ramp[:, np.newaxis, 1, np.newaxis, :]

    def counts(self, rows: NDArray[np.float64]) -> NDArray[Any]:
        """Frames (frame, qy, qx) in detector order, for rows of (number, corner y, x, fraction y, x)."""
        waves = self.exit_waves(rows[:, 1:3].astype(np.int64), rows[:, 3:5])
        spectrum = fft.fft2(waves, norm="ortho")
        if self.kernel is None:
            detected = fft.fftshift(spectrum, axes=(-2, -1))
        else:
            # The beam is fixed on the detector: the image does not move with the probe.
            back = self.shift_ramp(rows[:, 3:5]).conj() if rows[:, 3:5].any() else 1.0
            detected = fft.ifft2(spectrum * self.kernel * back, norm="ortho")
        expected = (np.abs(detected) ** 2).sum(axis=1)
        if self.photons is None:
            return expected.astype(np.float32)
        bits = np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(NOISE_STREAM,)))
        random, state = np.random.Generator(bits), bits.state
        counts = np.empty(expected.shape, dtype=np.int64)
        for number, mean, out in zip(rows[:, 0], expected, counts, strict=True):
            # The counter starts at the number of the frame: the noise does not depend on tiles or threads.
            state["state"]["counter"][:] = (0, 0, 0, int(number))
            bits.state = state
            out[...] = random.poisson(mean)
        return counts


def _object_patches(
    sample: NDArray[np.complex64], corner: NDArray[np.int64], size: int
) -> NDArray[np.complex64]:
    """The part of the object under each frame, (frame, y, x), wrapped round at the end of the canvas."""
    rows, columns = ((corner[:, axis, np.newaxis] + np.arange(size)) % sample.shape[axis] for axis in (0, 1))
    return sample[rows[:, :, np.newaxis], columns[:, np.newaxis, :]]


def _simulate_block(rows: NDArray[np.float64], model: NDArray[Any]) -> NDArray[Any]:
    found: _ForwardModel = model.item()
    return found.counts(rows)


def _simulate_lazily(model: _ForwardModel, rows: NDArray[np.float64], tile_frames: int) -> da.Array:
    """The frames of all rows as a dask array, in which no block spans two tiles."""
    block = max(1, BLOCK_PIXELS // model.probe.size)
    chunks: list[int] = []
    for start in range(0, len(rows), tile_frames):
        left = min(tile_frames, len(rows) - start)
        chunks += [min(block, left - done) for done in range(0, left, block)]
    dtype = np.dtype(np.float32 if model.photons is None else np.int64)
    size = model.probe.shape[-1]
    # As an array of its own, the model is one node of the graph instead of a part of every task.
    one = np.empty((1, 1), dtype=object)
    one[0, 0] = model
    return da.map_blocks(
        _simulate_block,
        da.from_array(rows, chunks=(tuple(chunks), 5)),
        da.from_array(one, chunks=1, asarray=False, name=False),
        dtype=dtype,
        drop_axis=1,
        new_axis=(1, 2),
        chunks=(tuple(chunks), (size,), (size,)),
        meta=np.empty((0, 0, 0), dtype=dtype),
    )


def _probe_scale(
    sample: NDArray[np.complex64],
    probe: NDArray[np.complex128],
    corner: NDArray[np.int64],
    photons: float | None,
) -> float:
    """The factor that gives the probe its power."""
    size = probe.shape[-1]
    if photons is None:
        return size / float(np.linalg.norm(probe))
    illumination = (np.abs(probe) ** 2).sum(axis=0)
    # The padding wraps a periodic canvas round; otherwise no frame reaches into it.
    transmission = np.pad(np.abs(sample) ** 2, [(0, size - 1), (0, size - 1)], mode="wrap")
    counts = oaconvolve(transmission, illumination[::-1, ::-1], mode="valid")
    return float(np.sqrt(photons / counts[tuple((corner % sample.shape).T)].mean()))


def _make_positions(
    frames: Shape,
    step: float,
    jitter: float,
    seed: int,
    pattern: str,
    subpixel: bool,
    period: Shape | None,
) -> NDArray[np.float64]:
    if pattern == "raster":
        position = np.array(list(product(range(frames[0]), range(frames[1]))), dtype=float) * step
    else:
        number = np.arange(frames[0] * frames[1])
        radius = step * np.sqrt((number + 0.5) / np.pi)
        angle = number * GOLDEN_ANGLE
        position = np.column_stack([radius * np.sin(angle), radius * np.cos(angle)])
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(JITTER_STREAM,)))
    position += random.uniform(-jitter, jitter, position.shape)
    if not subpixel:
        position = np.rint(position)
    if period is None:
        return position - position.min(axis=0)
    position = np.mod(position, period)
    # The remainder of a position just below zero rounds up to the period itself.
    return np.where(position < period, position, 0.0)


def _label_axes(sample: NDArray[np.complex64]) -> xr.DataArray:
    """The object with its coordinates in pixels."""
    dims = ("object_y", "object_x")
    coords = {
        dim: (dim, np.arange(size, dtype=float), {"units": "pixel"})
        for dim, size in zip(dims, sample.shape, strict=True)
    }
    return xr.DataArray(sample, dims=dims, coords=coords)


def _check_options(
    frames: Shape,
    frame_size: int,
    step: float,
    periodic: bool,
    jitter: float,
    photons: float | None,
    pattern: str,
    modes: int,
    probe: ArrayLike | None,
) -> Shape:
    """Raise OptionError for impossible options; the number of frames along y and x."""
    try:
        rows, columns = (int(n) for n in frames)
    except (TypeError, ValueError):
        raise OptionError(f"frames is {frames!r}; expected two whole numbers, (y, x)") from None
    if min(rows, columns) < 1:
        raise OptionError(f"frames is {frames!r}; expected at least (1, 1)")
    if frame_size < 4:
        raise OptionError(f"frame_size is {frame_size}; expected at least 4 pixels")
    if not step >= 1:
        raise OptionError(f"step is {step}; expected at least 1 pixel")
    if not jitter >= 0:
        raise OptionError(f"jitter is {jitter}; expected 0 pixels or more")
    if photons is not None and not 0 < photons < np.inf:
        raise OptionError(f"photons is {photons}; expected more than 0, or None for no noise")
    if pattern not in ("raster", "spiral"):
        raise OptionError(f"pattern is {pattern!r}; expected 'raster' or 'spiral'")
    if not 1 <= modes <= frame_size:
        raise OptionError(f"modes is {modes}; expected 1 to {frame_size}, the size of a frame")
    if probe is not None and modes != 1:
        raise OptionError("modes and probe are both given; expected one: a probe brings its own modes")
    if not periodic:
        return rows, columns
    if pattern != "raster":
        raise OptionError("a periodic spiral does not exist; expected pattern='raster' or periodic=False")
    period = (rows * step, columns * step)
    if any(n != round(n) for n in period):
        raise OptionError(f"the period, frames times step, is {period} pixels; expected whole numbers")
    if min(period) < 2 * frame_size:
        raise OptionError(
            f"the period, frames times step, is {period} pixels; "
            f"expected at least {2 * frame_size}, twice the frame"
        )
    return rows, columns


def _prepare_object(user_object: ArrayLike | None, canvas: Shape, periodic: bool) -> NDArray[np.complex64]:
    """The user's object, checked and cut to the canvas, or the default one."""
    if user_object is None:
        return phantom_object(canvas, periodic)
    sample = np.asarray(user_object).astype(np.complex64)
    fits = sample.ndim == 2 and (
        sample.shape == canvas if periodic else sample.shape[0] >= canvas[0] and sample.shape[1] >= canvas[1]
    )
    if not fits or not np.isfinite(sample).all():
        size = "exactly the period" if periodic else "at least"
        raise OptionError(f"object has the shape {sample.shape}; expected {size} {canvas}, finite numbers")
    return sample[: canvas[0], : canvas[1]]


def _prepare_probe(user_probe: ArrayLike, frame_size: int) -> NDArray[np.complex128]:
    """The user's probe as (mode, y, x), checked."""
    probe = np.asarray(user_probe).astype(np.complex128)
    probe = probe[np.newaxis] if probe.ndim == 2 else probe
    if probe.ndim != 3 or probe.shape[1:] != (frame_size, frame_size) or not probe.any():
        raise OptionError(
            f"probe has the shape {probe.shape}; expected (mode, {frame_size}, {frame_size}), not all zero"
        )
    return probe
