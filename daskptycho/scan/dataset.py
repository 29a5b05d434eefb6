"""Scans: created from arrays, opened lazily, and asked for their tiles and frame numbers.

A scan is an `xarray.Dataset` over a Zarr v3 group, which is written whole or not at all. What other folders
ask of an opened scan, its pixel size for instance, they import from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.scan.calibration import geometry_attributes, pixel_size, position_in_pixels, scan_period
from daskptycho.scan.frames import (
    Progress,
    default_tile_frames,
    list_missing_chunks,
    open_lazily,
    write_scan,
)
from daskptycho.scan.optics import FAR_FIELD, PHOTON, fresnel_kernel
from daskptycho.scan.validation import VARIABLES, check_shapes, validate_scan
from daskptycho.storage.store import (
    open_dataset,
    parse_location,
    read_attributes,
    translate_errors,
    write_atomically,
)
from daskptycho.tiling import compact_order
from daskptycho.version import __version__

__all__ = [
    "create_scan",
    "default_tile_frames",
    "frame_numbers",
    "fresnel_kernel",
    "open_scan",
    "pixel_size",
    "position_in_pixels",
    "scan_period",
    "tile_chunks",
    "validate_scan",
]

FORMAT = "daskptycho-scan"
FORMAT_VERSION = 1

# Variables that may be too large to be read when a scan is opened.
LAZY = ("intensity", "truth_object")


def create_scan(
    url: str | Path,
    intensity: Any,
    position: ArrayLike,
    *,
    probe: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    background: ArrayLike | None = None,
    energy_eV: float | None = None,
    wavelength_m: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_size_m: float | tuple[float, float] | None = None,
    source_distance_m: float | None = None,
    pixel_size_m: float | tuple[float, float] | None = None,
    propagation: str = FAR_FIELD,
    radiation: str = PHOTON,
    position_unit: str = "m",
    period: Sequence[int] | None = None,
    tile_frames: int | None = None,
    frame_number: ArrayLike | None = None,
    truth_object: ArrayLike | xr.DataArray | None = None,
    truth_probe: ArrayLike | None = None,
    source: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Write a scan and open it.

    The frames are read and written tile by tile; the stack is never in memory. They are stored
    as uint16 where all counts are whole and fit, else as uint32 or float32; where a later tile
    is the first that does not fit, the writing begins anew. Pixels that are not valid are
    neither checked nor kept: they are stored as zero.

    Parameters
    ----------
    url : str or Path
        Of the new scan: a folder, or a place in a bucket. It appears when it is complete and not before.
    intensity : (frame, qy, qx) array
        Counts in detector order, the zero frequency at N//2; in the near field an image. NumPy, dask, or
        anything that can be indexed by an array of frame numbers.
    position : (frame, 2) array
        [y, x] of each frame's first pixel, in `position_unit`.
    probe : (mode, y, x) or (y, x) array, optional
        Starting probe, complex, centred at N//2.
    valid : (qy, qx) bool array, optional
        False where the detector does not count.
    background : (qy, qx) array, optional
        Counts that do not come from the sample.
    energy_eV, wavelength_m : float, optional
        One of the two; each follows from the other.
    detector_distance_m, detector_pixel_size_m : float, optional
        From the sample to the detector; the pixel size may be two numbers, [y, x].
    source_distance_m : float, optional
        From a point source to the sample, in the near field; a parallel beam without it.
    pixel_size_m : float or (float, float), optional
        Of the object, where it is known by calibration; otherwise it follows from the geometry.
    propagation : {"far-field", "near-field"}
        Whether frames are diffraction patterns or Fresnel images of the sample.
    radiation : {"photon", "electron"}
        What tells how energy and wavelength belong together.
    position_unit : {"m", "pixel"}
        Metres need the geometry, from which the pixel size follows.
    period : (int, int), optional
        The canvas wraps round at that many pixels.
    tile_frames : int, optional
        Frames in a tile, which is one shard of the store and one task of a sweep. By default
        about four million detector pixels at most, the tiles balanced.
    frame_number : (frame,) int array, optional
        Numbers to keep for the frames; by default their index in the input.
    truth_object, truth_probe : array, optional
        What a simulation was made from. An object without coordinates starts at position 0.
    source : str, optional
        Where the data come from.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it.

    Raises
    ------
    ScanError
        Data or geometry that cannot be right, or something else lies at `url`.
    StoreError
        The place does not answer, or lets nobody in.
    OptionError
        `tile_frames` below one, or a URL that cannot be read.
    """
    target = parse_location(url)
    if isinstance(intensity, xr.DataArray):
        intensity = intensity.data
    elif not hasattr(intensity, "dtype"):
        intensity = np.asarray(intensity)
    given = {
        "position": (position, np.float64),
        "frame_number": (frame_number, np.int64),
        "valid": (valid, np.bool_),
        "background": (background, np.float32),
        "probe": (probe, np.complex64),
        "truth_object": (truth_object, np.complex64),
        "truth_probe": (truth_probe, np.complex64),
    }
    arrays = {name: _as_array(name, a, dtype) for name, (a, dtype) in given.items() if a is not None}
    header = _header(intensity, arrays)
    header["position"].attrs["units"] = position_unit
    if isinstance(truth_object, xr.DataArray):
        header = header.assign_coords(truth_object.coords)
    header.attrs = geometry_attributes(
        (header.sizes["qy"], header.sizes["qx"]),
        energy_eV=energy_eV,
        wavelength_m=wavelength_m,
        detector_distance_m=detector_distance_m,
        detector_pixel_size_m=detector_pixel_size_m,
        source_distance_m=source_distance_m,
        pixel_size_m=pixel_size_m,
        propagation=propagation,
        radiation=radiation,
    )
    header.attrs |= {"format": FORMAT, "format_version": FORMAT_VERSION}
    header.attrs["created_by"] = f"daskptycho {__version__}"
    if period is not None:
        header.attrs["period"] = period
        header.attrs["period"] = list(scan_period(header) or ())
    if source is not None:
        header.attrs["source"] = str(source)
    validate_scan(header)
    if tile_frames is None:
        tile_frames = default_tile_frames(*header["intensity"].shape)
    elif tile_frames < 1:
        raise OptionError(f"tile_frames is {tile_frames}; expected at least 1")
    order = compact_order(position_in_pixels(header), tile_frames)
    with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store:
        write_scan(store, header.drop_vars("intensity"), intensity, order, tile_frames, progress)
    return open_scan(url)


