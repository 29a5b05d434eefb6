"""NumPy's .npy: an array of frames, which stay in the file until they are read; the object of a result."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from daskptycho.errors import ScanError
from daskptycho.formats.lazy_frames import LazyFrames, frames_of_array
from daskptycho.formats.named_arrays import NamedArrays, read_named_arrays
from daskptycho.formats.offers import NO_KEYS, Keys

__all__ = ["is_npy", "read_npy", "write_npy"]

MAGIC = b"\x93NUMPY"


def is_npy(path: Path) -> bool:
    """Whether a file is NumPy's .npy, by its signature."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_npy(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read frames from a .npy file, (frame, qy, qx) or (row, column, qy, qx).

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named; there is only one array, called "array".

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`; it has no positions.

    Raises
    ------
    ScanError
        The file cannot be read, or holds no frames.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ScanError(f"{path} cannot be read as a .npy file: {error}") from error

    def open_frames(where: str, *, last: bool) -> LazyFrames:
        return frames_of_array(lambda: nullcontext(array), array.shape, array.dtype, last=last)

    return read_named_arrays(NamedArrays({"array": array}, str(path)), keys, path.name, open_frames)


def write_npy(result: xr.Dataset, path: Path) -> None:
    """Write the object of a result, (y, x) complex64, to a new file that `numpy.load` reads."""
    with path.open("wb") as file:
        np.save(file, result["object"].values)
