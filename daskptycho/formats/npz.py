"""NumPy's npz archives, plain or compressed as a whole by bz2, xz or gzip."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import warnings
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
from daskptycho.formats.arrange import turned

__all__ = ["is_npz", "read_npz"]

ZIP = b"PK\x03\x04"
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile, lzma.LZMAError, zlib.error)

# Names that such arrays usually have. A mask is not guessed: True means valid to some, bad to others.
USUAL_KEYS = {
    "intensity": ("intensity", "intensities", "data", "diffraction", "frames"),
    "position": ("position", "positions", "scan", "probe_positions"),
    "probe": ("probe", "probe_guess", "probe_initial"),
    "valid": (),
    "background": ("background",),
}
DIMENSIONS = {"intensity": 3, "position": 2, "probe": 3, "valid": 2, "background": 2}

# Frames that are averaged to find where the zero frequency lies, and rolled in one dask block.
SAMPLED_FRAMES = 64
BLOCK_FRAMES = 16

# Share of the counts near one candidate for the zero frequency, out of both, that settles it.
SETTLED = 0.8


def is_npz(path: Path) -> bool:
    """Whether a file begins like an npz archive, compressed or not."""
    try:
        with _opened(path) as file:
            if file.read(len(ZIP)) != ZIP:
                return False
        if not is_zipfile(path):  # compressed, or cut off
            return True
        # Stores of Zarr are zipped too.
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
        Names of the arrays in the file. Those not given are looked for under their usual names,
        but for `valid`, which is True where the detector counts.
    zero_frequency : {"centre", "corner"}
        Where the zero frequency lies in the frames, `valid` and `background`: at N//2 or at 0.
    position_axes : str
        What the two columns of the positions are, as `arrange.turned` takes it.

    Returns
    -------
    dict
        Arguments for `create_scan`: `intensity` (a dask array in detector order), `position`,
        `source`, and where there are any `probe`, `valid` and `background`. Leading dimensions of
        one are dropped.

    Warns
    -----
    UserWarning
        The frames look as if their zero frequency lay elsewhere than `zero_frequency` says.

    Raises
    ------
    ScanError
        An array that is not found, or a file that cannot be read.
    OptionError
        An unknown `zero_frequency` or `position_axes`.
    """
    if zero_frequency not in ("centre", "corner"):
        raise OptionError(f"zero_frequency is {zero_frequency!r}; expected 'centre' or 'corner'")
    path = Path(path).expanduser()
    wanted = {
        "intensity": intensity_key,
        "position": position_key,
        "probe": probe_key,
        "valid": valid_key,
        "background": background_key,
    }
    arrays = _load(path, wanted)
    arrays["position"] = turned(arrays["position"], position_axes)
    if "valid" in arrays:
        arrays["valid"] = arrays["valid"].astype(bool)
    _warn_if_elsewhere(arrays["intensity"], arrays.get("valid"), zero_frequency)
    frames = da.from_array(arrays["intensity"], chunks=(BLOCK_FRAMES, -1, -1), name=False)
    if zero_frequency == "corner":
        frames = frames.map_blocks(np.fft.fftshift, axes=(1, 2), dtype=frames.dtype)
        for name in ("valid", "background"):
            if name in arrays:
                arrays[name] = np.fft.fftshift(arrays[name])
    return {**arrays, "intensity": frames, "source": path.name}


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, decompressed on the way."""
    with open(path, "rb") as raw:
        start = raw.read(max(map(len, COMPRESSED)))
        raw.seek(0)
        opener = next((o for magic, o in COMPRESSED.items() if start.startswith(magic)), None)
        if opener is None:
            yield raw
        else:
            with opener(raw) as plain:
                yield plain


def _load(path: Path, wanted: Mapping[str, str | None]) -> dict[str, NDArray[Any]]:
    """The wanted arrays, without their leading dimensions of one."""
    try:
        # The archive's directory stands at its end, and seeking in a compressed file is slow.
        with tempfile.TemporaryFile() as whole:
            with _opened(path) as file:
                shutil.copyfileobj(file, whole)
            whole.seek(0)
            archive = np.load(whole, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ScanError(f"{path} holds a single array; expected an npz archive with named ones")
            keys = {name: _find_key(path, archive, name, key) for name, key in wanted.items()}
            arrays = {name: archive[key] for name, key in keys.items() if key is not None}
    except ScanError:
        raise
    except UNREADABLE as error:
        raise ScanError(f"{path} cannot be read as an npz archive: {error}") from error
    return {name: _without_leading_ones(name, array, keys[name]) for name, array in arrays.items()}


def _find_key(path: Path, archive: Any, name: str, given: str | None) -> str | None:
    if given is not None and given in archive.files:
        return given
    by_lower = {key.lower(): key for key in reversed(archive.files)}
    found = next((by_lower[usual] for usual in USUAL_KEYS[name] if usual in by_lower), None)
    if given is None and (found is not None or name not in ("intensity", "position")):
        return found
    expected = repr(given) if given is not None else f"one of {', '.join(USUAL_KEYS[name])}"
    shapes = ", ".join(f"{key} {archive[key].shape}" for key in archive.files)
    option = f"{name}_key"
    raise ScanError(
        f"{name} is not found in {path}: it holds {shapes}; expected {expected}: "
        f"name the array with {option} (--{option.replace('_', '-')})"
    )


def _without_leading_ones(name: str, array: NDArray[Any], key: str | None) -> NDArray[Any]:
    found = array.shape
    while array.ndim > DIMENSIONS[name] and array.shape[0] == 1:
        array = array[0]
    if name == "probe" and array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != DIMENSIONS[name]:
        raise ScanError(
            f"{name} ({key}) has the shape {found}; expected {DIMENSIONS[name]} dimensions, "
            "besides leading ones of size one"
        )
    return array


def _warn_if_elsewhere(intensity: NDArray[Any], valid: NDArray[np.bool_] | None, zero_frequency: str) -> None:
    """Warn where nearly all counts lie round the other candidate for the zero frequency."""
    sampled = intensity[:: max(1, len(intensity) // SAMPLED_FRAMES)]
    mean = np.nan_to_num(sampled.astype(float), posinf=0, neginf=0).sum(axis=0)
    if valid is not None and valid.shape == mean.shape:
        mean = mean * valid
    middle = tuple(slice(n // 4, n // 4 + (n + 1) // 2) for n in mean.shape)
    near = {"centre": mean[middle].sum(), "corner": np.fft.fftshift(mean)[middle].sum()}
    other = "corner" if zero_frequency == "centre" else "centre"
    if near[other] > SETTLED * (near["centre"] + near["corner"]) > 0:
        warnings.warn(
            f"zero_frequency is {zero_frequency!r}, but the frames are brightest round the {other}; "
            f"if the zero frequency lies there, pass zero_frequency={other!r} (--zero-frequency {other})",
            UserWarning,
            stacklevel=3,
        )
