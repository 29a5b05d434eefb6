"""The store of a run's checkpoints, on Icechunk: one commit is one complete state.

`run` creates and reads such stores; its tasks write and read tiles with `checkpoint_tiles`. A store holds
what stays the same over a run (its options, its scan without the frames) and a group ``state``. That group
has an array for each part of the state that has a value for each tile; its chunks are tiles. A part that a
state lacks keeps what an older state wrote there, so the attributes of the state list the parts that it has.

The branch ``main`` is the history. A branch ``passing-N`` is one commit beyond it: a temporary checkpoint of
sweep N, which cuts the lineage of tasks and is removed once the next checkpoint is complete.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

import icechunk
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from daskptycho.errors import ScanError
from daskptycho.storage import bucket
from daskptycho.storage.icechunk_client import (
    make_config,
    make_storage,
    remove,
    retry_icechunk,
    translate_icechunk_errors,
)
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import fail_fast
from daskptycho.version import __version__

__all__ = [
    "FORMAT",
    "HISTORY",
    "CheckpointStore",
    "Part",
    "Snapshot",
]

FORMAT = "daskptycho-checkpoints"
FORMAT_VERSION = 2

# Columns of the array ``history``.
HISTORY = ("residual", "disagreement", "spread", "seconds")
# How the branch of a temporary checkpoint is called in the store.
TEMPORARY_PREFIX = "passing-"
# A chunk of a large part, in bytes before compression.
CHUNK_BYTES = 2**25

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """An array of the state with a value for each tile: the largest shape of a value, and its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, a commit of Icechunk.

    Attributes
    ----------
    id : str
        Icechunk's own name of the commit.
    sweep : int
    residual : float
        After that sweep.
    written : datetime
    temporary : bool
        It is kept until the next checkpoint only.
    """

    id: str
    sweep: int
    residual: float
    written: datetime
    temporary: bool


def _translate_errors(
    method: Callable[Concatenate[CheckpointStore, P], T],
) -> Callable[Concatenate[CheckpointStore, P], T]:
    """Make a method of `CheckpointStore` raise StoreError in place of Icechunk's own errors."""

    @functools.wraps(method)
    def translated(store: CheckpointStore, *arguments: P.args, **options: P.kwargs) -> T:
        with translate_icechunk_errors(store.location):
            return method(store, *arguments, **options)

    return translated


