"""Formats: foreign files, read as scans and written from results.

Each format is one module with a reader, a writer or both; the content of a file decides which reader it
needs, and never its name. `arrange` brings what a reader found into the order of a scan, `first_probe`
guesses a probe, `export` chooses the writer. `hdf5_file`, `lazy_frames`, `laboratory` and `units` are what
several formats share.

These modules import `scan` and `storage`. Only `cli` and users import them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.arrange import Arrangement, arranged
from daskptycho.formats.cxi import is_cxi, read_cxi
from daskptycho.formats.export import export_result
from daskptycho.formats.hdf5 import read_hdf5
from daskptycho.formats.hdf5_file import is_hdf5
from daskptycho.formats.nexus import is_nexus, read_nexus
from daskptycho.formats.npz import is_npz, read_npz
from daskptycho.formats.position_file import read_position_file
from daskptycho.formats.ptyd import is_ptyd, read_ptyd
from daskptycho.formats.stem import is_stem, read_stem
from daskptycho.scan.dataset import create_scan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["export_result", "import_scan", "read_file", "read_npz"]

# Name, test and reader of each format, in the order in which they are tried: CXI before NeXus, since
# NXcxi_ptycho is both, and plain HDF5 last.
FORMATS: tuple[tuple[str, Callable[[Path], bool], Callable[..., dict[str, Any]]], ...] = (
    ("npz (also compressed by bz2, xz or gzip)", is_npz, read_npz),
    ("PtyPy's ptyd", is_ptyd, read_ptyd),
    ("NeXus (NXptycho, NXmx, Dectris master files)", is_nexus, read_nexus),
    ("CXI", is_cxi, read_cxi),
    ("4D-STEM (EMPAD, MIB, DM3 and DM4, HyperSpy, py4DSTEM)", is_stem, read_stem),
    ("HDF5", is_hdf5, read_hdf5),
)

ARRANGEMENT = {field.name for field in fields(Arrangement)}
GEOMETRY = (
    "energy_eV",
    "wavelength_m",
    "detector_distance_m",
    "detector_pixel_size_m",
    "source_distance_m",
    "pixel_size_m",
    "propagation",
    "radiation",
    "position_unit",
)


def read_file(
    path: str | Path,
    *,
    assume: Mapping[str, Any] | None = None,
    position_file: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Read a foreign file.

    Parameters
    ----------
    path : str or Path
    assume : mapping, optional
        Numbers that are taken where the file lacks them, as ``{"energy_eV": 8000}``.
    position_file : str or Path, optional
        A text file or a .npy file with the positions, two columns, where the data file has none.
    **options : dict
        Those of the format's reader, such as `intensity_key` of `read_hdf5`; of `arrange.Arrangement`, such
        as `crop`; and numbers of the geometry that go before what the file says, such as `energy_eV`.

    Returns
    -------
    dict
        Arguments for `create_scan`; the frames stay in the file.

    Raises
    ------
    ScanError
        No file, one of no known format, or one whose data or units cannot be right.
    OptionError
        An option that the format's reader does not have, or an extra that is not installed.
    """
    if "://" in str(path):
        raise ScanError(f"{path} is no local file; expected one: only scans and results may lie elsewhere")
    path = Path(path).expanduser()
    if not path.exists():
        raise ScanError(f"{path} does not exist; expected a data file")
    reader = _reader(path)
    own = set(inspect.signature(reader).parameters) - {"path"}
    reading = {name: options.pop(name) for name in list(options) if name in own}
    given = {name: options.pop(name) for name in list(options) if name in GEOMETRY}
    order = {name: options.pop(name) for name in list(options) if name in ARRANGEMENT}
    if options:
        raise OptionError(
            f"{', '.join(options)}: {path} is read by {reader.__name__}, which has no such option; "
            f"expected one of {', '.join(sorted(own | ARRANGEMENT | set(GEOMETRY)))}"
        )
    arrangement = Arrangement(**order)
    found = reader(path, **reading)
    if position_file is not None:
        found["position"] = read_position_file(position_file)
    return arranged(found, arrangement, given, assume or {})


def import_scan(
    path: str | Path,
    url: str | Path,
    *,
    assume: Mapping[str, Any] | None = None,
    position_file: str | Path | None = None,
    period: tuple[int, int] | None = None,
    tile_frames: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Turn a foreign file into a scan, block by block: the stack of frames is never in memory.

    Parameters
    ----------
    path : str or Path
        The foreign file; its content tells its format.
    url : str or Path
        Of the new scan, as of `create_scan`.
    assume : mapping, optional
        Numbers that are taken where the file lacks them, as ``{"energy_eV": 8000}``.
    position_file : str or Path, optional
        A text file or a .npy file with the positions, two columns, where the data file has none.
    period : (int, int), optional
        The canvas wraps round at that many pixels.
    tile_frames : int, optional
        Frames in a tile, as of `create_scan`.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.
    **options : dict
        Those of the format's reader, such as `intensity_key` of HDF5; of the arrangement, such as `crop`,
        `centre`, `position_axes` and `guess_probe`; and numbers of the geometry that go before what the
        file says, such as `energy_eV`. The command ``daskptycho import`` has them all.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it.

    Raises
    ------
    ScanError
        No file, one of no known format, or one whose data or units cannot be right.
    OptionError
        An option that the format's reader does not have, or an extra that is not installed.
    """
    found = read_file(path, assume=assume, position_file=position_file, **options)
    return create_scan(
        url, **found, period=period, tile_frames=tile_frames, overwrite=overwrite, progress=progress
    )


def _reader(path: Path) -> Callable[..., dict[str, Any]]:
    if path.is_dir():
        if is_stem(path):
            return read_stem
        raise ScanError(f"{path} is a folder; expected a data file")
    for _, recognises, reader in FORMATS:
        if recognises(path):
            return reader
    names = ", ".join(name for name, _, _ in FORMATS)
    raise ScanError(f"{path} is of no known format; expected one of: {names}")
