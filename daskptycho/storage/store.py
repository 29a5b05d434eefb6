"""Zarr stores wherever they lie: opened from a `Location`, and written whole or not at all.

The rest of the package calls this module; it passes each location on to `folder` or to `bucket`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import xarray as xr

from daskptycho.errors import ScanError
from daskptycho.storage import bucket, bucket_client, folder
from daskptycho.storage.bucket_client import translate_errors
from daskptycho.storage.location import Location, parse_location
from daskptycho.storage.retrying import patience, retry
from daskptycho.storage.writers import Writer, release

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "Location",
    "claim_part",
    "exists",
    "find_writers",
    "list_missing",
    "load_dataset",
    "open_dataset",
    "open_zarr_store",
    "parse_location",
    "read_attributes",
    "read_bytes",
    "release_part",
    "retry_store",
    "translate_errors",
    "write_atomically",
    "write_bytes",
]

T = TypeVar("T")


def _module_for(location: Location) -> Any:
    return folder if location.is_local else bucket


def exists(location: Location) -> bool:
    """Whether a store or anything else lies there."""
    return bool(_module_for(location).exists(location))


def read_bytes(location: Location, key: str) -> bytes | None:
    """Read one file or object of a store; None where it does not exist."""
    content: bytes | None = _module_for(location).read_bytes(location, key)
    return content


def write_bytes(location: Location, content: bytes) -> None:
    """Write one file or object, which appears complete or not at all."""
    _module_for(location).write_bytes(location, content)


def list_missing(location: Location, keys: list[str]) -> list[str]:
    """Those of the keys for which the store has no file or object."""
    missing: list[str] = _module_for(location).list_missing(location, keys)
    return missing


def open_zarr_store(location: Location, *, read_only: bool = True) -> Store:
    """A Zarr store, to read from unless `read_only` is False.

    It may hold credentials: open it where it is used, put it into no task.
    """
    store: Store = _module_for(location).open_zarr_store(location, read_only=read_only)
    return store


def claim_part(location: Location, names: Iterable[str], first: int, last: int) -> Path | None:
    """Become the only writer of the chunks of these variables and tiles: see `folder.claim_tiles`.

    In a bucket nothing keeps writers apart: there is no note, and None is returned.
    """
    return folder.claim_tiles(location.local_path, names, first, last) if location.is_local else None


def find_writers(location: Location) -> list[Writer] | None:
    """Who has a note that they write tiles of a scan that grows; None in a bucket, which has no notes."""
    return folder.find_writers(location.local_path) if location.is_local else None


def release_part(note: Path | None) -> None:
    """Withdraw the claim of `claim_part`."""
    if note is not None:
        release(note)


@contextmanager
def write_atomically(location: Location, *, overwrite: bool, kind: str | None = None) -> Iterator[Store]:
    """Give a Zarr store to write to, which appears when it is complete, or vanishes if the block fails.

    On a disk this is a folder that is renamed at the end, in a bucket a store whose root is written last: see
    `folder.write_atomically` and `bucket.write_atomically`.

    Parameters
    ----------
    location : Location
        Where the new store appears.
    overwrite : bool
        Replace a store that lies there.
    kind : str, optional
        The attribute ``format`` of the new store. A store with another ``format`` is never replaced.

    Yields
    ------
    zarr.abc.store.Store

    Raises
    ------
    ScanError
        Something lies there already and must not be overwritten.
    StoreError
        The server does not answer, or denies access.
    OptionError
        The location is on a web server.
    """
    if not location.is_local:
        with bucket.write_atomically(location, overwrite=overwrite, kind=kind) as store:
            yield store
        return
    from zarr.storage import LocalStore

    with folder.write_atomically(location.local_path, overwrite=overwrite, kind=kind) as partial:
        yield LocalStore(partial)


def retry_store(action: Callable[[], T], description: str, location: Location) -> T:
    """Call an action on a store until it succeeds or patience runs out, and return its value.

    Raises
    ------
    StoreError
        The server does not answer, or denies access.
    """
    with translate_errors(location):
        if location.is_local:
            return retry(action, description, OSError)
        return retry(action, description, bucket_client.transient_errors(), patience())


def read_attributes(location: Location, expected: str = "a scan, as create_scan writes it") -> dict[str, Any]:
    """Read the attributes of the Zarr v3 group in a store.

    Parameters
    ----------
    location : Location
    expected : str
        What the error says was expected, if there is no such group.

    Raises
    ------
    ScanError
        There is no such group; says what lies there instead.
    StoreError
        The server does not answer, or denies access.
    """
    if location.is_local and location.local_path.is_file():
        raise ScanError(f"{location} is a file; expected {expected} (foreign files: import them first)")
    root = read_bytes(location, "zarr.json")
    if root is None:
        raise ScanError(f"{location} {_describe_contents(location)}; expected {expected}")
    try:
        metadata = json.loads(root)
        if metadata["node_type"] != "group":
            raise ValueError(f"it is an {metadata['node_type']}")
        return dict(metadata.get("attributes", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScanError(f"{location} cannot be read as a Zarr group: {error}") from error


def _describe_contents(location: Location) -> str:
    """What lies at a location that has no Zarr v3 group, as the end of a sentence."""
    if not exists(location):
        return "does not exist"
    if not location.is_local and read_bytes(location, bucket.INCOMPLETE) is not None:
        return "is incomplete: it is being written, or its writing was interrupted"
    if read_bytes(location, ".zgroup") is not None:
        return "holds a Zarr group of version 2"
    return "holds no Zarr group"


def open_dataset(location: Location) -> xr.Dataset:
    """Open a store with plain xarray. The dataset keeps the store open: load it, or take what is needed.

    Raises
    ------
    ScanError
        It cannot be read.
    StoreError
        The server does not answer, or denies access.
    """
    # Over a network the consolidated metadata save a request for each variable; a web server lists nothing.
    consolidated = False if location.is_local else None
    with translate_errors(location):
        try:
            return xr.open_zarr(open_zarr_store(location), chunks=None, consolidated=consolidated)
        except Exception as error:  # zarr and xarray raise all kinds of errors at broken metadata
            if isinstance(error, bucket_client.client_errors(location)):
                raise
            raise ScanError(f"{location} cannot be read: {error}") from error


def load_dataset(location: Location, dataset: xr.Dataset) -> xr.Dataset:
    """Read the values of an opened dataset into memory.

    Raises
    ------
    ScanError
        They are damaged.
    StoreError
        The server does not answer, or denies access.
    """
    with translate_errors(location):
        try:
            return dataset.load()
        except (ValueError, RuntimeError, KeyError, TypeError) as error:  # as codecs raise at damaged chunks
            if isinstance(error, bucket_client.client_errors(location)):
                raise
            raise ScanError(
                f"{location} is damaged: {type(error).__name__}: {' '.join(str(error).split())}; copy it "
                "again"
            ) from error