def open_scan(url: str | Path) -> xr.Dataset:
    """Open a scan, lazily: a tile of frames is a dask chunk, nothing is read but the small variables.

    The frames are read by the tasks that need them, each of which finds its own credentials: the dataset
    and its graph hold the URL alone.

    Parameters
    ----------
    url : str or Path
        Where `create_scan` or ``daskptycho import`` wrote it: a folder, or a place in a bucket or on a web
        server.

    Returns
    -------
    xarray.Dataset
        ``intensity (frame, qy, qx)`` as a dask array of counts, ``position (frame, axis)`` [y, x] in
        its own ``units``, ``frame_number (frame)``, and where the scan has them ``valid (qy, qx)``,
        ``background (qy, qx)``, ``probe (mode, y, x)``, ``truth_object``, ``truth_probe``. The attributes
        hold the geometry, in metres and electronvolts.

    Raises
    ------
    ScanError
        Nothing lies there, or something that is no scan, or a scan with a part missing.
    StoreError
        The place does not answer, or lets nobody in.
    OptionError
        A URL that cannot be read.
    """
    location = parse_location(url)
    attributes = read_attributes(location)
    found = attributes.get("format")
    if found != FORMAT:
        what = "a Zarr group without a format" if found is None else f"a {found}"
        if found == "daskptycho-result":
            what = "a result of daskptycho (open it with xarray.open_zarr)"
        raise ScanError(
            f"{location} is {what}; expected a scan (format {FORMAT!r}), as create_scan writes it"
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise ScanError(
            f"{location} has format_version {attributes.get('format_version')!r}; expected {FORMAT_VERSION}: "
            "it was written by another version of daskptycho"
        )
    stored = open_dataset(location)
    with translate_errors(location):
        check_shapes({name: (stored[name].dims, stored[name].shape) for name in VARIABLES if name in stored})
        missing, expected = list_missing_chunks(location)
        if missing:
            raise ScanError(
                f"{len(missing)} of {expected} chunks of intensity are missing from the store {location}, "
                f"first {missing[0]}; the scan has to be written or copied again"
            )
        ds = stored.drop_vars([name for name in LAZY if name in stored]).load()
    lazy = {
        name: (variable.dims, open_lazily(location, variable, name), variable.attrs, variable.encoding)
        for name, variable in stored.variables.items()
        if name in LAZY
    }
    # A dataset of its own: the opened one holds on to its store.
    ds = xr.Dataset({**lazy, **ds.variables}, attrs=ds.attrs)[list(stored.variables)]
    ds.encoding["source"] = str(url)
    validate_scan(ds)
    return ds


def tile_chunks(ds: xr.Dataset) -> tuple[int, ...]:
    """Frames in each tile: the chunks of `intensity`, or one tile where it is not chunked."""
    chunks = ds["intensity"].chunksizes.get("frame")
    return (ds.sizes["frame"],) if chunks is None else tuple(int(n) for n in chunks)


def frame_numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Number of each frame in the order of acquisition; the scan's own order where it does not say."""
    return ds["frame_number"].values if "frame_number" in ds else np.arange(ds.sizes["frame"])


def _as_array(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """A small variable in the type that it is stored in."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in ("biu" if name in ("valid", "frame_number") else "biufc"):
            raise TypeError(f"found {array.dtype}")
        array = array.astype(dtype, casting="unsafe" if name == "valid" else "same_kind")
    except (TypeError, ValueError) as error:
        raise ScanError(f"{name} cannot be read as an array of {np.dtype(dtype)}: {error}") from error
    return array[np.newaxis] if name in ("probe", "truth_probe") and array.ndim == 2 else array


def _header(intensity: Any, arrays: dict[str, NDArray[Any]]) -> xr.Dataset:
    """The scan in the input's order, with zeros in place of its frames; only the shapes are checked."""
    shapes = {"intensity": tuple(intensity.shape)} | {name: array.shape for name, array in arrays.items()}
    check_shapes(
        {
            name: (VARIABLES[name] if len(shape) == len(VARIABLES[name]) else ("?",) * len(shape), shape)
            for name, shape in shapes.items()
        }
    )
    stand_in = da.zeros(intensity.shape, dtype=intensity.dtype, chunks=-1)
    arrays = {"intensity": stand_in, "frame_number": np.arange(len(stand_in)), **arrays}
    return xr.Dataset({name: (VARIABLES[name], array) for name, array in arrays.items()})
