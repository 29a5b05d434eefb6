"""A probe in a file of its own: a result or a scan of this package, NumPy's, MATLAB's and HDF5 files.

``daskptycho import`` and ``daskptycho reconstruct`` read what follows ``--probe``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.hdf5 import hdf5_arrays
from daskptycho.formats.hdf5_file import is_hdf5, open_hdf5
from daskptycho.formats.matlab import is_matlab, load_arrays
from daskptycho.formats.named_arrays import NamedArrays
from daskptycho.formats.npy import is_npy
from daskptycho.formats.npz import is_npz, open_arrays
from daskptycho.formats.position_file import split_key
from daskptycho.formats.usual_names import USUAL_NAMES, bare_name
from daskptycho.storage.store import load_dataset, open_dataset, parse_location

__all__ = ["read_probe"]

EXPECTED = "a result, or a file with an array (mode, y, x) or (y, x) of complex numbers"


def read_probe(path: str | Path) -> NDArray[np.complex64]:
    """Read a probe.

    Parameters
    ----------
    path : str or Path
        A result or a scan of this package, local or by URL, a .npy, .npz, HDF5 or MATLAB file; the last three
        may be followed by a colon and the name of the probe, as in ``last.h5:/reconstruction/probe``.

    Returns
    -------
    (mode, y, x) complex64 array

    Raises
    ------
    ScanError
        The file does not exist, or has no probe.
    """
    file, key = split_key(path)
    if "://" in str(path) or file.is_dir():
        location = parse_location(path)
        stored = open_dataset(location)
        if "probe" not in stored:
            raise ScanError(f"{location} has no probe; expected {EXPECTED}")
        return _check(load_dataset(location, stored[["probe"]])["probe"].values, str(path))
    if not file.is_file():
        raise ScanError(f"{file} does not exist; expected {EXPECTED}")
    try:
        if is_npy(file):
            return _check(np.load(file, allow_pickle=False), str(path))
        if is_hdf5(file):
            with open_hdf5(file) as opened:
                return _take(hdf5_arrays(opened, file), key, file)
        if is_matlab(file):
            return _take(load_arrays(file), key, file)
        if is_npz(file):
            with open_arrays(file) as arrays:
                return _take(arrays, key, file)
    except ScanError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise ScanError(f"{file} cannot be read as a probe: {error}; expected {EXPECTED}") from error
    raise ScanError(f"{file} is of no known format; expected {EXPECTED}")


def _take(arrays: NamedArrays, key: str | None, file: Path) -> NDArray[np.complex64]:
    """The array that is called `key`, or the one with a usual name, the least nested first."""
    if key is not None:
        where, array = arrays.find("probe", key)
        return _check(arrays.read(array), f"{where} of {file}")
    usual = [path for path in arrays.arrays if bare_name(path, "length") in USUAL_NAMES["probe"]]
    if not usual:
        listed = ", ".join(arrays.arrays) or "no arrays"
        raise ScanError(f"{file} has {listed}; expected a probe: name it, as in {file.name}:PATH")
    where = min(usual, key=lambda path: (path.count("/"), path))
    return _check(arrays.read(arrays.arrays[where]), f"{where} of {file}")


def _check(array: NDArray[Any], where: str) -> NDArray[np.complex64]:
    probe = np.asarray(array)
    if probe.dtype.names == ("real", "imag"):  # as HDF5 files of MATLAB keep complex numbers
        probe = probe["real"] + 1j * probe["imag"]
    # Files of other programs have axes of length one for object modes, positions or slices.
    while probe.ndim > 3 and 1 in probe.shape[:-2]:
        probe = np.squeeze(probe, axis=probe.shape.index(1))
    if probe.dtype.kind not in "iufc" or probe.ndim not in (2, 3):
        raise ScanError(f"{where} is {probe.dtype} of the shape {probe.shape}; expected {EXPECTED}")
    return np.asarray(probe if probe.ndim == 3 else probe[None], dtype=np.complex64)
