"""Frames that are still being written: by a detector into an HDF5 file, or one by one into a folder.

A source is asked again and again what has come. It opens its file anew each time: only then does it see what
the detector's process has written.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.extras import import_extra
from daskptycho.formats.usual_names import USUAL_NAMES, bare_name

__all__ = ["FrameSource", "open_source"]

# Frames that are read at a time.
BLOCK = 64
# The parts of an Eiger's master file, each in a file of its own that appears when the one before is full.
EIGER_PART = re.compile(r"data_\d{6}")


class FrameSource(Protocol):
    """Where frames come from."""

    def arrived(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Numbers and counts of the frames that have come, in blocks, of those whose number is wanted.

        Frames beyond the end of `wanted` are all returned.
        """

    def describe_lack(self) -> str:
        """What is lacking for the next frame to come, as far as that is known."""


def open_source(path: Path, intensity_key: str | None = None, first_number: int = 0) -> FrameSource:
    """The source at a path: a folder, or an HDF5 file, which need not exist yet.

    Parameters
    ----------
    path : Path
    intensity_key : str, optional
        Path of the frames in an HDF5 file; usual names are found.
    first_number : int
        Number in the name of the first file of a folder.
    """
    if path.is_dir():
        return _Folder(path, first_number)
    return _Hdf5(path, intensity_key)


def _is_new(number: int, wanted: NDArray[np.bool_]) -> bool:
    return number >= len(wanted) or bool(wanted[number])


