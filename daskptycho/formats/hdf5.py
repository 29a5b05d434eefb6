"""Plain HDF5: arrays under usual names or given keys, also in MATLAB's files; results as datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.formats.hdf5_file import (
    attribute,
    broken_links,
    child,
    create_hdf5,
    is_dataset,
    open_hdf5,
    read_array,
    require_whole,
    walk,
)
from daskptycho.formats.lazy_frames import LazyFrames, frames_of_array
from daskptycho.formats.named_arrays import NamedArrays, read_named_arrays
from daskptycho.formats.offers import NO_KEYS, NUMBERS, Keys
from daskptycho.formats.positions import Positions

__all__ = ["hdf5_arrays", "read_hdf5", "read_hdf5_positions", "write_hdf5"]

# How HDF5 files of MATLAB 7.3 begin.
MATLAB = b"MATLAB 7.3"


@dataclass(frozen=True)
class Reversed:
    """A dataset with its axes in the order of MATLAB, which stores arrays the other way round.

    Attributes
    ----------
    dataset : h5py.Dataset
    """

    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape[::-1])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(self.dataset.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = self.dataset.dtype
        return found

    @property
    def attrs(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.dataset.attrs
        return found

    def __getitem__(self, index: Any) -> NDArray[Any]:
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in index:
            at = index.index(Ellipsis)
            free = (slice(None),) * (self.ndim - len(index) + 1)
            index = (*index[:at], *free, *index[at + 1 :])
        index += (slice(None),) * (self.ndim - len(index))
        return np.asarray(self.dataset[index[::-1]]).T


def read_hdf5(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read a scan from datasets of an HDF5 file, also of one that MATLAB has written.

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
        A dataset is missing or has another shape than expected, or a unit is impossible.
    """
    matlab = _is_matlab(path)
    with open_hdf5(path) as file:
        arrays = hdf5_arrays(file, path, matlab=matlab)

        def open_frames(where: str, *, last: bool) -> LazyFrames:
            array = arrays.find("intensity", where)[1]
            require_whole(array.dataset if matlab else array)
            return frames_of_array(
                lambda: _open_array(path, where, matlab=matlab), tuple(array.shape), array.dtype, last=last
            )

        return read_named_arrays(arrays, keys, path.name, open_frames, usually_last=matlab)


def read_hdf5_positions(path: Path, keys: Keys) -> Positions:
    """Read positions from an HDF5 file that may have nothing else.

    Raises
    ------
    ScanError
        It has none.
    """
    with open_hdf5(path) as file:
        return hdf5_arrays(file, path, matlab=_is_matlab(path)).only_positions(keys, path.name)


def hdf5_arrays(file: Any, path: Path, *, matlab: bool = False) -> NamedArrays:
    """The datasets of an open file as named arrays."""

    def in_order(item: Any) -> Any:
        return Reversed(item) if matlab else item

    def look_up(key: str) -> Any:
        item = child(file, key)
        return in_order(item) if is_dataset(item) else None

    def read(array: Any) -> NDArray[Any]:
        return read_array(array.dataset).T if isinstance(array, Reversed) else read_array(array)

    datasets = {name: in_order(item) for name, item in walk(file, lambda _, item: is_dataset(item))}
    attributes = {name: value for name in NUMBERS if (value := attribute(file, name)) is not None}
    return NamedArrays(datasets, str(path), read, look_up, attributes, dict(broken_links(file)))


@contextmanager
def _open_array(path: Path, where: str, *, matlab: bool) -> Iterator[Any]:
    with open_hdf5(path) as file:
        yield Reversed(file[where]) if matlab else file[where]


def _is_matlab(path: Path) -> bool:
    """Whether a file begins like those of MATLAB 7.3, or what is in it has MATLAB's classes."""
    with open(path, "rb") as file:
        if file.read(len(MATLAB)) == MATLAB:
            return True
    with open_hdf5(path) as file:
        members = [child(file, name) for name in file]
        return any(item is not None and attribute(item, "MATLAB_class") is not None for item in members)


def write_hdf5(result: xr.Dataset, path: Path) -> None:
    """Write the variables of a result as datasets of a new HDF5 file, with dimensions and attributes."""
    with create_hdf5(path) as file:
        for name, value in result.attrs.items():
            file.attrs[name] = value
        for name, variable in result.variables.items():
            dataset = file.create_dataset(str(name), data=variable.values)
            for key, value in variable.attrs.items():
                dataset.attrs[key] = value
        for name, variable in result.variables.items():
            for axis, dimension in enumerate(variable.dims):
                file[str(name)].dims[axis].label = str(dimension)
                if dimension in result.coords and name != dimension:
                    if not file[str(dimension)].is_scale:
                        file[str(dimension)].make_scale(str(dimension))
                    file[str(name)].dims[axis].attach_scale(file[str(dimension)])
