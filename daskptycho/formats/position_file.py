"""Positions in a file of their own: text with two columns, or NumPy's .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["read_position_file"]

NPY = b"\x93NUMPY"


def read_position_file(path: str | Path) -> NDArray[np.float64]:
    """Read positions from a file of their own.

    Parameters
    ----------
    path : str or Path
        A .npy file, or a text file with columns separated by blanks, commas or semicolons, where lines that
        start with # are comments.

    Returns
    -------
    (frame, 2) float64 array
        In the order and the unit of the file.

    Raises
    ------
    ScanError
        The file does not exist, or does not hold two columns of numbers.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ScanError(f"{path} does not exist; expected a file of positions")
    try:
        if path.read_bytes()[: len(NPY)] == NPY:
            found = np.load(path, allow_pickle=False)
        else:
            lines = path.read_text().replace(",", " ").replace(";", " ").splitlines()
            found = np.loadtxt(lines, ndmin=2)
        position = np.asarray(found, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise ScanError(f"{path} cannot be read as positions: {error}; expected two columns") from error
    if position.ndim != 2 or position.shape[1] != 2:
        raise ScanError(f"{path} holds numbers of the shape {position.shape}; expected two columns")
    return position
