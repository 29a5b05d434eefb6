"""Scans: created from arrays, opened lazily, and asked for their tiles and frame numbers.

A scan is an `xarray.Dataset` over a Zarr v3 group, which is written whole or not at all. What other folders
ask of an opened scan, its pixel size for instance, they import from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.scan.calibration import geometry_attributes, pixel_size, position_in_pixels, scan_period
from daskptycho.scan.findings import describe_intake, valid_pixels
from daskptycho.scan.first_probe import Beam
from daskptycho.scan.frames import (
    ProgressCallback,
    default_tile_frames,
    list_missing_chunks,
    open_lazy_array,
    write_scan,
)
from daskptycho.scan.growing import (
    FRAMES_WRITTEN,
    MASKED,
    count_written,
    lay_out_frames,
    mark_written,
    plan_frames,
    read_masked,
)
from daskptycho.scan.header import check_frame_values, make_header, to_array
from daskptycho.scan.intake import Intake
from daskptycho.scan.left_out import (
    frames_used,
    leave_out_frames,
    list_numbers,
    spread_over_frames,
    take_used,
)
from daskptycho.scan.masked_arrays import take_mask
from daskptycho.scan.optics import FAR_FIELD, PHOTON, fresnel_kernel
from daskptycho.scan.validation import VARIABLES, check_shapes, validate_scan
from daskptycho.storage.store import (
    load_dataset,
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
    "frames_used",
    "fresnel_kernel",
    "leave_out_frames",
    "list_numbers",
    "open_scan",
    "pixel_size",
    "position_in_pixels",
    "scan_period",
    "spread_over_frames",
    "take_used",
    "tile_chunks",
    "validate_scan",
]

FORMAT = "daskptycho-scan"
FORMAT_VERSION = 1

# Variables that may be too large to be read when a scan is opened.
LAZY = ("intensity", "truth_object")


def create_scan(
    url: str | Path,
    intensity: Any = None,
    position: ArrayLike | None = None,
    *,
    planned_position: ArrayLike | None = None,
    frame_shape: tuple[int, int] | None = None,
    dtype: Any = None,
    probe: ArrayLike | None = None,
    valid: ArrayLike | None = None,
    background: ArrayLike | None = None,
    beam: Mapping[str, float] | None = None,
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
    frame_values: Mapping[str, ArrayLike] | None = None,
    leave_out: ArrayLike = (),
    mask_value: float | Sequence[float] = (),
    clip_negative: bool = False,
    truth_object: ArrayLike | xr.DataArray | None = None,
    truth_probe: ArrayLike | None = None,
    source: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> xr.Dataset:
    """Write a scan from arrays and open it.

    With `planned_position` in place of frames, the scan is only laid out, and grows: see `ScanWriter`.

    The frames are read and written tile by tile; the stack is never in memory. They are stored as uint16 if
    all counts are whole numbers below 2^16, otherwise as uint32 or float32. If a later tile is the first that
    needs a wider type, writing starts again. Pixels that are not valid are not checked, and are stored as
    zero.

    Pixels that do not count are masked: those with the end of a type, NaN, or a negative code in most frames,
    those that are stuck, and those far above their neighbours in every frame. Frames without counts, and
    those that dip or flash against all their neighbours, are left out: they stay in the scan, with
    ``frame_used`` False. A warning says what was masked or left out.

    Parameters
    ----------
    url : str or Path
        Where to write the scan: a folder, or a place in a bucket. The scan appears there when it is complete.
    intensity : (frame, qy, qx) array
        Counts in detector order, with the zero frequency at N//2; in the near field, images. A NumPy or dask
        array, or anything that can be indexed by an array of frame numbers. The mask of a masked array, which
        has to be the same in every frame, becomes part of `valid`.
    position : (frame, 2) array
        [y, x] of the first pixel of each frame on the object, in `position_unit`.
    planned_position : (frame, 2) array, optional
        In place of `intensity` and `position`: lay the scan out before its first frame is measured. The plan
        fixes frames, tiles and canvas; a `ScanWriter` then writes the frames as they come.
    frame_shape : (int, int), optional
        Pixels of a planned frame along qy and qx.
    dtype : numpy.dtype, optional
        Type of the counts of planned frames: uint16, uint32 or float32.
    probe : (mode, y, x) or (y, x) complex array, optional
        Probe to start a reconstruction from, centred at N//2.
    valid : (qy, qx) bool array, optional
        False where the detector does not count. By default all pixels are valid.
    background : (qy, qx) array, optional
        Mean counts in a frame that do not come from the sample; reconstructions subtract them.
    beam : mapping, optional
        What is known of the beam where there is no probe: `diameter`, `defocus_m` and
        `convergence_angle_mrad` as `guess_probe` takes them.
    energy_eV, wavelength_m : float, optional
        Photon energy in electronvolts (or kinetic energy of the electrons), or wavelength in metres. Each
        follows from the other; give one of the two.
    detector_distance_m : float, optional
        Distance from the sample to the detector in metres.
    detector_pixel_size_m : float or (float, float), optional
        Size of a detector pixel in metres, one number or [y, x].
    source_distance_m : float, optional
        Distance from a point source to the sample in metres, for the near field. Without it the beam is
        parallel.
    pixel_size_m : float or (float, float), optional
        Size of an object pixel in metres, one number or [y, x], if it is known by calibration. Otherwise it
        follows from the geometry.
    propagation : {"far-field", "near-field"}
        Whether frames are diffraction patterns or Fresnel images of the sample.
    radiation : {"photon", "electron"}
        Relates energy and wavelength.
    position_unit : {"m", "pixel"}
        Unit of `position`. Positions in metres need a known pixel size.
    period : (int, int), optional
        Size in object pixels, [y, x], of a canvas that wraps round. At least twice the frame.
    tile_frames : int, optional
        Number of frames in a tile, which is one shard of the store; a run may join tiles. By default a tile
        has at most about four million detector pixels, and all tiles are of about equal size.
    frame_number : (frame,) int array, optional
        Numbers of the frames, kept in the scan; by default their index in `intensity`.
    frame_values : mapping, optional
        Further numbers, one for each frame, by name. ``gain`` is a beam monitor: it multiplies amplitudes,
        and reconstructions take it into account.
    leave_out : sequence of int
        Numbers of frames to leave out: the scan keeps them, and nothing is computed from them.
    mask_value : float or sequence of float
        Codes of bad pixels: a pixel that holds one of these numbers in any frame is masked. It may be NaN.
    clip_negative : bool
        Set negative counts to 0, for instance after the subtraction of a dark frame; also those of unsigned
        types that have wrapped round.
    truth_object : (object_y, object_x) complex array, optional
        The object that a simulation was made from. Without coordinates its first pixel is at position 0.
    truth_probe : (mode, y, x) or (y, x) complex array, optional
        The probe that a simulation was made from.
    source : str, optional
        Description of where the data come from.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it. Its frames are sorted into tiles; `frame_number` says which is
        which.

    Warns
    -----
    UserWarning
        Pixels were masked, frames left out, or something is allowed but rarely intended: a frame far away,
        one that was read out twice, a zero frequency in the corner, a scan that hardly moves.

    Raises
    ------
    ScanError
        Data or geometry are impossible or contradict each other, or something lies at `url` that must not be
        overwritten. The message names the variable, what was found and what was expected.
    StoreError
        The server does not answer, or denies access.
    OptionError
        `tile_frames` is below 1, the scan has no frame that `leave_out` names, or `url` is malformed.
    """
    target, growing = parse_location(url), planned_position is not None
    if growing:
        intensity, position = plan_frames(
            *(planned_position, frame_shape, dtype),
            given={
                "intensity": intensity is not None,
                "position": position is not None,
                "leave_out": np.size(leave_out) > 0,
                "mask_value": np.size(mask_value) > 0,
                "clip_negative": clip_negative,
            },
        )
    if intensity is None or position is None:
        raise ScanError("there is no intensity, or no position; expected both, or a planned_position")
    if isinstance(intensity, xr.DataArray):
        intensity = intensity.data
    elif not hasattr(intensity, "dtype"):
        intensity = np.asarray(intensity)
    intensity, valid = take_mask(intensity, valid)
    given = {
        "position": (position, np.float64),
        "frame_number": (frame_number, np.int64),
        "valid": (valid, np.bool_),
        "background": (background, np.float32),
        "probe": (probe, np.complex64),
        "truth_object": (truth_object, np.complex64),
        "truth_probe": (truth_probe, np.complex64),
    }
    arrays = {name: to_array(name, a, dtype) for name, (a, dtype) in given.items() if a is not None}
    header = make_header(intensity, arrays)
    header["position"].attrs["units"] = position_unit
    for name, values in (frame_values or {}).items():
        header[name] = ("frame", check_frame_values(name, values, header.sizes["frame"]))
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
    if beam:
        header.attrs["beam"] = Beam(**beam).known()
    if source is not None:
        header.attrs["source"] = str(source)
    if np.size(leave_out):
        header = leave_out_frames(header, leave_out)
    validate_scan(header)
    if tile_frames is None:
        tile_frames = default_tile_frames(*header["intensity"].shape)
    elif tile_frames < 1:
        raise OptionError(f"tile_frames is {tile_frames}; expected at least 1")
    # A frame that is left out may have no position.
    order = compact_order(np.nan_to_num(position_in_pixels(header)), tile_frames)
    if growing:
        with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store:
            lay_out_frames(store, header, order, tile_frames)
        return open_scan(url)
    intake = Intake(
        header["intensity"].shape, intensity.dtype, valid_pixels(header), mask_value, clip_negative
    )
    said: list[str] = []

    def conclude() -> xr.Dataset:
        found, words = describe_intake(header, intake)
        said.extend(words)
        return found

    with write_atomically(target, kind=FORMAT, overwrite=overwrite) as store:
        write_scan(
            *(store, header.drop_vars("intensity"), intensity, order, tile_frames, intake),
            *(conclude, progress),
        )
    for sentence in said:
        warn_caller(sentence)
    return open_scan(url)


def open_scan(url: str | Path) -> xr.Dataset:
    """Open a scan lazily.

    Only the small variables are read. The frames are a dask array with one chunk for each tile; they are read
    by the tasks that need them. The dataset and its graph hold the URL and no credentials, which each process
    looks up for itself.

    Parameters
    ----------
    url : str or Path
        Where `create_scan` or ``daskptycho import`` wrote the scan: a folder, or a place in a bucket or on a
        web server.

    Returns
    -------
    xarray.Dataset
        ``intensity (frame, qy, qx)`` as a dask array of counts, ``position (frame, axis)`` [y, x] in its own
        ``units``, ``frame_number (frame)``; and, if the scan has them, ``frame_used (frame)``, False for the
        frames that are left out, ``valid (qy, qx)``,
        ``background (qy, qx)``, ``probe (mode, y, x)``, ``truth_object (object_y, object_x)`` and
        ``truth_probe (mode, y, x)``, and further numbers along ``frame``. The attributes hold the geometry,
        in metres and electronvolts.

    Raises
    ------
    ScanError
        There is no scan at `url`, or part of it is missing or impossible.
    StoreError
        The server does not answer, or denies access.
    OptionError
        `url` is malformed.
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
        # Before all else: what is written while the rest is read does not count.
        written = count_written(location, stored)
        missing, expected = list_missing_chunks(location, None if written is None else written > 0)
        if missing:
            raise ScanError(
                f"{len(missing)} of {expected} chunks of intensity are missing from the store {location}, "
                f"first {missing[0]}; write or copy the scan again"
            )
        masked = None if written is None else read_masked(location, stored)
        aside = [name for name in (*LAZY, FRAMES_WRITTEN, MASKED) if name in stored]
        ds = load_dataset(location, stored.drop_vars(aside))
    lazy = {
        name: (variable.dims, open_lazy_array(location, variable, name), variable.attrs, variable.encoding)
        for name, variable in stored.variables.items()
        if name in LAZY
    }
    # A new dataset: the opened one keeps its store open.
    ds = xr.Dataset({**lazy, **ds.variables}, attrs=ds.attrs)
    ds = ds[[name for name in stored.variables if name in ds]]
    ds.encoding["source"] = str(url)
    if written is None or masked is None:
        validate_scan(ds)
        return ds
    return mark_written(ds, written, masked)


def tile_chunks(ds: xr.Dataset) -> tuple[int, ...]:
    """Number of frames in each tile: the chunks of `intensity`, or one tile if it is not chunked."""
    chunks = ds["intensity"].chunksizes.get("frame")
    return (ds.sizes["frame"],) if chunks is None else tuple(int(n) for n in chunks)


def frame_numbers(ds: xr.Dataset) -> NDArray[np.int64]:
    """Number of each frame in the order of acquisition; 0, 1, 2 and so on for a scan without numbers."""
    return ds["frame_number"].values if "frame_number" in ds else np.arange(ds.sizes["frame"])
