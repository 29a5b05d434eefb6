"""Frames as TIFF: one file with many pages, or a folder with one file for each frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.extras import import_extra
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.offers import NO_KEYS, Keys, Taken

__all__ = ["is_tiff", "read_tiff"]

MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
SUFFIXES = (".tif", ".tiff")


def is_tiff(path: Path) -> bool:
    """Whether a file is TIFF, by its signature, or a folder has such files."""
    if path.is_dir():
        return any(_list_files(path))
    with open(path, "rb") as file:
        return file.read(4) in MAGICS


def read_tiff(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read frames from the pages of a file, or from the files of a folder in the order of their numbers.

    Parameters
    ----------
    path : Path
    keys : Keys
        The user can name nothing.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`; it has no positions.

    Raises
    ------
    ScanError
        The frames cannot be read, or are of different sizes.
    OptionError
        The user names something.
    """
    if keys != NO_KEYS:
        raise OptionError(f"{path} is TIFF, in which nothing has a name; expected no keys")
    files = _list_files(path) if path.is_dir() else [path]
    single = len(files) == 1 and not path.is_dir()
    first = _read_pages(files[0], None if single else [0])
    if not first.size or first.ndim < 3 or first.dtype.kind not in "iuf" or min(first.shape[-2:]) < 2:
        raise ScanError(f"{path} has the shape {first.shape} and the type {first.dtype}; expected counts")
    height, width = (int(n) for n in first.shape[-2:])
    count = int(np.prod(first.shape[:-2])) if single else len(files)
    flat = first.reshape(-1, height, width) if single else first[:0]

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        if single:
            return np.asarray(flat[numbers])
        frames = np.empty((len(numbers), height, width), dtype=first.dtype)
        for place, number in enumerate(numbers):
            frame = _read_pages(files[number], [0])
            if frame.shape != (1, height, width):
                raise ScanError(
                    f"{files[number]} has the shape {frame.shape[1:]}; expected {(height, width)}"
                )
            frames[place] = frame[0]
        return frames

    said = f"{count} x {height} x {width} {first.dtype}"
    where = path.name if single else f"{files[0].name} to {files[-1].name}"
    found: dict[str, Any] = {
        "intensity": LazyFrames((count, height, width), first.dtype, read),
        "account": [Taken("frames", where, said)],
        "source": path.name,
    }
    if single and first.ndim == 4 and first.shape[0] > 1:
        found["scan_shape"] = tuple(int(n) for n in first.shape[:2])
    return found


def _read_pages(path: Path, pages: Sequence[int] | None) -> NDArray[Any]:
    """Some pages of a file, or all in the shape that the file gives them."""
    tifffile = import_extra("tifffile")
    try:
        with tifffile.TiffFile(path) as file:
            colours = "S" in file.series[0].axes
        if colours:
            raise ValueError("it is a picture with colours")
        if pages is None:
            try:
                whole = tifffile.memmap(path, mode="r")
            except ValueError:  # compressed
                whole = tifffile.imread(path)
            return np.asarray(whole)[None] if whole.ndim == 2 else whole
        page = np.asarray(tifffile.imread(path, key=list(pages)))
        if not page.size:
            raise ValueError("it has no pages")
        return page[None]
    except Exception as error:  # damaged files make the reader raise all kinds of errors
        raise ScanError(f"{path} cannot be read as TIFF: {error}") from error


def _list_files(path: Path) -> list[Path]:
    """The TIFF files of a folder, in the order of the numbers in their names."""
    files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(files, key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)] or [-1])
