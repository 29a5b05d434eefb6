"""What a write may replace: nothing without ``overwrite``, and never something of another kind.

`folder` and `bucket` decide by these rules, each for its own sort of place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from daskptycho.errors import ScanError, StoreError
from daskptycho.storage.location import Location

__all__ = [
    "busy_error",
    "check_kind",
    "exists_error",
    "foreign_error",
    "full_error",
    "unfinished_error",
]


def check_kind(target: Path | Location, root: bytes | None, kind: str | None) -> None:
    """Refuse to replace a store by one of another kind.

    Parameters
    ----------
    target : Path or Location
    root : bytes or None
        Content of the ``zarr.json`` that lies there, None without one.
    kind : str or None
        The attribute ``format`` of the new store. With None every store may be replaced.

    Raises
    ------
    ScanError
        The ``format`` of the store that lies there is not `kind`.
    """
    found = _read_format(root)
    if kind is not None and found not in (None, kind):
        raise ScanError(f"{target} is a {found} and is not replaced by a {kind}; choose another name")


def _read_format(root: bytes | None) -> str | None:
    """The ``format`` of a Zarr group; None where it has none."""
    try:
        found = json.loads(root or b"{}").get("attributes", {}).get("format")
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def exists_error(target: Path | Location) -> ScanError:
    """The error for a complete store or file that is not to be overwritten."""
    return ScanError(f"{target} exists already; pass overwrite=True (--overwrite) to replace it")


def unfinished_error(target: Path | Location, state: str, writer: object = None) -> ScanError:
    """The error for what another write has left, or is still writing; `writer` if it is known who wrote."""
    by = "" if writer is None else f" (by {writer})"
    return ScanError(
        f"{target} {state}: another write{by} is in progress or was interrupted; wait for it, remove it, or "
        "pass overwrite=True (--overwrite)"
    )


def busy_error(target: Path | Location, writer: object) -> ScanError:
    """The error for a place where another process is writing at this moment."""
    return ScanError(
        f"{target} is being written by {writer} at this moment; wait for it, or choose another name"
    )


def full_error(target: Path | Location, error: OSError) -> StoreError:
    """The error for a disk without room, with the notes of the error that it replaces."""
    full = StoreError(f"{target} cannot be written: {os.strerror(error.errno or 0)}; nothing of it is left")
    for note in getattr(error, "__notes__", ()):
        full.add_note(note)
    return full


def foreign_error(target: Path | Location) -> ScanError:
    """The error for what no write of this package made: it is never overwritten."""
    return ScanError(f"{target} is not a Zarr group and is not overwritten; remove it or choose another name")
