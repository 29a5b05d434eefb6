"""Who writes a store: a note beside it, from which others tell whether its writer lives.

The note names the machine and the process. A writer that was killed leaves it, and the next one takes over;
one that lives is never disturbed. `folder` and `bucket` call this module.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import NamedTuple

import psutil

__all__ = ["Claim", "Writer", "claim", "read_writer", "release", "this_writer"]

# Largest difference in seconds between two readings of the time at which a process began.
SAME_TIME = 10.0
# How often a note is tried to be written while others come and go, and seconds between two readings of one.
ATTEMPTS, PAUSE = 6, 0.05


@dataclass(frozen=True)
class Writer:
    """The process that writes a store.

    Attributes
    ----------
    host : str
        Name of the machine.
    machine : str
        What distinguishes machines, their restarts and containers of the same name.
    pid : int
    began : float
        When the process began, in seconds since 1970.
    """

    host: str
    machine: str
    pid: int
    began: float

    @property
    def lives(self) -> bool | None:
        """Whether the process lives; None if it cannot be told, since it is on another machine."""
        if self.machine != _machine():
            return None
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) < SAME_TIME
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def to_bytes(self) -> bytes:
        """The note."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def this_writer() -> Writer:
    """The writer that is this process."""
    process = psutil.Process()
    return Writer(socket.gethostname(), _machine(), process.pid, process.create_time())


def read_writer(note: bytes | None) -> Writer | None:
    """The writer that a note names; None where there is no note, or one that cannot be read."""
    try:
        found = json.loads(note or b"")
        return Writer(str(found["host"]), str(found["machine"]), int(found["pid"]), float(found["began"]))
    except (ValueError, KeyError, TypeError):
        return None


class Claim(NamedTuple):
    """What became of the attempt to be the writer."""

    other: Writer | None = None
    """The writer that is there; None if this process is the writer now."""
    took_over: bool = False
    """Whether the note of a dead writer was replaced."""


def claim(note: Path) -> Claim:
    """Write the note of this process, unless that of another one lies there that lives or may live.

    Of several processes that try at once, one succeeds.
    """
    for attempt in range(ATTEMPTS):
        try:
            descriptor = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            found = _read(note)
            if found is not None and found.lives is not False:
                return Claim(found)
            if found is None and attempt < ATTEMPTS - 2:
                # A note that cannot be read is being written at this moment, or was cut off.
                sleep(PAUSE)
            elif _take_over(note, found):
                return Claim(took_over=True)
            continue
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(this_writer().to_bytes())
        except BaseException:
            release(note)
            raise
        return Claim()
    return Claim(_read(note) or this_writer())


def release(note: Path) -> None:
    """Delete the note of this process."""
    note.unlink(missing_ok=True)


def _read(note: Path) -> Writer | None:
    try:
        return read_writer(note.read_bytes())
    except FileNotFoundError:
        return None


def _take_over(note: Path, dead: Writer | None) -> bool:
    """Put the note of this process in place of a dead writer's; False if others were faster.

    Only who holds a note of its own beside it may replace a note, and looks at it once more: what was read
    before may have been replaced since.
    """
    turn = note.with_name(f"{note.name}.turn")
    if claim(turn).other is not None:
        sleep(PAUSE)
        return False
    fresh = note.with_name(f"{note.name}.fresh")
    try:
        if not note.exists() or _read(note) != dead:
            return False
        fresh.write_bytes(this_writer().to_bytes())
        os.replace(fresh, note)
        return True
    finally:
        fresh.unlink(missing_ok=True)
        release(turn)
