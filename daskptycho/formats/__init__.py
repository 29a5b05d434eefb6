"""Formats: foreign files, read as scans and written from results.

Each format is one module with a reader, a writer or both; the content of a file decides which reader it
needs, and never its name. `arrange` brings what a reader found into the order of a scan, `probe_file` reads a
probe from elsewhere, `export` chooses the writer. `offers` lists what a file has for each thing that a scan
needs, and keeps account of what was taken; `named_arrays`, with `usual_names` and `positions`, finds arrays
in files that follow no convention. `extras`, `hdf5_file`, `laboratory`, `lazy_frames` and `units` are what
several formats share.

These modules import `scan` and `storage`. Only `cli` and users import them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.arrange import Arrangement, arrange_scan
from daskptycho.formats.cxi import is_cxi, read_cxi
from daskptycho.formats.export import export_result
from daskptycho.formats.geometry import GEOMETRY_OPTIONS
from daskptycho.formats.hdf5 import read_hdf5
from daskptycho.formats.hdf5_file import is_hdf5
from daskptycho.formats.matlab import is_matlab, read_matlab
from daskptycho.formats.nexus import is_nexus, read_nexus
from daskptycho.formats.npy import is_npy, read_npy
from daskptycho.formats.npz import is_npz, read_npz
from daskptycho.formats.offers import CALLED, Keys, Taken
from daskptycho.formats.position_file import read_position_file, split_key
from daskptycho.formats.probe_file import read_probe
from daskptycho.formats.ptyd import is_ptyd, read_ptyd
from daskptycho.formats.stem import is_stem, read_stem
from daskptycho.formats.tiff_frames import is_tiff, read_tiff
from daskptycho.formats.zarr_arrays import is_zarr, read_zarr
from daskptycho.scan.dataset import create_scan
from daskptycho.scan.optics import NEAR_FIELD

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["export_result", "import_scan", "read_file", "read_npz"]

# Name, test and reader of each format, in the order in which they are tried: NeXus before CXI, since
# NXcxi_ptycho is both, and plain HDF5 last.
FORMATS: tuple[tuple[str, Callable[[Path], bool], Callable[..., dict[str, Any]]], ...] = (
    ("npz (also compressed by bz2, xz or gzip)", is_npz, read_npz),
    ("npy", is_npy, read_npy),
    ("MATLAB (also 7.3)", is_matlab, read_matlab),
    ("TIFF", is_tiff, read_tiff),
    ("PtyPy's ptyd", is_ptyd, read_ptyd),
    ("NeXus (NXptycho, NXmx, Dectris master files)", is_nexus, read_nexus),
    ("CXI", is_cxi, read_cxi),
    ("4D-STEM (EMPAD, MIB, DM3 and DM4, BLO, MRC, TVIPS, HyperSpy, py4DSTEM)", is_stem, read_stem),
    ("HDF5", is_hdf5, read_hdf5),
)

# The same of folders.
OF_FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[..., dict[str, Any]]], ...] = (
    (is_stem, read_stem),
    (is_zarr, read_zarr),
    (is_tiff, read_tiff),
)

ARRANGEMENT_OPTIONS = {field.name for field in fields(Arrangement)}
KEY_OPTIONS = {field.name for field in fields(Keys)} - {"position_columns"}


def read_file(
    path: str | Path,
    *,
    assume: Mapping[str, Any] | None = None,
    position_file: str | Path | None = None,
    position_columns: Sequence[str] | None = None,
    probe: str | Path | None = None,
    report: Callable[[list[Taken]], Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Read a foreign file as arguments of `create_scan`.

    Parameters
    ----------
    path : str or Path
    assume : mapping, optional
        Values for what the file lacks, as in ``{"energy_eV": 8000}``.
    position_file : str or Path, optional
        A file with the positions: text with two columns or a header that names x and y, a .npy, .npz, HDF5
        or MATLAB file, the last three also with the name of the positions, as in ``motors.h5:/scan/xy``.
    position_columns : sequence of str, optional
        Names of the two columns of positions among several, in a file of their own or in an array with a key,
        or their numbers from 1.
    probe : str or Path, optional
        A result or another file with a probe, in place of the one of the file.
    report : callable, optional
        Called with what was taken for each thing from which path of the file, and what else was seen.
    **options : dict
        Fields of `offers.Keys`, such as `intensity_key`; fields of `arrange.Arrangement`, such as `crop`; and
        numbers of the geometry that take precedence over the file, such as `energy_eV`.

    Returns
    -------
    dict
        Arguments of `create_scan`; the frames stay in the file.

    Raises
    ------
    ScanError
        The file does not exist, is of no known format, or holds impossible data or units.
    OptionError
        There is no such option, or the extra `formats` is not installed.
    """
    if "://" in str(path):
        if not str(path).rstrip("/").endswith((".zarr", ".zgroup")):
            raise ScanError(f"{path} is not a local file; expected one, or the URL of a Zarr store (.zarr)")
        reader: Callable[..., dict[str, Any]] = read_zarr
    else:
        path = Path(path).expanduser()
        if not path.exists():
            raise ScanError(f"{path} does not exist; expected a data file")
        reader = _choose_reader(path)
    naming = {name: options.pop(name) for name in list(options) if name in KEY_OPTIONS}
    given = {name: options.pop(name) for name in list(options) if name in GEOMETRY_OPTIONS}
    arranging = {name: options.pop(name) for name in list(options) if name in ARRANGEMENT_OPTIONS}
    if options:
        known = sorted(KEY_OPTIONS | ARRANGEMENT_OPTIONS | set(GEOMETRY_OPTIONS))
        raise OptionError(
            f"{', '.join(options)}: there is no such option; expected one of {', '.join(known)}"
        )
    arrangement = Arrangement(**arranging)
    found = reader(path, Keys(**naming, position_columns=position_columns))
    if position_file is not None:
        _replace_positions(found, position_file, position_columns)
    if probe is not None:
        if arranging.get("guess_probe") or arrangement.beam():
            raise OptionError("a probe is given, and a guess of one; expected one of the two")
        found["probe"] = read_probe(probe)
    if report is not None:
        report(found.get("account", []))
    scan = arrange_scan(found, arrangement, given, assume or {})
    in_corner = arrangement.zero_frequency == "corner"
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
    probe: str | Path | None = None,
    period: tuple[int, int] | None = None,
    tile_frames: int | None = None,
    leave_out: Sequence[int] = (),
    mask_value: float | Sequence[float] = (),
    clip_negative: bool = False,
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
        A file with the positions: text with two columns or a header that names x and y, a .npy, .npz, HDF5
        or MATLAB file, the last three also with the name of the positions, as in ``motors.h5:/scan/xy``.
    probe : str or Path, optional
        A result of this package, or a file with a probe: .npy, .npz, MATLAB or HDF5, the last three also with
        the name of the probe, as in ``last.h5:/probe``. By default that of the file; without one,
        `reconstruct` guesses one.
    period : (int, int), optional
        Size in object pixels, [y, x], of a canvas that wraps round.
    tile_frames : int, optional
        Number of frames in a tile, as for `create_scan`.
    leave_out : sequence of int
        Numbers of frames to leave out, as for `create_scan`.
    mask_value : float or sequence of float
        Codes of bad pixels, as for `create_scan`.
    clip_negative : bool
        Whether negative counts are set to 0, as for `create_scan`.
    overwrite : bool
        Replace a scan that lies at `url`, once the new one is complete.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.
    **options : dict
        Options of the format, such as `intensity_key` for HDF5; options for the order of frames and
        positions, such as `position_columns` (names of two columns among several, or their numbers from 1),
        `crop`, `centre`, `position_axes` and `guess_probe`; and numbers of the geometry
        that take precedence over the file, such as `energy_eV`. The help of ``daskptycho import`` explains
        all of them.

    Returns
    -------
    xarray.Dataset
        The scan, as `open_scan` returns it.

    Warns
    -----
    UserWarning
        The file contradicts a number that was given, or has one that was assumed; or something was guessed,
        masked or left out (see `create_scan`).

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
    found = read_file(path, assume=assume, position_file=position_file, probe=probe, **options)
    return create_scan(
        url,
        **found,
        period=period,
        tile_frames=tile_frames,
        leave_out=leave_out,
        mask_value=mask_value,
        clip_negative=clip_negative,
        overwrite=overwrite,
        progress=progress,
    )