class CheckpointStore:
    """The checkpoints of one run.

    Parameters
    ----------
    location : Location
        A folder, or a place in a bucket.
    """

    def __init__(self, location: Location) -> None:
        self.location = self._target = location
        self._repository = retry_icechunk(
            lambda: icechunk.Repository.open(make_storage(location), make_config(location)),
            f"opening {location}",
            location,
        )

    @staticmethod
    def exists(location: Location) -> bool:
        """Whether a store lies there."""
        if location.is_local:
            _finish_settling(location)
            with translate_icechunk_errors(location):
                return location.local_path.is_dir() and icechunk.Repository.exists(make_storage(location))
        return bucket.exists(location)

    @staticmethod
    def create(
        location: Location,
        header: xr.Dataset,
        constants: Mapping[str, Any],
        parts: Mapping[str, Part],
        tiles: int,
    ) -> CheckpointStore:
        """Create a store beside this location, which `settle` moves there once it has a checkpoint.

        In a bucket, where nothing can be renamed, it is created at the location, and a store that lies there
        is deleted first.

        Parameters
        ----------
        location : Location
        header : xarray.Dataset
            The scan without its frames.
        constants : mapping
            Plain values that stay the same over the run.
        parts : mapping
            Name and largest shape of each part of the state that has a value for each tile.
        tiles : int
            Number of tiles.
        """
        new = location
        if location.is_local:
            _finish_settling(location)
            new = location.with_name(f"{location.name}.new")
        remove(new)
        try:
            with translate_icechunk_errors(location):
                _initialise(new, header, constants, parts, tiles)
            store = CheckpointStore(new)
        except BaseException:
            with fail_fast(), suppress(OSError):
                remove(new)
            raise
        store._target = location
        return store

    def settle(self) -> None:
        """Move a new store to the location that it was created for; one that lies there is replaced.

        A run that is killed at any moment before has the checkpoints of the store that lies there; between
        the two renames, those of the new one: whoever looks next makes the second.
        """
        if self.location == self._target:
            return
        old = self._target.with_name(f"{self._target.name}.old")
        remove(old)
        with suppress(FileNotFoundError):
            self._target.local_path.rename(old.local_path)
        # Another process that looked at this moment has made the second rename.
        with suppress(FileNotFoundError):
            self.location.local_path.rename(self._target.local_path)
        remove(old)
        settled = CheckpointStore(self._target)
        self.location, self._repository = settled.location, settled._repository

    def check_reachable(self) -> None:
        """Do nothing if the store can be reached.

        Raises
        ------
        StoreError
            The store does not answer.
        """
        self.exists(self.location)

    def remove(self) -> None:
        """Delete the store with everything in it."""
        remove(self.location)

    @_translate_errors
    def read_constants(self) -> dict[str, Any]:
        """Read what stays the same over the run.

        Raises
        ------
        ScanError
            The store holds no checkpoints, or those of another version of the package.
        """
        try:
            attributes = dict(zarr.open_group(self._session().store, mode="r").attrs)
        except FileNotFoundError as error:
            raise ScanError(
                f"{self.location} is incomplete: it is being created, or its creation was interrupted"
            ) from error
        if attributes.get("format") != FORMAT or attributes.get("format_version") != FORMAT_VERSION:
            raise ScanError(
                f"{self.location} holds {attributes.get('format')} {attributes.get('format_version')}; "
                f"expected {FORMAT} {FORMAT_VERSION}, as this version of daskptycho writes it"
            )
        return attributes

    @_translate_errors
    def read_header(self) -> xr.Dataset:
        """Read the scan without its frames."""
        return xr.open_zarr(
            self._session().store, group="scan", consolidated=False, chunks=None, zarr_format=3
        ).load()

    def _session(self, snapshot: str | None = None) -> icechunk.Session:
        if snapshot is None:
            return self._repository.readonly_session("main")
        return self._repository.readonly_session(snapshot_id=snapshot)

    @_translate_errors
    def list_snapshots(self) -> list[Snapshot]:
        """List all checkpoints, the oldest first."""
        found: dict[str, Snapshot] = {}
        for branch in ("main", *self._temporary_branches()):
            for info in self._repository.ancestry(branch=branch):
                # The commit that created the store is no checkpoint.
                if "sweep" in info.metadata and info.id not in found:
                    sweep, residual = int(info.metadata["sweep"]), float(info.metadata["residual"])
                    found[info.id] = Snapshot(info.id, sweep, residual, info.written_at, branch != "main")
        return sorted(found.values(), key=lambda snapshot: (snapshot.sweep, snapshot.written))

    def _temporary_branches(self) -> list[str]:
        return [name for name in self._repository.list_branches() if name.startswith(TEMPORARY_PREFIX)]

    @_translate_errors
    def begin(self, sweep: int, *, temporary: bool) -> icechunk.Session:
        """Begin a checkpoint: a session, to whose forks the tasks write.

        Parameters
        ----------
        sweep : int
        temporary : bool
            Keep the checkpoint until the next one only.
        """
        if not temporary:
            return self._repository.writable_session("main")
        branch = f"{TEMPORARY_PREFIX}{sweep}"
        if branch in self._temporary_branches():
            self._repository.delete_branch(branch)
        self._repository.create_branch(branch, self._repository.lookup_branch("main"))
        return self._repository.writable_session(branch)

    @_translate_errors
    def commit(
        self,
        session: icechunk.Session,
        forks: Sequence[icechunk.ForkSession],
        small: Mapping[str, NDArray],
        attributes: Mapping[str, Any],
        history: NDArray[np.float64],
    ) -> str:
        """Complete a checkpoint with what the tasks have written.

        Parameters
        ----------
        session : icechunk.Session
            From `begin`.
        forks : sequence of icechunk.ForkSession
            What `write_tile` returned.
        small : mapping
            Parts of the state that belong to no tile.
        attributes : mapping
            Plain values of this state.
        history : (sweep, 4) array
            With the columns `HISTORY`.

        Returns
        -------
        str
            The id of the checkpoint.
        """
        session.merge(*forks)
        state = zarr.open_group(session.store, path="state", mode="r+")
        for name, value in {**small, "history": history}.items():
            state.create_array(name, data=value, chunks=value.shape or "auto", overwrite=True)
        state.attrs.update(attributes)
        sweep = len(history)
        residual = float(history[-1][0])
        return session.commit(f"Sweep {sweep}", metadata={"sweep": sweep, "residual": residual})

    @_translate_errors
    def forget_temporary(self, *, keep: str | None = None) -> None:
        """Delete all temporary checkpoints but `keep`, and all data that no checkpoint needs any more."""
        for branch in self._temporary_branches():
            if self._repository.lookup_branch(branch) != keep:
                self._repository.delete_branch(branch)
        self._repository.garbage_collect(datetime.now(UTC))

    @_translate_errors
    def read_attributes(self, snapshot: str) -> dict[str, Any]:
        """Read the plain values of a state."""
        return dict(self._state(snapshot).attrs)

    @_translate_errors
    def read_small(self, snapshot: str, name: str) -> NDArray[Any]:
        """Read a part of the state that belongs to no tile, or its history."""
        return np.asarray(self.open_part(snapshot, name)[...])

    def open_part(self, snapshot: str, name: str) -> Any:
        """Open the Zarr array of a part of the state."""
        return self._state(snapshot)[name]

    def _state(self, snapshot: str) -> zarr.Group:
        return zarr.open_group(self._session(snapshot).store, path="state", mode="r")


