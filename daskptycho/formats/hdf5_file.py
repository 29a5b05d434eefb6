"""What all formats based on HDF5 share: opening files, lazy frames, numbers with units, visiting groups.

h5py and hdf5plugin are imported when a file is opened: they belong to the extra `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.extras import import_extra
from daskptycho.formats.lazy_frames import LazyFrames, contiguous_ranges
from daskptycho.formats.units import to_si

__all__ = ["create_hdf5", "is_hdf5", "open_hdf5", "open_hdf5_frames", "read_quantity", "to_text", "walk"]

MAGIC = b"\x89HDF\r\n\x1a\n"

# Bytes of decompressed chunks that h5py caches: the ranges of frames of a tile share chunks.
CACHE_BYTES = 2**26


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5, by its signature: at the beginning or after a user block."""
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
def create_hdf5(path: Path) -> Iterator[Any]:
    """Create an HDF5 file in memory, which is written to `path` at the end of the block.

    The HDF5 library does not survive a disk that is full while it holds a file open.
    """
    h5py = import_extra("h5py")
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    path.write_bytes(content)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading, with the compression filters of detectors.

    Raises
    ------
    ScanError
        It cannot be read.
    """
    h5py = import_extra("h5py")
    import_extra("hdf5plugin")
    try:
        with h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise ScanError(f"{path} cannot be read as HDF5: {error}") from error


def open_hdf5_frames(path: Path, names: Sequence[str]) -> LazyFrames:
    """The frames of one dataset, or of several one after the other.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Paths of the datasets. All dimensions but the last two count frames.

    Raises
    ------
    ScanError
        A dataset holds no frames, or frames of another size than the first.
    """
    shapes: list[tuple[int, ...]] = []
    dtypes = []
    with open_hdf5(path) as file:
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
        with open_hdf5(path) as file:
            for part, name in enumerate(names):
                local = numbers[(numbers >= first[part]) & (numbers < first[part + 1])] - first[part]
                for start, stop in contiguous_ranges(local):
                    done += _read_range(file[name], start, stop, out[done:])
        return out

    dtype = np.result_type(*dtypes)
    return LazyFrames((int(first[-1]), size[0], size[1]), dtype, read)


def _read_range(dataset: Any, start: int, stop: int, out: NDArray[Any]) -> int:
    """Read consecutive frames into `out`, row by row if the dataset is a raster; returns their number."""
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


def read_quantity(dataset: Any, kind: str, name: str, unit: str | None = None) -> NDArray[np.float64]:
    """The numbers of a dataset in SI.

    Parameters
    ----------
    dataset : h5py.Dataset
    kind : str
        The kind of unit, as `units.to_si` takes it.
    name : str
        What is read, for the message.
    unit : str, optional
        The unit that the format prescribes for a dataset that does not name its own.

    Raises
    ------
    ScanError
        The unit is of another kind, or there is none.
    """
    found = dataset.attrs.get("units", dataset.attrs.get("unit", unit))
    if isinstance(found, np.ndarray):
        found = found.ravel()[0]
    if found is None or to_text(found).strip() == "":
        found = unit
    if found is None:
        raise ScanError(f"{name} has no unit; expected an attribute units of {kind}")
    return to_si(np.asarray(dataset[()], dtype=np.float64), found, kind, name)


def to_text(value: Any) -> str:
    """A string of a file as str, however it is stored."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def walk(
    group: Any, accept: Callable[[str, Any], bool], depth: int = 12, above: tuple[Any, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """Visit the objects below a group, through links, and yield the names and objects that are accepted.

    Broken links are skipped.

    Parameters
    ----------
    group : h5py.Group
    accept : callable
        Called with the name of an object in its group, and the object.
    depth : int
        Levels of groups to descend.
    above : tuple of h5py.Group
        The groups above, into which no link is followed.
    """
    above = (*above, group)
    for name in group:
        try:
            item = group[name]
        except (KeyError, OSError):
            continue
        if accept(name, item):
            yield item.name, item
        if depth > 0 and hasattr(item, "keys") and item not in above:
            yield from walk(item, accept, depth - 1, above)
