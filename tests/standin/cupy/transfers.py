"""What crossed between host and device, and what the device was asked to do. Tests read this module."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Log", "Transfer", "launched", "moved", "noted", "planned", "serialised"]


@dataclass(frozen=True)
class Transfer:
    direction: str
    """``"to device"`` or ``"to host"``."""
    nbytes: int
    cause: str
    """The function of daskptycho, as ``model.amplitudes.prepare``; or what else."""


@dataclass
class Log:
    transfers: list[Transfer] = field(default_factory=list)
    launches: Counter[str] = field(default_factory=Counter)
    plans: set[tuple[tuple[int, ...], str]] = field(default_factory=set)
    """Shapes and types that a plan of the FFT was made for."""

    def bytes_by_cause(self) -> dict[tuple[str, str], int]:
        total: Counter[tuple[str, str]] = Counter()
        for transfer in self.transfers:
            total[transfer.direction, transfer.cause] += transfer.nbytes
        return dict(total)


_logs: list[Log] = []
_lock = threading.Lock()
_here = threading.local()


@contextmanager
def noted() -> Iterator[Log]:
    """A log of what happens in the block, in all threads."""
    log = Log()
    with _lock:
        _logs.append(log)
    try:
        yield log
    finally:
        with _lock:
            _logs.remove(log)


@contextmanager
def serialised() -> Iterator[None]:
    """What crosses in the block does so on its way to another process."""
    _here.cause = "between processes"
    try:
        yield
    finally:
        del _here.cause


def moved(direction: str, nbytes: int) -> None:
    transfer = Transfer(direction, nbytes, getattr(_here, "cause", None) or _cause())
    with _lock:
        for log in _logs:
            log.transfers.append(transfer)


def launched(name: str) -> None:
    with _lock:
        for log in _logs:
            log.launches[name] += 1


def planned(shape: tuple[int, ...], dtype: str) -> None:
    with _lock:
        for log in _logs:
            log.plans.add((shape, dtype))


def _cause() -> str:
    frame, found = sys._getframe(1), "outside daskptycho"
    while frame is not None:
        package, _, module = frame.f_globals.get("__name__", "").partition(".")
        if package == "daskptycho" and not frame.f_code.co_name.startswith("<"):
            found = f"{module}.{frame.f_code.co_name}"
            # `backend` moves what others ask it to move.
            if module != "backend":
                break
        frame = frame.f_back
    return found