def _finish_settling(location: Location) -> None:
    """Make the second rename of `settle`, if a run was killed before it."""
    target = location.local_path
    new, old = (target.with_name(f"{target.name}.{part}") for part in ("new", "old"))
    if old.is_dir() and not target.exists():
        # Another process may have made it since, or this one may not write here.
        with suppress(OSError):
            (new if new.is_dir() else old).rename(target)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _initialise(
    location: Location,
    header: xr.Dataset,
    constants: Mapping[str, Any],
    parts: Mapping[str, Part],
    tiles: int,
) -> None:
    """Create a store with what stays the same over the run, and an empty array for each part."""
    repository = icechunk.Repository.create(make_storage(location), make_config(location))
    session = repository.writable_session("main")
    group = zarr.group(session.store, zarr_format=3)
    group.attrs.update(
        {"format": FORMAT, "format_version": FORMAT_VERSION, "version": __version__, **constants}
    )
    header.to_zarr(session.store, group="scan", zarr_format=3, consolidated=False, mode="w")
    state = group.create_group("state")
    for name, part in parts.items():
        state.create_array(
            name,
            shape=(tiles, *part.shape),
            dtype=part.dtype,
            chunks=(1, *_chunk_shape(part)),
            compressors=(BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()),
            fill_value=0,
            config={"write_empty_chunks": True},
        )
    session.commit("Options and scan of the run")


def _chunk_shape(part: Part) -> tuple[int, ...]:
    """The value of one tile, or as many of its frames as fill `CHUNK_BYTES`."""
    row = int(np.prod(part.shape[1:])) * np.dtype(part.dtype).itemsize
    return (max(1, min(part.shape[0], CHUNK_BYTES // max(row, 1))), *part.shape[1:])