def _replace_positions(
    found: dict[str, Any], position_file: str | Path, columns: Sequence[str] | None
) -> None:
    """Take the positions from a file of their own, in place, and put them into the account."""
    positions = read_position_file(position_file, columns)
    name = split_key(position_file)[0].name
    found |= {"position": positions, "position_source": name}
    found.pop("position_unit", None)
    others = [taken for taken in found.get("account", ()) if taken.what != CALLED["position"]]
    frames = sum(taken.what == CALLED["intensity"] for taken in others[:1])
    where = f"{name}: {positions.where}" if positions.where and positions.where != name else name
    taken = Taken(CALLED["position"], where, str(positions))
    found["account"] = [*others[:frames], taken, *others[frames:]]


def _choose_reader(path: Path) -> Callable[..., dict[str, Any]]:
    """The reader of the first format that recognises a file."""
    if path.is_dir():
        for recognises, reader in OF_FOLDERS:
            if recognises(path):
                return reader
        raise ScanError(
            f"{path} is a folder without a Zarr store or TIFF files; expected a data file, or one of these"
        )
    for _, recognises, reader in FORMATS:
        if recognises(path):
            return reader
    names = ", ".join(name for name, _, _ in FORMATS)
    raise ScanError(f"{path} is of no known format; expected one of: {names}")
