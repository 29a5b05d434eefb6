"""The header of a scan that is to be written: its small variables, checked and in the order of the input."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import ScanError
from daskptycho.scan.validation import VARIABLES, check_shapes

__all__ = ["check_frame_values", "make_header", "to_array"]


def check_frame_values(name: str, values: ArrayLike, frames: int) -> NDArray[np.float64]:
    """One number for each frame."""
    if name in VARIABLES:
        raise ScanError(
            f"frame_values has {name!r}, a variable that every scan may have; choose another name"
        )
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (frames,):
        raise ScanError(f"{name} has shape {found.shape}; expected one number for each of {frames} frames")
    return found


def to_array(name: str, value: Any, dtype: Any) -> NDArray[Any]:
    """Convert a small variable to the type that it is stored in; a single probe gets an axis of modes."""
    try:
        if np.ma.is_masked(value):
            raise TypeError(f"{int(np.ma.count_masked(value))} of its values are masked")
        array = np.asarray(value)
        if array.dtype.kind not in ("biu" if name in ("valid", "frame_number") else "biufc"):
            raise TypeError(f"found {array.dtype}")
        array = array.astype(dtype, casting="unsafe" if name == "valid" else "same_kind")
    except (TypeError, ValueError) as error:
        raise ScanError(f"{name} cannot be read as an array of {np.dtype(dtype)}: {error}") from error
    return array[np.newaxis] if name in ("probe", "truth_probe") and array.ndim == 2 else array


def make_header(intensity: Any, arrays: dict[str, NDArray[Any]]) -> xr.Dataset:
    """The scan in the order of the input, with zeros in place of its frames; only shapes are checked."""
    shapes = {"intensity": tuple(intensity.shape)} | {name: array.shape for name, array in arrays.items()}
    check_shapes(
        {
            name: (VARIABLES[name] if len(shape) == len(VARIABLES[name]) else ("?",) * len(shape), shape)
            for name, shape in shapes.items()
        }
    )
    zeros = da.zeros(intensity.shape, dtype=intensity.dtype, chunks=-1)
    arrays = {"intensity": zeros, "frame_number": np.arange(len(zeros)), **arrays}
    return xr.Dataset({name: (VARIABLES[name], array) for name, array in arrays.items()})
