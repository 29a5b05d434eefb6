"""MATLAB's files up to version 7; those of version 7.3 are HDF5.

MATLAB's arrays have their frames last, (qy, qx, frame), unless the number of positions tells otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.lazy_frames import LazyFrames, frames_of_array
from daskptycho.formats.named_arrays import NamedArrays, read_named_arrays
from daskptycho.formats.offers import NO_KEYS, Keys
from daskptycho.formats.positions import Positions

__all__ = ["is_matlab", "load_arrays", "read_matlab", "read_matlab_positions"]

MAGIC = b"MATLAB 5.0 MAT-file"


def is_matlab(path: Path) -> bool:
    """Whether a file begins like those of MATLAB 5 to 7."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_matlab(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read a scan from the variables of a MATLAB file, which must fit into memory.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named; fields of a structure are named as in ``p/positions``.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        An array is not found, or the file cannot be read.
    """
    arrays = load_arrays(path)

    def open_frames(where: str, *, last: bool) -> LazyFrames:
        array = arrays.find("intensity", where)[1]
        return frames_of_array(lambda: nullcontext(array), array.shape, array.dtype, last=last)

    return read_named_arrays(arrays, keys, path.name, open_frames, usually_last=True)


def read_matlab_positions(path: Path, keys: Keys) -> Positions:
    """Read positions from a MATLAB file that may have nothing else.

    Raises
    ------
    ScanError
        It has none, or cannot be read.
    """
    return load_arrays(path).only_positions(keys, path.name)


def load_arrays(path: Path) -> NamedArrays:
    """Read all arrays of a MATLAB file."""
    from scipy.io import loadmat

    try:
        contents = loadmat(path)
    except Exception as error:  # damaged files make the reader raise all kinds of errors
        raise ScanError(f"{path} cannot be read as a MATLAB file: {error}") from error
    variables = {name: value for name, value in contents.items() if not name.startswith("__")}
    return NamedArrays(dict(_list_arrays(variables)), str(path))


def _list_arrays(variables: dict[str, Any], above: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays by their path; the fields of a structure lie below its name."""
    for name, value in variables.items():
        where = f"{above}{name}"
        if isinstance(value, np.ndarray) and value.dtype.names is not None and value.size == 1:
            record = value.ravel()[0]
            yield from _list_arrays({field: record[field] for field in value.dtype.names}, f"{where}/")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            yield where, value
