"""Zarr stores wherever they lie: opened from a `Location`, and written whole or not at all.

The rest of the package calls this module; it passes each location on to `folder` or to `bucket`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import xarray as xr

from daskptycho.errors import ScanError
from daskptycho.storage import bucket, bucket_client, folder
from daskptycho.storage.bucket_client import translate_errors
from daskptycho.storage.location import Location, parse_location
from daskptycho.storage.retrying import patience, retry

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "Location",
    "exists",
    "missing",
    "open_dataset",
    "parse_location",
    "read_attributes",
    "read_bytes",
    "retry_store",
    "translate_errors",
    "write_atomically",
    "write_bytes",
    "zarr_store",
]

T = TypeVar("T")


def _home(location: Location) -> Any:
    """The module that knows such places."""
    return folder if location.local else bucket


def exists(location: Location) -> bool:
    """Whether anything lies there."""
    return bool(_home(location).exists(location))


def read_bytes(location: Location, key: str) -> bytes | None:
    """One object of a store whole; None where it is not there."""
    content: bytes | None = _home(location).read_bytes(location, key)
    return content


def write_bytes(location: Location, content: bytes) -> None:
    """Write one file or object: it appears whole, or not at all."""
    _home(location).write_bytes(location, content)


def missing(location: Location, expected: list[str]) -> list[str]:
    """Those of the objects of a store that are not there."""
    absent: list[str] = _home(location).missing(location, expected)
    return absent


def zarr_store(location: Location) -> Store:
    """A Zarr store to read from. It may hold credentials: open it where it is used, put it into no task."""
    store: Store = _home(location).zarr_store(location)
    return store


@contextmanager
def write_atomically(location: Location, *, overwrite: bool, kind: str | None = None) -> Iterator[Store]:
    """A Zarr store to write to, which takes its place when it is complete, and vanishes if anything fails.

    On a disk it is a folder that is renamed at the end, in a bucket a store whose root is written last: see
    `folder.write_atomically` and `bucket.write_atomically`.

    Parameters
    ----------
    location : Location
    overwrite : bool
    kind : str, optional
        The ``format`` of what is written; a store of another kind is never replaced.

    Raises
    ------
    ScanError
        Something lies there already and is not to be overwritten.
    StoreError
        The place does not answer, or lets nobody in.
    """
    if not location.local:
        with bucket.write_atomically(location, overwrite=overwrite, kind=kind) as store:
            yield store
        return
    from zarr.storage import LocalStore

    with folder.write_atomically(location.folder, overwrite=overwrite, kind=kind) as partial:
        yield LocalStore(partial)


def retry_store(action: Callable[[], T], what: str, location: Location) -> T:
    """What an action on a store returns, tried again while patience lasts.

    Raises
    ------
    StoreError
        The place does not answer, or lets nobody in.
    """
    with translate_errors(location):
        if location.local:
            return retry(action, what, OSError)
        return retry(action, what, bucket_client.passing_errors(), patience())


def read_attributes(location: Location, expected: str = "a scan, as create_scan writes it") -> dict[str, Any]:
    """Attributes of the Zarr v3 group in a store.

    Parameters
    ----------
    location : Location
    expected : str
        For the message where there is none.

    Raises
    ------
    ScanError
        Says what lies there instead.
    StoreError
        The place does not answer, or lets nobody in.
    """
    if location.local and location.folder.is_file():
        raise ScanError(f"{location} is a file; expected {expected} (foreign files: import them first)")
    root = read_bytes(location, "zarr.json")
    if root is None:
        raise ScanError(f"{location} {_found_instead(location)}; expected {expected}")
    try:
        metadata = json.loads(root)
        if metadata["node_type"] != "group":
            raise ValueError(f"it is an {metadata['node_type']}")
        return dict(metadata.get("attributes", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScanError(f"{location} cannot be read as a Zarr group: {error}") from error


def _found_instead(location: Location) -> str:
    if not exists(location):
        return "does not exist"
    if not location.local and read_bytes(location, bucket.INCOMPLETE) is not None:
        return "is incomplete: it is being written, or its writing was cut off"
    if read_bytes(location, ".zgroup") is not None:
        return "holds a Zarr group of version 2"
    return "holds no Zarr group"


def open_dataset(location: Location) -> xr.Dataset:
    """A store as plain xarray opens it; it holds on to the store: load it, or take what is needed.

    Raises
    ------
    ScanError
        It cannot be read.
    StoreError
        The place does not answer, or lets nobody in.
    """
    # Over a network the consolidated metadata save a request for each variable; a web server lists nothing.
    consolidated = False if location.local else None
    with translate_errors(location):
        try:
            return xr.open_zarr(zarr_store(location), chunks=None, consolidated=consolidated)
        except Exception as error:  # whatever broken metadata make of zarr and xarray
            if isinstance(error, bucket_client.errors(location)):
                raise
            raise ScanError(f"{location} cannot be read: {error}") from error
