"""Zarr stores of other programs, versions 2 and 3: arrays under usual names or given keys."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.lazy_frames import LazyFrames, frames_of_array
from daskptycho.formats.named_arrays import NamedArrays, read_named_arrays
from daskptycho.formats.offers import NO_KEYS, Keys
from daskptycho.storage.location import Location
from daskptycho.storage.store import list_missing, open_zarr_store, parse_location, translate_errors

__all__ = ["is_zarr", "read_zarr"]

METADATA = ("zarr.json", ".zgroup", ".zarray")
OWN_FORMATS = ("daskptycho-scan", "daskptycho-result")


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in METADATA)


def read_zarr(path: Path | str, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read a scan from the arrays of a Zarr store.

    Parameters
    ----------
    path : Path or str
        A folder, or the URL of a store.
    keys : Keys
        What the user has named.

    Returns
    -------
    dict
        What the store holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        An array is not found, or the store cannot be read.
    """
    location = parse_location(path)
    name = str(location).rstrip("/").rsplit("/", 1)[-1]
    with translate_errors(location):
        try:
            node = zarr.open(open_zarr_store(location), mode="r")
            if node.attrs.get("format") in OWN_FORMATS:
                raise ScanError(f"{path} is a scan or a result already; expected data of another program")
            if isinstance(node, zarr.Group):
                _require_listing(node, location)
            members = {"array": node} if isinstance(node, zarr.Array) else dict(node.members(max_depth=None))
        except (KeyError, TypeError, AttributeError, FileNotFoundError) as error:
            raise ScanError(f"{path} cannot be read as a Zarr store: {error}") from error
    found = {where: item for where, item in members.items() if isinstance(item, zarr.Array)}
    arrays = NamedArrays(found, str(path), _read)

    def open_frames(where: str, *, last: bool) -> LazyFrames:
        array = arrays.find("intensity", where)[1]
        keys = _chunk_keys(array)
        missing = len(list_missing(location, keys))
        if missing == len(keys):
            raise ScanError(f"{where} of {path} was never written; expected its chunks")
        if missing:
            warn_caller(
                f"{missing} of the {len(keys)} chunks of {where} of {name} are not there, and are read "
                f"as {array.fill_value}: they are empty, or were not copied"
            )
        return frames_of_array(lambda: nullcontext(_Checked(array)), array.shape, array.dtype, last=last)

    return read_named_arrays(arrays, keys, name, open_frames)


def _require_listing(group: zarr.Group, location: Location) -> None:
    """Refuse a group whose members cannot be found: a web server does not list what it has."""
    if location.scheme.startswith("http") and group.metadata.consolidated_metadata is None:
        raise ScanError(
            f"{location} does not say which arrays it has, and a web server does not list them; expected "
            "consolidated metadata (zarr.consolidate_metadata), or a copy of the store"
        )


def _chunk_keys(array: zarr.Array) -> list[str]:
    """The keys under which the chunks of an array, or its shards, lie in the store."""
    stored = array.shards or array.chunks
    counts = [-(-size // chunk) for size, chunk in zip(array.shape, stored, strict=True)]
    above = f"{array.path}/" if array.path else ""
    return [above + array.metadata.encode_chunk_key(at) for at in np.ndindex(*counts)]


class _Checked:
    """An array whose damaged chunks are reported as such."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape

    def __getitem__(self, index: Any) -> NDArray[Any]:
        try:
            return np.asarray(self._array[index])
        except (ValueError, RuntimeError, TypeError) as error:
            raise ScanError(f"{self._array.path or 'the array'} cannot be read: {error}") from error


def _read(array: Any) -> NDArray[Any]:
    return _Checked(array)[...]
