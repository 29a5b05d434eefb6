"""A run is asked to stop: by Ctrl-C, or by SIGTERM, which a batch system sends before it kills.

Both arrive as an exception, so that there is time for a checkpoint. `keeper` and `waiting` call this module,
and the command line tells `Terminated` from Ctrl-C.
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

# Exceptions of signals that came where none can be caught, until `raise_missed` raises them.
_missed: list[type[BaseException]] = []


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


@contextmanager
def catch_stop_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` or `Terminated` where the process is asked to end while the block runs.

    A signal's exception is raised wherever the main thread is, and in some places Python drops it: in
    finalisers, and in the callbacks of weak references and of the garbage collector. Dask has all of them.
    One that comes there is kept for `raise_missed`.

    Python handles signals in its main thread alone; a handler that somebody has set stays.
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
    """Raise an interruption that came where none can be caught; whoever waits asks from time to time."""
    if _missed and threading.current_thread() is threading.main_thread():
        raise _missed.pop()


def _make_handler(kind: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    def answer(number: int, frame: FrameType | None) -> None:
        if not _is_collecting(frame):
            raise kind
        _missed.append(kind)

    return answer


def _is_collecting(frame: FrameType | None) -> bool:
    """Whether a callback of the garbage collector runs: what comes during a collection is handled there.

    Dask's callback, cut off, would fail at the next one.
    """
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None and frame.f_code not in callbacks:
        frame = frame.f_back
    return frame is not None
