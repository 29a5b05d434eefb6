"""Stores and files on a local disk: complete or absent, so that a killed run leaves none half-written.

`store` calls this module, and so do the exports of `formats`, which write to disks only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.storage import LocalStore

from daskptycho.errors import ScanError
from daskptycho.storage.location import Location

__all__ = [
    "exists",
    "missing",
    "read_bytes",
    "write_atomically",
    "write_bytes",
    "write_file_atomically",
    "zarr_store",
]


def exists(location: Location) -> bool:
    """Whether a folder or a file lies there."""
    return location.folder.exists()


def read_bytes(location: Location, key: str) -> bytes | None:
    """One file of a store whole; None where it is not there."""
    try:
        return (location.folder / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_bytes(location: Location, content: bytes) -> None:
    """Write one file: it appears whole, or not at all."""
    with write_file_atomically(location.folder) as partial:
        partial.write_bytes(content)


@contextmanager
def write_file_atomically(target: Path) -> Iterator[Path]:
    """A path beside the target to write a file to, which takes its place at the end, and vanishes if not."""
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def missing(location: Location, expected: list[str]) -> list[str]:
    """Those of the files that are not there."""
    return [key for key in expected if not (location.folder / key).is_file()]


def zarr_store(location: Location) -> LocalStore:
    """The folder as a Zarr store to read from."""
    return LocalStore(location.folder, read_only=True)


@contextmanager
def write_atomically(target: Path, *, overwrite: bool, kind: str | None = None) -> Iterator[Path]:
    """A new folder beside the target that takes its place at the end, and vanishes if anything fails.

    Parameters
    ----------
    target : Path
    overwrite : bool
    kind : str, optional
        The ``format`` of what is written; a store of another kind is never replaced.

    Raises
    ------
    ScanError
        Something lies there already and is not to be overwritten.
    """
    partial = target.with_name(target.name + ".partial")
    found = _format_of(target)
    if kind is not None and found not in (None, kind):
        raise ScanError(f"{target} is a {found} and is not replaced by a {kind}; take another name")
    _refuse_to_lose(target, partial, overwrite)
    if partial.exists():
        shutil.rmtree(partial)
    new_parents = [folder for folder in partial.parents if not folder.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        _put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in new_parents:
            with suppress(OSError):
                folder.rmdir()
        raise


def _format_of(path: Path) -> str | None:
    """What the Zarr group in a folder says it is; None where it says nothing."""
    try:
        attributes = json.loads((path / "zarr.json").read_text()).get("attributes", {})
    except (OSError, ValueError):
        return None
    found = attributes.get("format")
    return found if isinstance(found, str) else None


def _refuse_to_lose(target: Path, partial: Path, overwrite: bool) -> None:
    if not overwrite and target.exists():
        raise ScanError(f"{target} exists already; pass overwrite=True (--overwrite) to replace it")
    if not overwrite and partial.exists():
        raise ScanError(
            f"{partial} exists: another write is going on or was cut off; wait for it, remove it, "
            "or pass overwrite=True (--overwrite)"
        )
    for path in (target, partial):
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not (path / "zarr.json").is_file():
            raise ScanError(f"{path} is no Zarr group and is not overwritten; remove it or take another name")


def _put_in_place(partial: Path, target: Path) -> None:
    if not target.exists():
        os.rename(partial, target)
        return
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.old-") as aside:
        old = Path(aside) / "scan"
        os.rename(target, old)
        try:
            os.rename(partial, target)
        except BaseException:
            os.rename(old, target)
            raise
