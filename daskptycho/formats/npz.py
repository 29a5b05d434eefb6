"""NumPy's npz archives, plain or compressed as a whole by bz2, xz or gzip."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.lazy_frames import LazyFrames, frames_of_array
from daskptycho.formats.named_arrays import NamedArrays, read_named_arrays
from daskptycho.formats.offers import NO_KEYS, Keys
from daskptycho.formats.positions import Positions

__all__ = ["is_npz", "open_arrays", "read_npz", "read_npz_positions"]

ZIP = b"PK\x03\x04"
NPY = b"\x93NUMPY"
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
}
UNREADABLE = (OSError, EOFError, ValueError, KeyError, BadZipFile, lzma.LZMAError, zlib.error)


def is_npz(path: Path) -> bool:
    """Whether a file starts like an npz archive, compressed or not."""
    with open(path, "rb") as raw:
        compressed = raw.read(max(map(len, COMPRESSED))).startswith(tuple(COMPRESSED))
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
        return compressed


@dataclass(frozen=True)
class _Member:
    """An array of an archive, of which only the header has been read.

    Attributes
    ----------
    archive : numpy.lib.npyio.NpzFile
    name : str
    shape : tuple of int
    dtype : numpy.dtype
    """

    archive: Any
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        return np.asarray(self.archive[self.name])[index]


def read_npz(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read a scan from an npz archive; its frames must fit into memory.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        An array is not found, or the file cannot be read.
    """
    with open_arrays(path) as arrays:

        def open_frames(where: str, *, last: bool) -> LazyFrames:
            frames = arrays.find("intensity", where)[1][()]
            return frames_of_array(lambda: nullcontext(frames), frames.shape, frames.dtype, last=last)

        return read_named_arrays(arrays, keys, path.name, open_frames)


def read_npz_positions(path: Path, keys: Keys) -> Positions:
    """Read positions from an npz archive that may have nothing else.

    Raises
    ------
    ScanError
        It has none, or cannot be read.
    """
    with open_arrays(path) as arrays:
        return arrays.only_positions(keys, path.name)


@contextmanager
def open_arrays(path: Path) -> Iterator[NamedArrays]:
    """Open the arrays of an archive, which are read when they are asked for."""
    try:
        # The directory of an archive is at its end, and seeking in a compressed file is slow.
        with tempfile.TemporaryFile() as whole:
            with _open_decompressed(path) as file:
                shutil.copyfileobj(file, whole)
            whole.seek(0)
            members = _list_members(whole)
            yield NamedArrays(members, str(path), lambda array: np.asarray(array[()]), members.get)
    except ScanError:
        raise
    except UNREADABLE as error:
        raise ScanError(f"{path} cannot be read as an npz archive: {error}") from error


def _list_members(file: IO[bytes]) -> dict[str, _Member]:
    """The arrays of an archive by name; of each, only its header is read."""
    archive: Any = np.load(file, allow_pickle=False)
    members = {}
    for name in archive.files:
        entry = name if name in archive.zip.namelist() else f"{name}.npy"
        with archive.zip.open(entry) as member:
            if member.read(len(NPY)) != NPY:
                continue
        with archive.zip.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(member)
        members[name] = _Member(archive, name, shape, dtype)
    return members


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
