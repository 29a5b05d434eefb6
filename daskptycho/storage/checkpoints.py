"""The store of a run's checkpoints, on Icechunk: one commit is one complete state.

`run` creates and reads such stores, and puts `write_tile` and `read_tile` into tasks. A store holds what
stays the same over a run (its options, its scan without the frames) and a group ``state``. That group has an
array for each part of the state that has a value for each tile; its chunks are tiles. A part that a state
lacks keeps what an older state wrote there, so the attributes of the state list the parts that it has.

The branch ``main`` is the history. A branch ``passing-N`` is one commit beyond it: a temporary checkpoint of
sweep N, which cuts the lineage of tasks and is removed once the next checkpoint is complete.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import icechunk
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from daskptycho.errors import ScanError
from daskptycho.storage import bucket
from daskptycho.storage.icechunk_client import (
    config,
    remove,
    retry_icechunk,
    storage,
    translate_icechunk_errors,
    translates_icechunk_errors,
)
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import fail_fast
from daskptycho.version import __version__

__all__ = ["FORMAT", "CheckpointStore", "Part", "Snapshot", "StoreUnseen", "read_tile", "write_tile"]

FORMAT = "daskptycho-checkpoints"
FORMAT_VERSION = 1

HISTORY = ("residual", "consensus", "spread", "seconds")
PASSING = "passing-"
# A chunk of a large part, in bytes before compression.
CHUNK_BYTES = 2**25


class StoreUnseen(Exception):
    """A worker does not see the folder that the store is in."""


@dataclass(frozen=True)
class Part:
    """One array of the state, of values for each tile: its largest shape and type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Snapshot:
    """One commit."""

    id: str
    sweep: int
    residual: float
    written: datetime
    passing: bool


class CheckpointStore:
    """The checkpoints of one run.

    Parameters
    ----------
    location : Location
        A folder, or a place in a bucket.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._repository = retry_icechunk(
            lambda: icechunk.Repository.open(storage(location), config(location)),
            f"opening {location}",
            location,
        )

    @staticmethod
    def exists(location: Location) -> bool:
        """Whether a store lies there."""
        if location.local:
            with translate_icechunk_errors(location):
                return location.folder.is_dir() and icechunk.Repository.exists(storage(location))
        return bucket.exists(location)

    @staticmethod
    def create(
        location: Location,
        header: xr.Dataset,
        fixed: Mapping[str, Any],
        parts: Mapping[str, Part],
        tiles: int,
    ) -> CheckpointStore:
        """A new store, complete or absent, also where its making is cut off; one that lies there is replaced.

        In a bucket, where nothing can be renamed, the old one goes first.

        Parameters
        ----------
        location : Location
        header : xarray.Dataset
            The scan without its frames.
        fixed : mapping
            Plain values that stay the same over the run.
        parts : mapping
            Name and largest shape of each part of the state that has values for each tile.
        tiles : int
        """
        new = location.beside(f"{location.name}.new") if location.local else location
        remove(new)
        try:
            with translate_icechunk_errors(location):
                _fill(new, header, fixed, parts, tiles)
            if location.local:
                remove(location)
                new.folder.rename(location.folder)
        except BaseException:
            with fail_fast(), suppress(OSError):
                remove(new)
            raise
        return CheckpointStore(location)

    def check_answers(self) -> None:
        """Nothing, where the store is within reach.

        Raises
        ------
        StoreError
            It does not answer.
        """
        self.exists(self.location)

    def remove(self) -> None:
        """Take the store away, with all that is in it."""
        remove(self.location)

    @translates_icechunk_errors
    def fixed(self) -> dict[str, Any]:
        """What stays the same over the run.

        Raises
        ------
        ScanError
            Something else than checkpoints, or those of another version of the package.
        """
        try:
            attributes = dict(zarr.open_group(self._session().store, mode="r").attrs)
        except FileNotFoundError as error:
            raise ScanError(
                f"{self.location} is incomplete: it is being made, or its making was cut off"
            ) from error
        if attributes.get("format") != FORMAT or attributes.get("format_version") != FORMAT_VERSION:
            raise ScanError(
                f"{self.location} holds {attributes.get('format')} {attributes.get('format_version')}; "
                f"expected {FORMAT} {FORMAT_VERSION}, as this version of daskptycho writes it"
            )
        return attributes

    @translates_icechunk_errors
    def header(self) -> xr.Dataset:
        """The scan without its frames."""
        return xr.open_zarr(
            self._session().store, group="scan", consolidated=False, chunks=None, zarr_format=3
        ).load()

    def _session(self, snapshot: str | None = None) -> icechunk.Session:
        if snapshot is None:
            return self._repository.readonly_session("main")
        return self._repository.readonly_session(snapshot_id=snapshot)

    @translates_icechunk_errors
    def snapshots(self) -> list[Snapshot]:
        """All checkpoints, the oldest first."""
        found: dict[str, Snapshot] = {}
        for branch in ("main", *self._passing()):
            for info in self._repository.ancestry(branch=branch):
                # The commit that made the store is no checkpoint.
                if "sweep" in info.metadata and info.id not in found:
                    sweep, residual = int(info.metadata["sweep"]), float(info.metadata["residual"])
                    found[info.id] = Snapshot(info.id, sweep, residual, info.written_at, branch != "main")
        return sorted(found.values(), key=lambda snapshot: (snapshot.sweep, snapshot.written))

    def _passing(self) -> list[str]:
        return [name for name in self._repository.list_branches() if name.startswith(PASSING)]

    @translates_icechunk_errors
    def writing(self, sweep: int, *, passing: bool) -> icechunk.Session:
        """A session whose forks the tasks write to."""
        if not passing:
            return self._repository.writable_session("main")
        branch = f"{PASSING}{sweep}"
        if branch in self._passing():
            self._repository.delete_branch(branch)
        self._repository.create_branch(branch, self._repository.lookup_branch("main"))
        return self._repository.writable_session(branch)

    @translates_icechunk_errors
    def commit(
        self,
        session: icechunk.Session,
        forks: Sequence[icechunk.ForkSession],
        small: Mapping[str, NDArray],
        attributes: Mapping[str, Any],
        history: NDArray[np.float64],
    ) -> str:
        """Make a whole checkpoint of what the tasks have written; its id.

        Parameters
        ----------
        session, forks : Session, sequence of ForkSession
            From `writing`, and what `write_tile` returned.
        small : mapping
            Parts of the state that are no tile's.
        attributes : mapping
            Plain values of this state.
        history : (sweep, 4) array
            Columns `HISTORY`.
        """
        session.merge(*forks)
        state = zarr.open_group(session.store, path="state", mode="r+")
        for name, value in {**small, "history": history}.items():
            state.create_array(name, data=value, chunks=value.shape or "auto", overwrite=True)
        state.attrs.update(attributes)
        sweep = len(history)
        residual = float(history[-1][0])
        return session.commit(f"Sweep {sweep}", metadata={"sweep": sweep, "residual": residual})

    @translates_icechunk_errors
    def forget_passing(self, *, but: str | None = None) -> None:
        """Delete the commits that are no history, but that one, and all that nothing needs any more."""
        for branch in self._passing():
            if self._repository.lookup_branch(branch) != but:
                self._repository.delete_branch(branch)
        self._repository.garbage_collect(datetime.now(UTC))

    @translates_icechunk_errors
    def attributes(self, snapshot: str) -> dict[str, Any]:
        """Plain values of a state."""
        return dict(self._state(snapshot).attrs)

    @translates_icechunk_errors
    def small(self, snapshot: str, name: str) -> NDArray[Any]:
        """A part of the state that is no tile's, or its history."""
        found: Any = self._state(snapshot)[name]
        return np.asarray(found[...])

    def _state(self, snapshot: str) -> zarr.Group:
        return zarr.open_group(self._session(snapshot).store, path="state", mode="r")


