"""NumPy files: the complex object as one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

__all__ = ["write_npy"]


def write_npy(result: xr.Dataset, path: Path) -> None:
    """Write the object of a result, (y, x) complex64, to a new file that `numpy.load` reads."""
    with path.open("wb") as file:
        np.save(file, result["object"].values)