class _Hdf5:
    """Frames of an HDF5 file that another process writes: with SWMR, or else as far as it can be read."""

    def __init__(self, path: Path, key: str | None) -> None:
        self._path, self._key = path, key
        self._beyond = 0
        # For each dataset, by the number of its first frame: how many frames are known to be whole, and the
        # last one that holds anything, with the checksum of its counts.
        self._whole: dict[int, int] = {}
        self._latest: dict[int, tuple[int, int]] = {}

    def arrived(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        # Without SWMR, a file may be caught in the middle of a change.
        with suppress(OSError, RuntimeError, KeyError), self._open() as file:
            start = 0
            for array in [] if file is None else self._find(file):
                count = self._count_written(array, start)
                numbers = np.array(
                    [n for n in range(start, start + count) if _is_new(n, wanted)], dtype=np.int64
                )
                # What is not in the plan is passed on once.
                numbers = numbers[(numbers < len(wanted)) | (numbers >= self._beyond)]
                for first in range(0, len(numbers), BLOCK):
                    block = numbers[first : first + BLOCK]
                    rows = block - start
                    whole = int(rows[-1] - rows[0]) + 1 == len(rows)
                    yield block, array[rows[0] : rows[-1] + 1] if whole else array[rows]
                self._beyond = max(self._beyond, start + count)
                start += len(array)

    def describe_lack(self) -> str:
        if not self._path.exists():
            return f"{self._path} does not exist yet"
        with suppress(OSError, RuntimeError, KeyError), self._open() as file:
            if file is None:
                return f"{self._path} cannot be opened yet: it may be a file without SWMR that is open"
            arrays = self._find(file)
            if not arrays and self._key is not None:
                return f"{self._path} has no {self._key} yet (intensity_key, --intensity-key)"
            if not arrays:
                return f"{self._path} has no array of frames yet"
            return f"{self._path} has {sum(map(len, arrays)):,} frames, and no new one that is whole"
        return f"{self._path} cannot be read yet"

    def _count_written(self, array: Any, start: int) -> int:
        """Number of frames that a dataset has: those that have been written whole.

        A chunk of a single frame exists once the frame has been written. Elsewhere frames that are still to
        come read as the fill value: a frame has been written if a later one holds something, or if it holds
        the same at two looks. Frames without any count at the end of a file are thus never taken.
        """
        present = _count_present(array)
        if array.chunks == (1, *array.shape[1:]) and not array.is_virtual:
            return present
        known = self._whole.get(start, 0)
        last = _find_last_filled(array, known, present)
        if last is not None:
            seen = (last, zlib.crc32(np.ascontiguousarray(array[last]).data))
            known = last + 1 if self._latest.get(start) == seen else last
            self._latest[start], self._whole[start] = seen, known
        return known

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The file, or None where the writer keeps it in a state that cannot be read now."""
        h5py = import_extra("h5py")
        import_extra("hdf5plugin")
        file = None
        for how in ({"swmr": True}, {"locking": False}):
            try:
                file = h5py.File(self._path, "r", **how)
                break
            except (OSError, ValueError):
                continue
        try:
            yield file
        finally:
            if file is not None:
                file.close()

    def _find(self, file: Any) -> list[Any]:
        """The datasets of the frames, one after the other; none if they are not there yet."""
        if self._key is not None:
            return [file[self._key]] if self._key in file else []
        group = file.get("entry/data")
        # In other files it is the array itself.
        names = list(group) if hasattr(group, "keys") else []
        parts = sorted(name for name in names if EIGER_PART.fullmatch(name))
        if parts:
            # A part whose file is still to come is a link that leads nowhere.
            return [group[name] for name in takewhile(lambda name: group.get(name) is not None, parts)]
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: _note_frames(found, name, item))
        usual = [name for name in found if bare_name(name, "length") in USUAL_NAMES["intensity"]]
        chosen = usual if len(usual) == 1 else list(found)
        if len(chosen) > 1:
            raise ScanError(
                f"{self._path} has several arrays of frames, {', '.join(chosen)}; expected the name of one "
                "as intensity_key (--intensity-key)"
            )
        return [found[name] for name in chosen]


def _note_frames(found: dict[str, Any], name: str, item: Any) -> None:
    if getattr(item, "ndim", 0) == 3 and item.dtype.kind in "iuf" and min(item.shape[1:]) > 1:
        found[name] = item


def _count_present(array: Any) -> int:
    """Number of frames in the chunks that exist; all of a dataset that has no chunks."""
    frames = len(array)
    if not frames or array.chunks is None or array.is_virtual:
        return frames
    size = array.chunks[0]

    def is_there(chunk: int) -> bool:
        return array.id.get_chunk_info_by_coord((chunk * size, 0, 0)).byte_offset is not None

    chunks = -(-frames // size)
    written = next((chunk for chunk in range(chunks) if not is_there(chunk)), chunks)
    return min(frames, written * size)


def _find_last_filled(array: Any, first: int, end: int) -> int | None:
    """Last of these frames that holds anything; looked for from about the last of a few that do."""
    empty = array.fillvalue

    def is_filled(frame: int) -> bool:
        return bool((array[frame] != empty).any())

    start = next((frame for frame in reversed(range(first, end, BLOCK)) if is_filled(frame)), first)
    filled = np.flatnonzero((array[start : min(end, start + BLOCK)] != empty).any(axis=(1, 2)))
    return start + int(filled[-1]) if filled.size else None


class _Folder:
    """Frames that fall into a folder, one file each (.npy, TIFF), numbered in their names."""

    def __init__(self, path: Path, first_number: int) -> None:
        self._path, self._first = path, first_number
        # Size and time of files that were seen once: a file that has not changed since is complete.
        self._seen: dict[Path, tuple[int, int]] = {}
        self._read: set[Path] = set()

    def arrived(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        for file in sorted(self._path.iterdir()):
            digits = re.findall(r"\d+", file.stem)
            if file in self._read or file.suffix.lower() not in (".npy", ".tif", ".tiff") or not digits:
                continue
            try:
                status = file.stat()
            except FileNotFoundError:
                # Renamed since the folder was listed: it comes under its new name.
                continue
            now = (status.st_size, status.st_mtime_ns)
            if self._seen.get(file) != now:
                self._seen[file] = now
                continue
            number = int(digits[-1]) - self._first
            self._read.add(file)
            if number >= 0 and _is_new(number, wanted):
                yield np.array([number]), self._load(file)[np.newaxis]

    def describe_lack(self) -> str:
        return (
            f"{self._path} has {len(self._read):,} numbered files (.npy, TIFF), and no new one that is whole"
        )

    def _load(self, file: Path) -> NDArray[Any]:
        try:
            if file.suffix.lower() == ".npy":
                return np.load(file, allow_pickle=False)
            frame: NDArray[Any] = import_extra("tifffile").imread(file)
            return frame
        except (OSError, ValueError) as error:
            raise ScanError(f"{file} cannot be read as a frame: {error}") from error
