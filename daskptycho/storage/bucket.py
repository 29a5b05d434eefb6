"""Stores in buckets and on web servers: read, and written so that an incomplete one is recognised.

A bucket cannot rename. A store is therefore written in place, and the metadata of its root last: without them
nobody opens it. Until then an object named `INCOMPLETE` says what is going on. Where a store is replaced, the
new one is written beside it; once it is complete, the server copies its objects over the old ones.

`store` and `checkpoints` call this module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore, WrapperStore

from daskptycho.errors import OptionError, StoreError
from daskptycho.storage.bucket_client import import_obstore, open_bucket, translate_errors
from daskptycho.storage.location import Location
from daskptycho.storage.overwriting import (
    check_kind,
    exists_error,
    foreign_error,
    unfinished_error,
)
from daskptycho.storage.retrying import fail_fast
from daskptycho.storage.writers import read_writer, this_writer

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "INCOMPLETE",
    "exists",
    "list_keys",
    "list_missing",
    "open_zarr_store",
    "read_bytes",
    "remove",
    "write_atomically",
    "write_bytes",
]

ROOT = "zarr.json"
INCOMPLETE = "daskptycho-incomplete"
INCOMPLETE_CONTENT = b"This store is being written by daskptycho, or its writing was cut off.\n"

# Requests in flight at a time, where many small ones are made.
CONCURRENT_REQUESTS = 16


def open_zarr_store(location: Location, *, read_only: bool = True) -> Store:
    """The location as a Zarr store."""
    return ObjectStore(open_bucket(location), read_only=read_only)


def read_bytes(location: Location, key: str) -> bytes | None:
    """Read one object of a store; None where it does not exist."""
    with translate_errors(location):
        try:
            return bytes(import_obstore().get(open_bucket(location), key).bytes())
        except FileNotFoundError:
            return None


def write_bytes(location: Location, content: bytes) -> None:
    """Write one object, which appears complete or not at all."""
    with translate_errors(location):
        _put_object(_parent(location), location.name, content)


def list_keys(location: Location) -> list[str]:
    """Keys of all objects below the location."""
    with translate_errors(location):
        batches = import_obstore().list(open_bucket(location))
        return [entry["path"] for batch in batches for entry in batch]


def list_missing(location: Location, keys: list[str]) -> list[str]:
    """Those of the keys for which the store has no object."""
    if location.scheme not in ("http", "https"):
        known = set(list_keys(location))
        return [key for key in keys if key not in known]
    # A web server does not list what it has.
    with translate_errors(location), ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        found = list(threads.map(lambda key: _has_object(location, key), keys))
    return [key for key, present in zip(keys, found, strict=True) if not present]


def _has_object(location: Location, key: str) -> bool:
    try:
        import_obstore().head(open_bucket(location), key)
    except FileNotFoundError:
        return False
    return True


def exists(location: Location) -> bool:
    """Whether an object lies at the location or below it."""
    with translate_errors(location):
        if location.scheme in ("http", "https"):
            return _has_object(location, ROOT)
        below = any(import_obstore().list(open_bucket(location)))
        return below or _has_object(_parent(location), location.name)


def _parent(location: Location) -> Location:
    return location.with_name("")


def remove(location: Location) -> None:
    """Delete all objects below the location."""
    with translate_errors(location):
        _delete_objects(location, list_keys(location))


def _delete_objects(location: Location, keys: list[str]) -> None:
    """Delete objects, the root first: without it nobody opens the others, should the rest be interrupted."""
    for batch in ([key for key in keys if key == ROOT], [key for key in keys if key != ROOT]):
        if batch:
            import_obstore().delete(open_bucket(location), batch)


class _RootLastStore(WrapperStore[Any]):
    """A store that holds back the metadata of its root, so that they can be written last."""

    def __init__(self, store: Store, held: dict[str, Any] | None = None) -> None:
        super().__init__(store)
        self.held: dict[str, Any] = {} if held is None else held

    def _with_store(self, store: Store) -> _RootLastStore:
        return _RootLastStore(store, self.held)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key == ROOT:
            return self.held.get(ROOT)
        return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Any) -> None:
        if key == ROOT:
            self.held[ROOT] = value
        else:
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if key == ROOT:
            self.held.setdefault(ROOT, value)
        else:
            await super().set_if_not_exists(key, value)

    async def exists(self, key: str) -> bool:
        return ROOT in self.held if key == ROOT else await super().exists(key)

    async def delete(self, key: str) -> None:
        if key == ROOT:
            self.held.pop(ROOT, None)
        else:
            await super().delete(key)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        async for name in super().list_dir(prefix):
            if name != INCOMPLETE:
                yield name


@contextmanager
def write_atomically(target: Location, *, overwrite: bool, kind: str | None = None) -> Iterator[Store]:
    """Give a store to write to, which becomes valid at the end; a partial one is removed, or marked as such.

    Where no store lies at the target, the new one is written in place. A writer that is killed leaves objects
    without the metadata of the root: nobody opens them. The next writer removes them if it can tell that the
    process is dead, or with `overwrite`.

    Where a store is replaced, the new one is written beside it, under the name of the target and
    ``.partial``. The server copies it once it is complete. A writer that is killed during the copying leaves
    the target incomplete and the complete new store beside it.

    The parameters and the errors are those of `store.write_atomically`.
    """
    if target.scheme in ("http", "https"):
        raise OptionError(f"{target} is on a web server, which is read-only; expected a bucket or a disk")
    root = read_bytes(target, ROOT)
    check_kind(target, root, kind)
    staging = target.with_name(f"{target.name}.partial")
    _check_replaceable(target, root is not None, staging, overwrite)
    partial = target if root is None else staging
    for location in {staging, partial}:
        remove(location)
    try:
        with translate_errors(target):
            _put_object(partial, INCOMPLETE, INCOMPLETE_CONTENT + this_writer().to_bytes())
            store = _RootLastStore(open_zarr_store(partial, read_only=False))
            yield store
            _put_object(partial, ROOT, store.held[ROOT].to_bytes())
            if partial == target:
                _delete_objects(partial, [INCOMPLETE])
    except BaseException:
        # A server that did not answer is not waited for a second time; what remains is marked as incomplete.
        with fail_fast(), suppress(StoreError):
            remove(partial)
        raise
    if partial != target:
        try:
            with translate_errors(target):
                _replace_target(partial, target)
        except BaseException as error:
            error.add_note(f"The new store is complete in {partial}.")
            raise


def _check_replaceable(target: Location, complete: bool, staging: Location, overwrite: bool) -> None:
    """Raise ScanError where the write would destroy something that it must not."""
    if complete and not overwrite:
        raise exists_error(target)
    for location in (target, staging):
        keys = [] if location == target and complete else list_keys(location)
        note = read_bytes(location, INCOMPLETE) if INCOMPLETE in keys else None
        writer = read_writer(None if note is None else note.removeprefix(INCOMPLETE_CONTENT))
        if writer is not None and writer.lives is False and ROOT not in keys:
            # What a dead process has left is taken over, unless it is complete.
            continue
        if keys and not overwrite:
            raise unfinished_error(location, "is incomplete", writer)
        if keys and INCOMPLETE not in keys and ROOT not in keys:
            raise foreign_error(location)


def _put_object(location: Location, key: str, content: bytes) -> None:
    import_obstore().put(open_bucket(location), key, content)


def _replace_target(partial: Location, target: Location) -> None:
    """Copy the new store over the old one, its root last, and delete it where it was written."""
    _put_object(target, INCOMPLETE, INCOMPLETE_CONTENT + this_writer().to_bytes())
    _delete_objects(target, [key for key in list_keys(target) if key != INCOMPLETE])
    obstore, parent = import_obstore(), open_bucket(_parent(target))
    new = [key for key in list_keys(partial) if key not in (INCOMPLETE, ROOT)]

    def copy(key: str) -> None:
        obstore.copy(parent, f"{partial.name}/{key}", f"{target.name}/{key}")

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        list(threads.map(copy, new))
    copy(ROOT)
    _delete_objects(target, [INCOMPLETE])
    remove(partial)
