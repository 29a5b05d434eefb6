"""What all formats based on HDF5 share: opening files, lazy frames, numbers with units, visiting groups.

h5py and hdf5plugin are imported when a file is opened: they belong to the extra `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.lazy_frames import LazyFrames, runs
from daskptycho.formats.units import to_si

__all__ = ["is_hdf5", "needed", "number", "open_hdf5_frames", "opened", "text", "walk"]

MAGIC = b"\x89HDF\r\n\x1a\n"

# Decompressed chunks that h5py keeps: a tile's frames are read run by run, and share chunks.
CACHE_BYTES = 2**26


def needed(module: str, extra: str = "formats") -> ModuleType:
    """A module of an extra.

    Raises
    ------
    OptionError
        It is not installed; names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(
            f"this format needs {module.split('.')[0]}, which is not installed ({error}); "
            f"install it with: pip install 'daskptycho[{extra}]'"
        ) from error


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its signature: at its begin, or behind a user block."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        offset = 0
        while offset < size:
            file.seek(offset)
            if file.read(len(MAGIC)) == MAGIC:
                return True
            offset = max(512, 2 * offset)
    return False


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file for reading, with the compression filters of detectors.

    Raises
    ------
    ScanError
        It cannot be read.
    """
    h5py = needed("h5py")
    needed("hdf5plugin")
    try:
        with h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ScanError(f"{path} cannot be read as HDF5: {error}") from error


def open_hdf5_frames(path: Path, names: Sequence[str]) -> LazyFrames:
    """The frames of one dataset or of several in a row; all but the last two dimensions count frames.

    Raises
    ------
    ScanError
        A dataset that holds no frames, or frames of another size than the first.
    """
    shapes: list[tuple[int, ...]] = []
    dtypes = []
    with opened(path) as file:
        for name in names:
            shape = tuple(int(n) for n in file[name].shape)
            if len(shape) < 3:
                raise ScanError(f"{name} in {path} has the shape {shape}; expected (frame, qy, qx)")
            if shapes and shape[-2:] != shapes[0][-2:]:
                raise ScanError(f"{name} in {path} has frames of {shape[-2:]}; expected {shapes[0][-2:]}")
            shapes.append(shape)
            dtypes.append(file[name].dtype)
    frames = [int(np.prod(shape[:-2])) for shape in shapes]
    first = np.cumsum([0, *frames])
    size = shapes[0][-2:]

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(numbers), *size), dtype=dtype)
        done = 0
        with opened(path) as file:
            for part, name in enumerate(names):
                inside = numbers[(numbers >= first[part]) & (numbers < first[part + 1])] - first[part]
                for start, stop in runs(inside):
                    done += _read_run(file[name], start, stop, out[done:])
        return out

    dtype = np.result_type(*dtypes)
    return LazyFrames((int(first[-1]), size[0], size[1]), dtype, read)


def _read_run(dataset: Any, start: int, stop: int, out: NDArray[Any]) -> int:
    """Read a run of frames, row by row of a raster where the dataset is one."""
    row = 1 if dataset.ndim == 3 else int(dataset.shape[-3])
    if dataset.ndim == 3:
        out[: stop - start] = dataset[start:stop]
        return stop - start
    done = 0
    while start < stop:
        index = np.unravel_index(start // row, dataset.shape[:-3])
        column = start % row
        count = min(row - column, stop - start)
        out[done : done + count] = dataset[(*index, slice(column, column + count))]
        start, done = start + count, done + count
    return done


def number(dataset: Any, kind: str, what: str, unit: str | None = None) -> NDArray[np.float64]:
    """A dataset's numbers in SI, by its own unit or else by the one given, which is the format's.

    Raises
    ------
    ScanError
        A unit of another kind, or no unit where the format has none.
    """
    own = dataset.attrs.get("units", dataset.attrs.get("unit", unit))
    if isinstance(own, np.ndarray):
        own = own.ravel()[0]
    if own is None or text(own).strip() == "":
        own = unit
    if own is None:
        raise ScanError(f"{what} has no unit; expected an attribute units of {kind}")
    return to_si(np.asarray(dataset[()], dtype=np.float64), own, kind, what)


def text(value: Any) -> str:
    """A string of a file, whatever it is stored as."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def walk(
    group: Any, wanted: Callable[[str, Any], bool], depth: int = 12, above: tuple[Any, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Names and objects below a group for which `wanted` is true; links are followed, broken ones not.

    A link back to a group above is not followed round and round: `above` are those groups.
    """
    above = (*above, group)
    for name in group:
        try:
            item = group[name]
        except (KeyError, OSError):
            continue
        if wanted(name, item):
            yield item.name, item
        if depth > 0 and hasattr(item, "keys") and item not in above:
            yield from walk(item, wanted, depth - 1, above)
