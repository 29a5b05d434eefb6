"""Requests to stop a run: Ctrl-C, or SIGTERM, which a batch system sends before it kills a process.

Both raise an exception, so that a checkpoint can be written. `driving` and `waiting` call this module, and
the command line distinguishes `Terminated` from Ctrl-C.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Terminated", "catch_stop_signals", "raise_missed"]

# Exceptions of signals that arrived where Python drops exceptions, until `raise_missed` raises them.
_missed: list[type[BaseException]] = []


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM."""


@contextmanager
def catch_stop_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and `Terminated` on SIGTERM while the block runs.

    The exception of a signal is raised wherever the main thread happens to be. In some places Python drops
    it: in finalisers, and in callbacks of weak references and of the garbage collector, all of which Dask
    uses. An exception that arrives there is kept for `raise_missed`, and raised at the end of the block at
    the latest.

    Python handles signals only in its main thread: in another thread nothing is done. A handler other than
    the default one is not replaced.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    ours = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
    replaced = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    before = sys.unraisablehook

    def dropped(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _missed.append(unraisable.exc_type)
        else:
            before(unraisable)

    sys.unraisablehook = dropped
    try:
        for number in replaced:
            signal.signal(number, _make_handler(ours[number]))
        yield
        raise_missed()
    finally:
        for number in replaced:
            signal.signal(number, usual[number])
        sys.unraisablehook = before
        _missed.clear()


def raise_missed() -> None:
    """Raise an interruption that Python has dropped. Code that waits calls this function repeatedly."""
    if _missed and threading.current_thread() is threading.main_thread():
        raise _missed.pop()


def _make_handler(kind: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    def answer(number: int, frame: FrameType | None) -> None:
        if not _is_collecting(frame):
            raise kind
        _missed.append(kind)

    return answer


def _is_collecting(frame: FrameType | None) -> bool:
    """Whether a callback of the garbage collector is running in this frame.

    Dask's callback must not be interrupted: it would fail at the next collection.
    """
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None and frame.f_code not in callbacks:
        frame = frame.f_back
    return frame is not None
