"""What makes an `xarray.Dataset` a scan: its variables, their dimensions, and the checks on their values.

Nothing here opens a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.scan.calibration import check_geometry, pixel_size, position_in_pixels, scan_period
from daskptycho.scan.left_out import frames_used, take_used
from daskptycho.scan.odd_frames import describe_outlying, find_outlying

__all__ = ["VARIABLES", "check_counts", "check_shapes", "validate_scan"]

# Dimensions of every variable that a scan may hold; the first two are required.
VARIABLES = {
    "intensity": ("frame", "qy", "qx"),
    "position": ("frame", "axis"),
    "frame_number": ("frame",),
    "frame_used": ("frame",),
    "valid": ("qy", "qx"),
    "background": ("qy", "qx"),
    "probe": ("mode", "y", "x"),
    "truth_object": ("object_y", "object_x"),
    "truth_probe": ("mode", "y", "x"),
}

# Kinds of numbers, as dtype.kind names them; real ones for the other variables.
KINDS = {
    "valid": "b",
    "frame_used": "b",
    "frame_number": "iu",
    "probe": "iufc",
    "truth_object": "iufc",
    "truth_probe": "iufc",
}
KIND_NAMES = {"b": "bool", "iu": "integers", "iuf": "real numbers", "iufc": "numbers"}

# Largest ratio of the canvas to the summed area of all frames: a larger one means a wrong unit. Even a
# diagonal line of a thousand frames stays below it if its step is a quarter of a frame.
SPARSEST = 64

# Frames that lie together within this distance, in pixels, do not scan anything: the unit is too large.
SMALLEST_SPAN = 1.0

# Frames in memory are checked in blocks of about this many pixels.
BLOCK_PIXELS = 2**22

LARGEST = np.finfo(np.float32).max


def validate_scan(ds: xr.Dataset) -> None:
    """Check the variables, the geometry and the positions of a scan.

    Frames in memory are checked too; those of a dask array are not read.

    Raises
    ------
    ScanError
        Names the variable that is wrong, what was found and what was expected.
    """
    if not isinstance(ds, xr.Dataset):
        raise ScanError(f"the scan is a {type(ds).__name__}; expected an xarray.Dataset, as from open_scan")
    check_shapes({name: (ds[name].dims, ds[name].shape) for name in VARIABLES if name in ds})
    for name in VARIABLES:
        kinds = KINDS.get(name, "iuf")
        if name in ds and ds[name].dtype.kind not in kinds:
            raise ScanError(f"{name} is of type {ds[name].dtype}; expected {KIND_NAMES[kinds]}")
    check_geometry(ds.attrs)
    _check_detector(ds)
    for name in ("probe", "truth_probe"):
        if name in ds:
            _check_probe(name, ds[name].values)
    _check_position(ds)
    if ds["intensity"].chunks is None:
        _check_frames_in_memory(ds)


def check_shapes(variables: Mapping[str, tuple[tuple[Any, ...], tuple[int, ...]]]) -> None:
    """Check the dimensions and sizes of the variables, given as name: (dimensions, shape).

    Raises
    ------
    ScanError
        A variable is missing, has other dimensions, or does not fit the frames.
    """
    for name in ("intensity", "position"):
        if name not in variables:
            raise ScanError(f"{name} is missing; expected a variable {name} {_signature(name)}")
    sizes: dict[str, int] = {"axis": 2}
    for name, dims in VARIABLES.items():
        if name not in variables:
            continue
        found_dims, shape = variables[name]
        if tuple(found_dims) != dims:
            found = ", ".join(f"{dim}: {size}" for dim, size in zip(found_dims, shape, strict=True))
            raise ScanError(f"{name} has the dimensions ({found}); expected {_signature(name)}")
        if not all(isinstance(size, (int, np.integer)) for size in shape):
            raise ScanError(f"{name} has the shape {shape}; expected known sizes (compute_chunk_sizes())")
        if any(sizes.get(dim, size) != size for dim, size in zip(dims, shape, strict=True)):
            expected = ", ".join(str(sizes.get(dim, dim)) for dim in dims)
            raise ScanError(
                f"{name} has the shape {tuple(shape)}; expected {_signature(name)} = ({expected}), "
                "to fit the other variables"
            )
        sizes |= dict(zip(dims, shape, strict=True))
        if name == "intensity":
            if shape[0] < 1 or min(shape[1:]) < 2:
                raise ScanError(
                    f"intensity has the shape {tuple(shape)}; expected frames of 2 x 2 pixels or more"
                )
            sizes |= {"y": shape[1], "x": shape[2]}


def check_counts(frames: NDArray[Any], valid: NDArray[np.bool_] | None, number: NDArray[np.int64]) -> None:
    """Check that the counts of some frames are finite and not negative on the valid pixels.

    Parameters
    ----------
    frames : (frame, qy, qx) array
    valid : (qy, qx) bool array or None
    number : (frame,) int array
        Number of each frame in the input, for the message.

    Raises
    ------
    ScanError
        Names the first bad frame and the number of its bad values.
    """
    if frames.dtype.kind == "u":
        return
    # A comparison with NaN is false, so this one test finds NaN, infinite and negative counts.
    good = (frames >= 0) & (frames <= LARGEST)
    if valid is not None:
        good |= ~valid
    if good.all():
        return
    bad_frames = np.flatnonzero(~good.all(axis=(1, 2)))
    first = bad_frames[np.argmin(number[bad_frames])]
    counts = frames[first][~good[first]]
    negative = int((counts < 0).sum())
    found = [
        f"{n} {kind} value{'s' if n > 1 else ''}"
        for n, kind in ((len(counts) - negative, "NaN or infinite"), (negative, "negative"))
        if n
    ]
    others = f" ({len(bad_frames)} such frames in this tile)" if len(bad_frames) > 1 else ""
    raise ScanError(
        f"intensity holds {' and '.join(found)} in frame {number[first]} of the input{others}; "
        "expected finite counts of at least 0 (mark bad pixels in valid; mask_value, --mask-value, masks the "
        "pixels that hold a code; clip_negative, --clip-negative, sets negative counts to 0)"
    )


def _signature(name: str) -> str:
    return f"({', '.join(VARIABLES[name])})"


def _check_detector(ds: xr.Dataset) -> None:
    if "valid" in ds and not ds["valid"].values.any():
        raise ScanError("valid is False on every pixel; expected True where the detector counts")
    if "background" in ds:
        good = (ds["background"].values >= 0) & (ds["background"].values <= LARGEST)
        if not good.all():
            raise ScanError(
                f"background holds {int((~good).sum())} values that are NaN, infinite or negative; "
                "expected finite counts"
            )


def _check_probe(name: str, probe: NDArray[Any]) -> None:
    if not np.isfinite(probe).all():
        raise ScanError(
            f"{name} holds {int((~np.isfinite(probe)).sum())} NaN or infinite values; expected none"
        )
    if not probe.any():
        raise ScanError(f"{name} is zero everywhere; expected an illumination")


def _check_position(ds: xr.Dataset) -> None:
    """Check the positions of all frames that are used."""
    used = np.flatnonzero(frames_used(ds))
    if not used.size:
        raise ScanError("frame_used is False for every frame; expected frames to compute with")
    number = (ds["frame_number"].values if "frame_number" in ds else np.arange(ds.sizes["frame"]))[used]
    stored = ds["position"].values[used]
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        first, lost = int(np.argmin(finite)), number[~finite]
        raise ScanError(
            f"position is not finite for {len(lost)} of {len(stored)} frames, first for frame "
            f"{number[first]}: {stored[first].tolist()}; expected [y, x], or these frames left out "
            f"(leave_out, --leave-out {','.join(map(str, lost[:20]))}{',...' if len(lost) > 20 else ''})"
        )
    position = position_in_pixels(ds)[used]
    frame_shape = (ds.sizes["qy"], ds.sizes["qx"])
    period = scan_period(ds)
    if period is None:
        _check_span(ds, position, number, frame_shape)
        return
    twice = (2 * frame_shape[0], 2 * frame_shape[1])
    if period[0] < twice[0] or period[1] < twice[1]:
        raise ScanError(f"period is {period} pixels; expected at least {twice}, twice the frame")
    outside = ((position < 0) | (position >= period)).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        raise ScanError(
            f"position lies outside the period for {int(outside.sum())} of {len(position)} frames, first for "
            f"frame {number[first]}: {position[first].tolist()} pixels; expected from 0 to less than {period}"
        )


def _check_span(
    ds: xr.Dataset, position: NDArray[np.float64], number: NDArray[np.int64], frame_shape: tuple[int, int]
) -> None:
    """Check that the frames move, and that the canvas is not far larger than all of them together."""
    span = np.ptp(position, axis=0)
    if len(position) > 1 and span.max() < SMALLEST_SPAN:
        raise ScanError(
            f"position spans {span[0]:.3g} x {span[1]:.3g} pixels, so that all {len(position)} frames show "
            f"the same place; expected {SMALLEST_SPAN:g} pixel or more: {_name_scale(ds)} is probably wrong, "
            "or a distance or the energy that the pixel size follows from"
        )
    summed = len(position) * float(frame_shape[0]) * frame_shape[1]
    if (span + frame_shape).prod() <= SPARSEST * summed:
        return
    outlying = find_outlying(position, frame_shape)
    if outlying is not None:
        kept = np.delete(position, outlying.frames, axis=0)
        if (np.ptp(kept, axis=0) + frame_shape).prod() > SPARSEST * summed:
            outlying = None
    few = "" if outlying is None else f", or {describe_outlying(outlying, number, position)}"
    raise ScanError(
        f"position spans {span[0]:.6g} x {span[1]:.6g} pixels for {len(position)} frames of "
        f"{frame_shape[0]} x {frame_shape[1]} pixels; expected a canvas of at most {SPARSEST} times the "
        f"summed area of all frames: {_name_scale(ds)} is probably wrong{few}"
    )


def _name_scale(ds: xr.Dataset) -> str:
    """What turns positions into pixels, for an error."""
    size = pixel_size(ds)
    pixel = "" if size is None else f" of {size[0]:.3g} x {size[1]:.3g} m"
    return f"the unit ({ds['position'].attrs.get('units')}) or the pixel size{pixel}"


def _check_frames_in_memory(ds: xr.Dataset) -> None:
    numbers = np.flatnonzero(frames_used(ds))
    frames = take_used(ds)["intensity"]
    valid = ds["valid"].values if "valid" in ds else None
    step = max(1, BLOCK_PIXELS // int(np.prod(frames.shape[1:])))
    for start in range(0, len(frames), step):
        block = frames[start : start + step].values
        check_counts(block, valid, numbers[start : start + len(block)])
