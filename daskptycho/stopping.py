"""SIGTERM as an exception: what a batch system sends before it kills leaves time for a checkpoint.

`keeper` calls this module, and the command line tells `Terminated` from Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "termination_raised"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextmanager
def termination_raised() -> Iterator[None]:
    """Raise `Terminated` where the process is asked to end while the block runs.

    Python handles signals in its main thread alone; a handler that somebody has set stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
