"""Formats: foreign files, read as scans and written from results.

Each format is one module with a reader, a writer or both; the content of a file decides which reader it
needs, and never its name. `arrange` brings what a reader found into the order of a scan, `first_probe`
guesses a probe, `export` chooses the writer. `array_names`, `extras`, `hdf5_file`, `laboratory`,
`lazy_frames` and `units` are what several formats share.

These modules import `scan` and `storage`. Only `cli` and users import them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.arrange import GEOMETRY_OPTIONS, Arrangement, arrange_scan
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
from daskptycho.scan.optics import NEAR_FIELD

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["export_result", "import_scan", "read_file", "read_npz"]

# Name, test and reader of each format, in the order in which they are tried: NeXus before CXI, since
# NXcxi_ptycho is both, and plain HDF5 last.
FORMATS: tuple[tuple[str, Callable[[Path], bool], Callable[..., dict[str, Any]]], ...] = (
    ("npz (also compressed by bz2, xz or gzip)", is_npz, read_npz),
    ("PtyPy's ptyd", is_ptyd, read_ptyd),
    ("NeXus (NXptycho, NXmx, Dectris master files)", is_nexus, read_nexus),
    ("CXI", is_cxi, read_cxi),
    ("4D-STEM (EMPAD, MIB, DM3 and DM4, HyperSpy, py4DSTEM)", is_stem, read_stem),
    ("HDF5", is_hdf5, read_hdf5),
)

ARRANGEMENT_OPTIONS = {field.name for field in fields(Arrangement)}


def read_file(
    path: str | Path,
    *,
    assume: Mapping[str, Any] | None = None,
    position_file: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Read a foreign file as arguments of `create_scan`.

    Parameters
    ----------
    path : str or Path
    assume : mapping, optional
        Values for what the file lacks, as in ``{"energy_eV": 8000}``.
    position_file : str or Path, optional
        A text file or a .npy file with the positions in two columns, for a data file without positions.
    **options : dict
        Options of the format's reader, such as `intensity_key` of `read_hdf5`; fields of
        `arrange.Arrangement`, such as `crop`; and numbers of the geometry that take precedence over the file,
        such as `energy_eV`.

    Returns
    -------
    dict
        Arguments of `create_scan`; the frames stay in the file.

    Raises
    ------
    ScanError
        The file does not exist, is of no known format, or holds impossible data or units.
    OptionError
        The reader has no such option, or the extra `formats` is not installed.
    """
    if "://" in str(path):
        raise ScanError(f"{path} is not a local file; expected one: only scans and results may be URLs")
    path = Path(path).expanduser()
    if not path.exists():
        raise ScanError(f"{path} does not exist; expected a data file")
    reader = _choose_reader(path)
    reader_options = set(inspect.signature(reader).parameters) - {"path"}
    reading = {name: options.pop(name) for name in list(options) if name in reader_options}
    given = {name: options.pop(name) for name in list(options) if name in GEOMETRY_OPTIONS}
    arranging = {name: options.pop(name) for name in list(options) if name in ARRANGEMENT_OPTIONS}
    if options:
        known = sorted(reader_options | ARRANGEMENT_OPTIONS | set(GEOMETRY_OPTIONS))
        raise OptionError(
            f"{', '.join(options)}: {path} is read by {reader.__name__}, which has no such option; "
            f"expected one of {', '.join(known)}"
        )
    arrangement = Arrangement(**arranging)
    found = reader(path, **reading)
    if position_file is not None:
        found["position"] = read_position_file(position_file)
    scan = arrange_scan(found, arrangement, given, assume or {})
    in_corner = "corner" in (arrangement.zero_frequency, reading.get("zero_frequency"))
    if scan.get("propagation") == NEAR_FIELD and (in_corner or arrangement.centre is not None):
        raise OptionError(
            "zero_frequency 'corner' or centre is given for a near field, whose frames are images without a "
            "zero frequency; expected neither"
        )
    return scan


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
    """Convert a file of another program or instrument to a scan.

    The frames are read and written tile by tile; the stack is never in memory (except for npz archives).

    Parameters
    ----------
    path : str or Path
        The file to import. Its format is recognised by its content: npz, PtyPy's ptyd, NeXus, CXI, 4D-STEM or
        HDF5.
    url : str or Path
        Where to write the scan, as for `create_scan`.
    assume : mapping, optional
        Values for what the file lacks, as in ``{"energy_eV": 8000}``.
    position_file : str or Path, optional
        A text file or a .npy file with the positions in two columns, for a data file without positions.
    period : (int, int), optional
        Size in object pixels, [y, x], of a canvas that wraps round.
    tile_frames : int, optional
        Number of frames in a tile, as for `create_scan`.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.
    **options : dict
        Options of the format, such as `intensity_key` for HDF5; options for the order of frames and
        positions, such as `crop`, `centre`, `position_axes` and `guess_probe`; and numbers of the geometry
        that take precedence over the file, such as `energy_eV`. The help of ``daskptycho import`` explains
        all of them.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it.

    Warns
    -----
    UserWarning
        The file contradicts a number that was given, or has one that was assumed; or something was guessed.

    Raises
    ------
    ScanError
        The file does not exist, is of no known format, or holds impossible data or units; or something lies
        at `url` that must not be overwritten.
    StoreError
        The server does not answer, or denies access.
    OptionError
        The format has no such option, or the extra `formats` is not installed.
    """
    found = read_file(path, assume=assume, position_file=position_file, **options)
    return create_scan(
        url, **found, period=period, tile_frames=tile_frames, overwrite=overwrite, progress=progress
    )


def _choose_reader(path: Path) -> Callable[..., dict[str, Any]]:
    """The reader of the first format that recognises a file."""
    if path.is_dir():
        if is_stem(path):
            return read_stem
        raise ScanError(f"{path} is a folder; expected a data file")
    for _, recognises, reader in FORMATS:
        if recognises(path):
            return reader
    names = ", ".join(name for name, _, _ in FORMATS)
    raise ScanError(f"{path} is of no known format; expected one of: {names}")
