"""Export of results: the suffix of the file chooses the writer, and the file is complete or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.cxi import write_cxi
from daskptycho.formats.hdf5 import write_hdf5
from daskptycho.formats.nexus import write_nexus
from daskptycho.formats.ome_zarr import write_ome_zarr
from daskptycho.formats.tiff import write_tiff
from daskptycho.storage.folder import write_atomically, write_file_atomically

__all__ = ["SUFFIXES", "choose_writer", "export_result"]

WRITERS: dict[str, Callable[[xr.Dataset, Path], None]] = {
    ".cxi": write_cxi,
    ".nxs": write_nexus,
    ".nexus": write_nexus,
    ".h5": write_hdf5,
    ".hdf5": write_hdf5,
    ".zarr": write_ome_zarr,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}
SUFFIXES = tuple(WRITERS)

# As a `kind` it keeps scans, results and checkpoints, whose `format` is another, from being replaced.
OME_ZARR = "picture in OME-Zarr"


def choose_writer(path: Path) -> Callable[[xr.Dataset, Path], None]:
    """The writer that a file's name asks for.

    Raises
    ------
    OptionError
        A suffix of no format.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise OptionError(
            f"{path} ends in {path.suffix or 'no suffix'}; expected one of {', '.join(SUFFIXES)}"
        )
    return writer


def export_result(result: xr.Dataset, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a result in a format that other programs read: whole, or not at all.

    Parameters
    ----------
    result : xarray.Dataset
        From `reconstruct` or `open_result`.
    path : str or Path
        Its suffix names the format: .cxi, .nxs (NeXus), .h5 (HDF5), .zarr (OME-Zarr), .tif (OME-TIFF).
    overwrite : bool
        Replace what lies there.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    ScanError
        Something lies there already, a scan, a result or checkpoints even with `overwrite`; or the folder
        does not exist.
    OptionError
        A suffix of no format, or an extra that is not installed.
    """
    if "://" in str(path):
        raise ScanError(f"{path} is no local path; expected one: only scans and results may lie elsewhere")
    target = Path(path).expanduser()
    writer = choose_writer(target)
    if not target.parent.is_dir():
        raise ScanError(f"{target.parent} is no folder; make it, or name another place")
    if writer is write_ome_zarr:
        with write_atomically(target, overwrite=overwrite, kind=OME_ZARR) as folder:
            writer(result, folder)
        return target
    if target.is_dir() or (target.exists() and not overwrite):
        raise ScanError(f"{target} exists already; pass overwrite=True (--overwrite) to replace it")
    with write_file_atomically(target) as partial:
        writer(result, partial)
    return target