def _fill(
    location: Location, header: xr.Dataset, fixed: Mapping[str, Any], parts: Mapping[str, Part], tiles: int
) -> None:
    """Make a store with what stays the same over the run, and room for the rest."""
    repository = icechunk.Repository.create(storage(location), config(location))
    session = repository.writable_session("main")
    group = zarr.group(session.store, zarr_format=3)
    group.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, "version": __version__, **fixed})
    header.to_zarr(session.store, group="scan", zarr_format=3, consolidated=False, mode="w")
    state = group.create_group("state")
    for name, part in parts.items():
        state.create_array(
            name,
            shape=(tiles, *part.shape),
            dtype=part.dtype,
            chunks=(1, *_chunk(part)),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
            fill_value=0,
            config={"write_empty_chunks": True},
        )
    session.commit("Options and scan of the run")


def _chunk(part: Part) -> tuple[int, ...]:
    """The whole of a tile, or so many frames of it as fill a chunk."""
    row = int(np.prod(part.shape[1:])) * np.dtype(part.dtype).itemsize
    return (max(1, min(part.shape[0], CHUNK_BYTES // max(row, 1))), *part.shape[1:])


def write_tile(
    location: Location, fork: icechunk.ForkSession, tile: int, values: Mapping[str, NDArray]
) -> icechunk.ForkSession:
    """Write a tile's part of the state, where the tile is; the fork comes back to be merged.

    Raises
    ------
    StoreUnseen
        This process does not see the store: it runs on another machine.
    """
    if location.local and not CheckpointStore.exists(location):
        raise StoreUnseen(location)

    def write() -> None:
        state = zarr.open_group(fork.store, path="state", mode="r+")
        for name, value in values.items():
            array: Any = state[name]
            if value.shape != array.shape[1:]:
                # Whole chunks: a part of one would be read before it is written.
                whole = np.zeros(array.shape[1:], dtype=array.dtype)
                whole[tuple(slice(size) for size in value.shape)] = value
                value = whole
            array[tile] = value

    retry_icechunk(write, f"writing tile {tile} to {location}", location)
    return fork


@functools.lru_cache(maxsize=16)
def _array(location: Location, snapshot: str, name: str) -> Any:
    return CheckpointStore(location)._state(snapshot)[name]


def read_tile(location: Location, snapshot: str, name: str, tile: int, shape: tuple[int, ...]) -> NDArray:
    """One tile's value of a part of the state.

    Raises
    ------
    StoreUnseen
        This process does not see the store: it runs on another machine.
    """
    if location.local and not location.folder.is_dir():
        raise StoreUnseen(location)
    cut = (tile, *(slice(size) for size in shape))
    found = retry_icechunk(
        lambda: _array(location, snapshot, name)[cut], f"reading tile {tile} from {location}", location
    )
    return np.ascontiguousarray(found)
