"""Export of results: the suffix of the file chooses the writer, and the file is complete or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.cxi import write_cxi
from daskptycho.formats.hdf5 import write_hdf5
from daskptycho.formats.nexus import write_nexus
from daskptycho.formats.npy import write_npy
from daskptycho.formats.ome_zarr import write_ome_zarr
from daskptycho.formats.tiff import write_tiff
from daskptycho.storage.folder import write_atomically, write_file_atomically
from daskptycho.storage.overwriting import exists_error

__all__ = ["SUFFIXES", "choose_writer", "export_result"]

WRITERS: dict[str, Callable[[xr.Dataset, Path], None]] = {
    ".cxi": write_cxi,
    ".nxs": write_nexus,
    ".nexus": write_nexus,
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
    ".zarr": write_ome_zarr,
    ".npy": write_npy,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}
SUFFIXES = tuple(WRITERS)

# As the `kind` of a picture it protects scans, results and checkpoints, whose `format` is another.
OME_ZARR = "picture in OME-Zarr"


def choose_writer(path: Path) -> Callable[[xr.Dataset, Path], None]:
    """Choose the writer for a file by its suffix.

    Raises
    ------
    OptionError
        The suffix belongs to no format.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OptionError(
            f"{path} ends in {path.suffix or 'no suffix'}; expected one of {', '.join(SUFFIXES)}"
        )
    return writer


def export_result(result: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a result in a format that other programs read, completely or not at all.

    Parameters
    ----------
    result : xarray.Dataset
        From `reconstruct` or `open_result`.
    path : str or Path
        Where to write it. The suffix chooses the format: .cxi (CXI), .nxs or .nexus (NeXus), .h5 or .hdf5
        (HDF5), .npy (NumPy), .zarr (OME-Zarr), .tif or .tiff (OME-TIFF). CXI and HDF5 hold the complex object
        and the probe, NumPy the complex object alone; OME-Zarr and OME-TIFF hold the phase, in radians, and
        the amplitude; NeXus holds all of these.
    overwrite : bool
        Replace a file, or a picture in OME-Zarr, that lies there.

    Returns
    -------
    Path
        Where the file was written.

    Raises
    ------
    ScanError
        Something lies at `path` already, the folder does not exist, or `path` is a URL. Scans, results and
        checkpoints are not replaced even with `overwrite`.
    OptionError
        The suffix belongs to no format, or the extra `formats` is not installed.
    """
    if "://" in str(path):
        raise ScanError(f"{path} is not a local path; expected one: only scans and results may be URLs")
    target = Path(path).expanduser()
    writer = choose_writer(target)
    if not target.parent.is_dir():
        raise ScanError(f"{target.parent} is not a folder; create it, or choose another path")
    if writer is write_ome_zarr:
        with write_atomically(target, overwrite=overwrite, kind=OME_ZARR) as folder:
            writer(result, folder)
        return target
    if target.is_dir() or (target.exists() and not overwrite):
        raise exists_error(target)
    with write_file_atomically(target) as partial:
        writer(result, partial)
    return target
