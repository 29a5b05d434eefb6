"""Tiles of a checkpoint, written and read by the processes that hold them.

`run` puts these functions into tasks; `checkpoints` describes the store.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from daskptycho.storage.checkpoints import CheckpointStore
from daskptycho.storage.icechunk_client import retry_icechunk
from daskptycho.storage.location import Location

__all__ = ["StoreNotVisibleError", "read_tile", "write_tile"]


class StoreNotVisibleError(Exception):
    """A worker does not see the folder that holds the store."""


def write_tile(
    location: Location, fork: icechunk.ForkSession, tile: int, values: Mapping[str, NDArray]
) -> icechunk.ForkSession:
    """Write a tile's values of the parts of the state, in the process that holds the tile.

    Parameters
    ----------
    location : Location
    fork : icechunk.ForkSession
        A fork of the session from `CheckpointStore.begin`.
    tile : int
        Number of the tile.
    values : mapping
        The value of each part, no larger than its `Part.shape`.

    Returns
    -------
    icechunk.ForkSession
        The fork, for `CheckpointStore.commit`.

    Raises
    ------
    StoreNotVisibleError
        This process does not see the store: it runs on another machine.
    """
    if location.is_local and not CheckpointStore.exists(location):
        raise StoreNotVisibleError(location)

    def write() -> None:
        state = zarr.open_group(fork.store, path="state", mode="r+")
        for name, value in values.items():
            array: Any = state[name]
            if value.shape != array.shape[1:]:
                # Whole chunks: a chunk written in part would be read first.
                padded = np.zeros(array.shape[1:], dtype=array.dtype)
                padded[tuple(slice(size) for size in value.shape)] = value
                value = padded
            array[tile] = value

    retry_icechunk(write, f"writing tile {tile} to {location}", location)
    return fork


@functools.lru_cache(maxsize=16)
def _open_part(location: Location, snapshot: str, name: str) -> Any:
    return CheckpointStore(location).open_part(snapshot, name)


def read_tile(location: Location, snapshot: str, name: str, tile: int, shape: tuple[int, ...]) -> NDArray:
    """Read a tile's value of a part of the state.

    Parameters
    ----------
    location : Location
    snapshot : str
        Id of the checkpoint.
    name : str
        Name of the part.
    tile : int
        Number of the tile.
    shape : tuple of int
        The leading axes of the value, where they are shorter than `Part.shape`.

    Raises
    ------
    StoreNotVisibleError
        This process does not see the store: it runs on another machine.
    """
    if location.is_local and not location.local_path.is_dir():
        raise StoreNotVisibleError(location)
    index = (tile, *(slice(size) for size in shape))
    value = retry_icechunk(
        lambda: _open_part(location, snapshot, name)[index], f"reading tile {tile} from {location}", location
    )
    return np.ascontiguousarray(value)
