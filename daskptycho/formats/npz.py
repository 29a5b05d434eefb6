"""NumPy's npz archives, plain or compressed as a whole by bz2, xz or gzip."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.arrange import orient_positions
from daskptycho.formats.array_names import drop_leading_ones, not_found_error

__all__ = ["is_npz", "read_npz"]

ZIP = b"PK\x03\x04"
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile, lzma.LZMAError, zlib.error)

# Names that such arrays usually have. A mask is not guessed: in some files True means valid, in others bad.
USUAL_KEYS: Mapping[str, tuple[str, ...]] = {
    "intensity": ("intensity", "intensities", "data", "diffraction", "frames"),
    "position": ("position", "positions", "scan", "probe_positions"),
    "probe": ("probe", "probe_guess", "probe_initial"),
    "valid": (),
    "background": ("background",),
}
DIMENSIONS = {"intensity": 3, "position": 2, "probe": 3, "valid": 2, "background": 2}

# Frames in a dask block.
BLOCK_FRAMES = 16


def is_npz(path: Path) -> bool:
    """Whether a file starts like an npz archive, compressed or not."""
    try:
        with _open_decompressed(path) as file:
            if file.read(len(ZIP)) != ZIP:
                return False
        if not is_zipfile(path):  # compressed, or truncated
            return True
        # Zarr stores can be zip files too.
        with ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except UNREADABLE:
        return False


def read_npz(
    path: str | Path,
    *,
    intensity_key: str | None = None,
    position_key: str | None = None,
    probe_key: str | None = None,
    valid_key: str | None = None,
    background_key: str | None = None,
    zero_frequency: str = "centre",
    position_axes: str = "yx",
) -> dict[str, Any]:
    """Read a scan from an npz archive; its arrays must fit into memory.

    Parameters
    ----------
    path : str or Path
    intensity_key, position_key, probe_key, valid_key, background_key : str, optional
        Names of the arrays in the file. Without a name an array is looked for under its usual names, except
        for `valid`, which has to be True where the detector counts.
    zero_frequency : {"centre", "corner"}
        Where the zero frequency lies in the frames, in `valid` and in `background`: at N//2 or at 0.
    position_axes : str
        What the two columns of the positions are, as for `arrange.orient_positions`.

    Returns
    -------
    dict
        Arguments of `create_scan`: `intensity` (a dask array in detector order), `position`, `source`, and if
        the file has them `probe`, `valid` and `background`. Leading axes of length one are dropped.

    Raises
    ------
    ScanError
        An array is not found, or the file cannot be read.
    OptionError
        `zero_frequency` or `position_axes` is unknown.
    """
    if zero_frequency not in ("centre", "corner"):
        raise OptionError(f"zero_frequency is {zero_frequency!r}; expected 'centre' or 'corner'")
    path = Path(path).expanduser()
    keys = {
        "intensity": intensity_key,
        "position": position_key,
        "probe": probe_key,
        "valid": valid_key,
        "background": background_key,
    }
    arrays = _load_arrays(path, keys)
    arrays["position"] = orient_positions(arrays["position"], position_axes)
    if "valid" in arrays:
        arrays["valid"] = arrays["valid"].astype(bool)
    frames = da.from_array(arrays["intensity"], chunks=(BLOCK_FRAMES, -1, -1), name=False)
    if zero_frequency == "corner":
        frames = frames.map_blocks(np.fft.fftshift, axes=(1, 2), dtype=frames.dtype)
        for name in ("valid", "background"):
            if name in arrays:
                arrays[name] = np.fft.fftshift(arrays[name])
    return {**arrays, "intensity": frames, "source": path.name}


@contextmanager
def _open_decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed if it is compressed."""
    with open(path, "rb") as raw:
        start = raw.read(max(map(len, COMPRESSED)))
        raw.seek(0)
        opener = next((o for magic, o in COMPRESSED.items() if start.startswith(magic)), None)
        if opener is None:
            yield raw
        else:
            with opener(raw) as plain:
                yield plain


def _load_arrays(path: Path, keys: Mapping[str, str | None]) -> dict[str, NDArray[Any]]:
    """Load the arrays with these keys (None for the usual ones), without leading axes of length one."""
    try:
        # The directory of an archive is at its end, and seeking in a compressed file is slow.
        with tempfile.TemporaryFile() as whole:
            with _open_decompressed(path) as file:
                shutil.copyfileobj(file, whole)
            whole.seek(0)
            archive = np.load(whole, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ScanError(f"{path} holds a single array; expected an npz archive with named ones")
            found = {name: _find_key(path, archive, name, key) for name, key in keys.items()}
            arrays = {name: archive[key] for name, key in found.items() if key is not None}
    except ScanError:
        raise
    except UNREADABLE as error:
        raise ScanError(f"{path} cannot be read as an npz archive: {error}") from error
    return {name: _check_dimensions(name, array, found[name]) for name, array in arrays.items()}


def _find_key(path: Path, archive: Any, name: str, key: str | None) -> str | None:
    """The key of a variable's array: the user's, or a usual one; None for an optional one that is absent."""
    if key is not None and key in archive.files:
        return key
    by_lower = {label.lower(): label for label in reversed(archive.files)}
    found = next((by_lower[usual] for usual in USUAL_KEYS[name] if usual in by_lower), None)
    if key is None and (found is not None or name not in ("intensity", "position")):
        return found
    arrays = {label: archive[label] for label in archive.files}
    raise not_found_error(path, name, key, USUAL_KEYS[name], arrays)


def _check_dimensions(name: str, array: NDArray[Any], key: str | None) -> NDArray[Any]:
    """The array with as many dimensions as the variable must have."""
    shape = array.shape
    array = drop_leading_ones(array, DIMENSIONS[name])
    if name == "probe" and array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != DIMENSIONS[name]:
        raise ScanError(
            f"{name} ({key}) has the shape {shape}; expected {DIMENSIONS[name]} dimensions, "
            "besides leading ones of size one"
        )
    return array
