"""What an array of a file could be by its type and its shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.offers import describe, real_numbers

__all__ = [
    "DIMENSIONS",
    "are_columns",
    "could_be_frames",
    "could_be_small",
    "counts_of_frames",
    "drop_leading_ones",
    "fit_raster",
    "small_array",
]

DIMENSIONS = {"probe": 3, "valid": 2, "background": 2}


def drop_leading_ones(array: Any, dimensions: int) -> Any:
    """The array without leading axes of length one, as long as it has more than this number of dimensions."""
    while array.ndim > dimensions and array.shape[0] == 1:
        array = array[0]
    return array


def could_be_frames(array: Any) -> bool:
    """Whether an array may hold counts of frames."""
    shape = array.shape
    return (
        array.dtype.kind in "iuf"
        and len(shape) >= 3
        and min(shape[-2:]) >= 2
        and int(np.prod(shape[:-2])) > 0
    )


def counts_of_frames(shape: tuple[int, ...]) -> set[int]:
    """Number of frames of an array with their axes first, and with their axes last."""
    return {int(np.prod(shape[:-2])), int(np.prod(shape[2:]))}


def could_be_small(array: Any) -> bool:
    """Whether an array may hold a probe, a mask or a background."""
    names = array.dtype.names
    pair = names is not None and len(names) == 2 and all(array.dtype[n].kind in "iuf" for n in names)
    return (array.dtype.kind in "biufc" or pair) and len(array.shape) >= 2


def are_columns(pair: list[tuple[str, Any]]) -> bool:
    """Whether two arrays have a value for each of several frames, rows or columns."""
    return all(array.dtype.kind in "iuf" and len(array.shape) > 0 and array.size > 0 for _, array in pair)


def fit_raster(lengths: list[int], scan: tuple[int, ...]) -> bool:
    """Whether two columns have one value for each frame, or for each row and each column."""
    frames = int(np.prod(scan))
    return lengths == [frames, frames] or lengths[0] * lengths[1] == frames


def small_array(values: NDArray[Any], name: str, where: str) -> NDArray[Any]:
    """A probe, a mask or a background as a scan has it.

    Records of two numbers are complex ones, and dark frames are averaged.

    Parameters
    ----------
    values : array
    name : {"probe", "valid", "background"}
    where : str
        Its path in the file, for messages.

    Raises
    ------
    ScanError
        It has too many dimensions, or holds no numbers.
    """
    said = describe(values)
    if values.dtype.names is not None and len(values.dtype.names) == 2:
        real, imaginary = (real_numbers(values[part], where) for part in values.dtype.names)
        values = real + 1j * imaginary
    values = drop_leading_ones(values, DIMENSIONS[name])
    if name == "background" and values.ndim == 3 and values.dtype.kind in "iuf":
        values = values.mean(axis=0)
    if name == "valid" and values.ndim == 3:
        raise ScanError(
            f"valid ({where}) is {said}, a mask for each frame; expected one for all frames, (qy, qx): "
            "leave out whole frames (leave_out, --leave-out, which takes a mask of frames too), and give "
            "pixels that are bad in single frames a code (mask_value, --mask-value)"
        )
    if values.dtype.kind not in "biufc" or values.ndim not in (2, DIMENSIONS[name]):
        raise ScanError(f"{name} ({where}) is {said}; expected numbers of {DIMENSIONS[name]} dimensions")
    if name == "probe" and values.ndim == 2:
        values = values[np.newaxis]
    return values.astype(bool) if name == "valid" else values
