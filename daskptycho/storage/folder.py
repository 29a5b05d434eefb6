"""Stores and files on a local disk: complete or absent, so that a killed run leaves none half-written.

`store` calls this module, and so do the exports of `formats`, which write to disks only.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

from zarr.storage import LocalStore

from daskptycho.errors import ScanError, StoreError
from daskptycho.storage.location import Location
from daskptycho.storage.overwriting import (
    busy_error,
    check_kind,
    exists_error,
    foreign_error,
    full_error,
    unfinished_error,
)
from daskptycho.storage.writers import Writer, claim, read_writer, release

__all__ = [
    "claim_tiles",
    "exists",
    "find_writers",
    "list_missing",
    "open_zarr_store",
    "read_bytes",
    "write_atomically",
    "write_bytes",
    "write_file_atomically",
]

# How often a turn is tried to be taken, and seconds between two tries: in all far longer than one lasts.
TURNS, PAUSE = 600, 0.05

# Errors of a disk without room for a file, or of a file that may not grow.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    """Give a path beside the target to write to; the file takes the target's place unless the block fails.

    Raises
    ------
    StoreError
        The disk is full.
    """
    partial = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        with _name_full_disk(target):
            yield partial
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _name_full_disk(target: Path) -> Iterator[None]:
    """Say in one sentence that there is no room for the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or isinstance(error, StoreError):
            raise
        raise full_error(target, error) from error


def list_missing(location: Location, keys: list[str]) -> list[str]:
    """Those of the keys for which the store has no file."""
    return [key for key in keys if not (location.local_path / key).is_file()]


def open_zarr_store(location: Location, *, read_only: bool = True) -> LocalStore:
    """The folder as a Zarr store."""
    return LocalStore(location.local_path, read_only=read_only)


@contextmanager
def write_atomically(target: Path, *, overwrite: bool, kind: str | None = None) -> Iterator[Path]:
    """Give a new folder beside the target, which takes its place at the end, or vanishes if the block fails.

    A note beside it names the process that writes. What a killed process has left is taken over, and what
    another one is writing is never disturbed, not even with `overwrite`.

    The parameters and the errors are those of `store.write_atomically`.
    """
    partial = target.with_name(target.name + ".partial")
    check_kind(target, _read_root(target), kind)
    _check_replaceable(target, overwrite)
    new_parents = [folder for folder in partial.parents if not folder.exists()]
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(partial)) from error
    note = partial.with_name(partial.name + ".writer")
    try:
        with _name_full_disk(target), _as_only_writer(target, partial, note, overwrite=overwrite):
            try:
                yield partial
                _replace_target(partial, target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    except BaseException:
        for folder in new_parents:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def _as_only_writer(target: Path, partial: Path, note: Path, *, overwrite: bool) -> Iterator[None]:
    """Make the folder to write to, empty, while no other process can; what a dead one has left is removed."""
    claimed = claim(note)
    has_note = claimed.took_over or claimed.other is not None
    if claimed.other is not None and claimed.other.lives:
        raise busy_error(target, claimed.other)
    if claimed.other is not None:
        if not overwrite:
            raise unfinished_error(partial, "exists", claimed.other)
        note.unlink(missing_ok=True)
        claimed = claim(note)
        if claimed.other is not None:
            raise busy_error(target, claimed.other)
    try:
        if partial.exists() and not has_note:
            if not overwrite:
                raise unfinished_error(partial, "exists")
            _refuse_foreign(partial)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        yield
    finally:
        release(note)


@contextmanager
def _take_turn(target: Path) -> Iterator[None]:
    """Wait until no other process changes what the writers of a scan that grows share, and keep others out.

    Raises
    ------
    ScanError
        Another one does not end.
    """
    note = target.with_name(f"{target.name}.turn.writer")
    for _ in range(TURNS):
        other = claim(note).other
        if other is None:
            break
        sleep(PAUSE)
    else:
        raise ScanError(f"{note} says that {other} changes {target}; remove it if that has ended")
    try:
        yield
    finally:
        release(note)


def claim_tiles(target: Path, names: Iterable[str], first: int, last: int) -> Path:
    """Become the only writer of these tiles of a scan that grows, and return the note that is left beside it.

    The notes of dead writers are removed, and what they had only begun to write of these tiles.

    Raises
    ------
    ScanError
        Another process, which lives or is on another machine, has a note for one of these tiles.
    """
    with _take_turn(target):
        note = _claim_tiles(target, first, last)
    for name in names:
        for tile in range(first, last + 1):
            chunk = target / name / "c" / str(tile)
            for begun in (*chunk.rglob("*.partial"), *chunk.parent.glob(f"{tile}.*.partial")):
                begun.unlink(missing_ok=True)
    return note


def find_writers(target: Path) -> list[Writer]:
    """The processes that have a note that they write tiles of a scan that grows."""
    found = []
    for note in _list_notes(target):
        with suppress(FileNotFoundError):
            found.append(read_writer(note.read_bytes()))
    return [writer for writer in found if writer is not None]


def _list_notes(target: Path) -> list[Path]:
    """The notes of the writers of tiles, beside a scan."""
    return sorted(target.parent.glob(f"{glob.escape(target.name)}.tiles-*-*.writer"))


def _claim_tiles(target: Path, first: int, last: int) -> Path:
    """Look at the notes of others and leave one: two steps, which are one writer's at a time."""
    notes = f"{target.name}.tiles-"
    for other in _list_notes(target):
        bounds = other.name.removeprefix(notes).removesuffix(".writer").split("-")
        if int(bounds[0]) > last or int(bounds[1]) < first:
            continue
        with suppress(FileNotFoundError):
            writer = read_writer(other.read_bytes())
            if writer is not None and writer.lives is False:
                other.unlink()
            elif writer is not None and writer.lives is None:
                raise ScanError(f"{other} says that {writer} writes these tiles; remove it if that has ended")
            else:
                raise busy_error(target, writer)
    note = target.with_name(f"{notes}{first}-{last}.writer")
    claimed = claim(note)
    if claimed.other is not None:
        raise busy_error(target, claimed.other)
    return note


def _read_root(path: Path) -> bytes | None:
    """The metadata of the Zarr group in a folder; None where there is none."""
    try:
        return (path / "zarr.json").read_bytes()
    except OSError:
        return None


def _check_replaceable(target: Path, overwrite: bool) -> None:
    """Raise ScanError where the write would destroy something that it must not."""
    if not overwrite and target.exists():
        raise exists_error(target)
    _refuse_foreign(target)


def _refuse_foreign(path: Path) -> None:
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
