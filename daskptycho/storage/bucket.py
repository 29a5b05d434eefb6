"""Stores in buckets and on web servers: read, and written so that an incomplete one is recognised.

A bucket cannot rename. A store is therefore written in place, and the metadata of its root last: without them
nobody opens it. Until then an object named `INCOMPLETE` says what is going on. Where a store is replaced, the
new one is written beside it; once it is complete, the server copies its objects over the old ones.

`store` and `checkpoints` call this module.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore, WrapperStore

from daskptycho.errors import OptionError, ScanError, StoreError
from daskptycho.storage.bucket_client import library, opened, translate_errors
from daskptycho.storage.location import Location
from daskptycho.storage.retrying import fail_fast

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "INCOMPLETE",
    "exists",
    "keys",
    "missing",
    "read_bytes",
    "remove",
    "write_atomically",
    "write_bytes",
    "zarr_store",
]

ROOT = "zarr.json"
INCOMPLETE = "daskptycho-incomplete"
BEGUN = b"This store is being written by daskptycho, or its writing was cut off.\n"

# Requests under way at once where there are many small ones.
AT_ONCE = 16


def zarr_store(location: Location, *, read_only: bool = True) -> Store:
    """The place as a Zarr store."""
    return ObjectStore(opened(location), read_only=read_only)


def read_bytes(location: Location, key: str) -> bytes | None:
    """One object whole; None where it is not there."""
    with translate_errors(location):
        try:
            return bytes(library().get(opened(location), key).bytes())
        except FileNotFoundError:
            return None


def write_bytes(location: Location, content: bytes) -> None:
    """Write one object: it appears whole, or not at all."""
    with translate_errors(location):
        _put(_parent(location), location.name, content)


def keys(location: Location) -> list[str]:
    """All objects below the place."""
    with translate_errors(location):
        found = library().list(opened(location))
        return [entry["path"] for several in found for entry in several]


def missing(location: Location, expected: list[str]) -> list[str]:
    """Those of the objects that are not there."""
    if location.scheme not in ("http", "https"):
        there = set(keys(location))
        return [key for key in expected if key not in there]
    with translate_errors(location), ThreadPoolExecutor(AT_ONCE) as threads:
        # A web server does not list what it has.
        found = list(threads.map(lambda key: _has(location, key), expected))
    return [key for key, there in zip(expected, found, strict=True) if not there]


def _has(location: Location, key: str) -> bool:
    try:
        library().head(opened(location), key)
    except FileNotFoundError:
        return False
    return True


def exists(location: Location) -> bool:
    """Whether anything lies there, an object or objects below."""
    with translate_errors(location):
        if location.scheme in ("http", "https"):
            return _has(location, ROOT)
        return any(library().list(opened(location))) or _has(_parent(location), location.name)


def _parent(location: Location) -> Location:
    return location.beside("")


def remove(location: Location) -> None:
    """Take away all objects below the place."""
    with translate_errors(location):
        _remove(location, keys(location))


def _remove(location: Location, there: list[str]) -> None:
    """The root first: without it the others are nothing, should the rest be cut off."""
    for some in ([key for key in there if key == ROOT], [key for key in there if key != ROOT]):
        if some:
            library().delete(opened(location), some)


class _RootLast(WrapperStore[Any]):
    """A store that keeps the metadata of its root aside until all else is there."""

    def __init__(self, store: Store, held: dict[str, Any] | None = None) -> None:
        super().__init__(store)
        self.held: dict[str, Any] = {} if held is None else held

    def _with_store(self, store: Store) -> _RootLast:
        return _RootLast(store, self.held)

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
    """A store to write to, which is valid once all of it is there; a partial one is removed, or told as such.

    Where nothing lies at the target, the store is written in place. A writer that is killed leaves objects
    without the root's metadata, which nobody opens and the next writer with `overwrite` removes. Where a
    store is replaced, the new one is written beside it under the name of the target and ``.partial``, and
    copied by the server once it is whole; a writer that is killed while it is copied leaves the target
    incomplete, and all of the new store beside it.

    Parameters
    ----------
    target : Location
    overwrite : bool
    kind : str, optional
        The ``format`` of what is written; a store of another kind is never replaced.

    Raises
    ------
    ScanError
        Something lies there already and is not to be overwritten.
    StoreError
        The bucket does not answer, or lets nobody in.
    """
    if target.scheme in ("http", "https"):
        raise OptionError(f"{target} is on a web server, which is read alone; expected a bucket or a disk")
    root = read_bytes(target, ROOT)
    found = _format_of(root)
    if kind is not None and found not in (None, kind):
        raise ScanError(f"{target} is a {found} and is not replaced by a {kind}; take another name")
    aside = target.beside(f"{target.name}.partial")
    _refuse_to_lose(target, root is not None, aside, overwrite)
    partial = target if root is None else aside
    for place in {aside, partial}:
        remove(place)
    try:
        with translate_errors(target):
            _put(partial, INCOMPLETE, BEGUN)
            store = _RootLast(zarr_store(partial, read_only=False))
            yield store
            _put(partial, ROOT, store.held[ROOT].to_bytes())
            if partial == target:
                _remove(partial, [INCOMPLETE])
    except BaseException:
        # What has been waited for is not waited for once more; what stays behind says what it is.
        with fail_fast(), suppress(StoreError):
            remove(partial)
        raise
    if partial != target:
        try:
            with translate_errors(target):
                _put_in_place(partial, target)
        except BaseException as error:
            error.add_note(f"The new store lies whole in {partial}.")
            raise


def _format_of(root: bytes | None) -> str | None:
    """What a Zarr group says it is; None where it says nothing."""
    try:
        found = json.loads(root or b"{}").get("attributes", {}).get("format")
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def _refuse_to_lose(target: Location, whole: bool, aside: Location, overwrite: bool) -> None:
    if whole and not overwrite:
        raise ScanError(f"{target} exists already; pass overwrite=True (--overwrite) to replace it")
    for place in (target, aside):
        there = [] if place == target and whole else keys(place)
        if there and not overwrite:
            raise ScanError(
                f"{place} is incomplete: another write is going on or was cut off; wait for it, remove it, "
                "or pass overwrite=True (--overwrite)"
            )
        if there and INCOMPLETE not in there and ROOT not in there:
            raise ScanError(
                f"{place} is no Zarr group and is not overwritten; remove it or take another name"
            )


def _put(location: Location, key: str, content: bytes) -> None:
    library().put(opened(location), key, content)


def _put_in_place(partial: Location, target: Location) -> None:
    _put(target, INCOMPLETE, BEGUN)
    _remove(target, [key for key in keys(target) if key != INCOMPLETE])
    obstore, parent = library(), opened(_parent(target))
    new = [key for key in keys(partial) if key not in (INCOMPLETE, ROOT)]

    def copy(key: str) -> None:
        obstore.copy(parent, f"{partial.name}/{key}", f"{target.name}/{key}")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(copy, new))
    copy(ROOT)
    _remove(target, [INCOMPLETE])
    remove(partial)
