"""Stores and files on a local disk: complete or absent, so that a killed run leaves none half-written.

`store` calls this module, and so do the exports of `formats`, which write to disks only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.storage import LocalStore

from daskptycho.storage.location import Location
from daskptycho.storage.overwriting import check_kind, exists_error, foreign_error, unfinished_error

__all__ = [
    "exists",
    "list_missing",
    "open_zarr_store",
    "read_bytes",
    "write_atomically",
    "write_bytes",
    "write_file_atomically",
]


def exists(location: Location) -> bool:
    """Whether a folder or a file lies there."""
    return location.local_path.exists()


def read_bytes(location: Location, key: str) -> bytes | None:
    """Read one file of a store; None where it does not exist."""
    try:
        return (location.local_path / key).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_bytes(location: Location, content: bytes) -> None:
    """Write one file, which appears complete or not at all."""
    with write_file_atomically(location.local_path) as partial:
        partial.write_bytes(content)


@contextmanager
def write_file_atomically(target: Path) -> Iterator[Path]:
    """Give a path beside the target to write to; the file takes the target's place unless the block fails."""
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def list_missing(location: Location, keys: list[str]) -> list[str]:
    """Those of the keys for which the store has no file."""
    return [key for key in keys if not (location.local_path / key).is_file()]


def open_zarr_store(location: Location) -> LocalStore:
    """The folder as a Zarr store, for reading only."""
    return LocalStore(location.local_path, read_only=True)


@contextmanager
def write_atomically(target: Path, *, overwrite: bool, kind: str | None = None) -> Iterator[Path]:
    """Give a new folder beside the target, which takes its place at the end, or vanishes if the block fails.

    The parameters and the errors are those of `store.write_atomically`.
    """
    partial = target.with_name(target.name + ".partial")
    check_kind(target, _read_root(target), kind)
    _check_replaceable(target, partial, overwrite)
    if partial.exists():
        shutil.rmtree(partial)
    new_parents = [folder for folder in partial.parents if not folder.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        _replace_target(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in new_parents:
            with suppress(OSError):
                folder.rmdir()
        raise


def _read_root(path: Path) -> bytes | None:
    """The metadata of the Zarr group in a folder; None where there is none."""
    try:
        return (path / "zarr.json").read_bytes()
    except OSError:
        return None


def _check_replaceable(target: Path, partial: Path, overwrite: bool) -> None:
    """Raise ScanError where the write would destroy something that it must not."""
    if not overwrite and target.exists():
        raise exists_error(target)
    if not overwrite and partial.exists():
        raise unfinished_error(partial, "exists")
    for path in (target, partial):
        empty = path.is_dir() and not any(path.iterdir())
        if path.exists() and not empty and not (path / "zarr.json").is_file():
            raise foreign_error(path)


def _replace_target(partial: Path, target: Path) -> None:
    """Rename the new folder to the target; the old one is put back if that fails."""
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
