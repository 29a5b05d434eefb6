"""Actions on a store that may fail for a moment: repeated, with growing pauses, until patience runs out.

Every module that reads or writes a store calls this one.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic, sleep
from typing import TypeVar

from daskptycho.errors import OptionError

__all__ = [
    "DISK_PATIENCE",
    "LONGEST_PAUSE",
    "PATIENCE_VARIABLE",
    "fail_fast",
    "patience",
    "retry",
    "strip_queries",
]

T = TypeVar("T")

# Seconds for which a disk may be unavailable: a longer outage is no hiccup.
DISK_PATIENCE = 6.0
# The environment variable with the seconds for which a server may be unavailable, and what holds without it:
# an outage of a minute, and the time of the last attempt.
PATIENCE_VARIABLE = "DASKPTYCHO_STORE_PATIENCE"
SERVER_PATIENCE = 75.0

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0

_log = logging.getLogger(__name__)
_impatient: ContextVar[bool] = ContextVar("_impatient", default=False)


def patience() -> float:
    """Seconds for which a server may be unavailable.

    Raises
    ------
    OptionError
        The environment variable `PATIENCE_VARIABLE` is not a number of seconds.
    """
    if _impatient.get():
        return 0.0
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        seconds = float(text) if text else SERVER_PATIENCE
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise OptionError(f"{PATIENCE_VARIABLE} is {text!r}; expected seconds")
    return seconds


@contextmanager
def fail_fast() -> Iterator[None]:
    """Try only once in the block: the server has been waited for already."""
    token = _impatient.set(True)
    try:
        yield
    finally:
        _impatient.reset(token)


def strip_queries(text: str) -> str:
    """Remove what follows the question marks of addresses in a message: it may be a signature."""
    return re.sub(r"\?\S+", "", text)


def retry(
    action: Callable[[], T],
    description: str,
    errors: type[Exception] | tuple[type[Exception], ...],
    seconds: float | None = None,
) -> T:
    """Call an action until it succeeds or patience runs out, and return its value.

    Parameters
    ----------
    action : callable
        Must do no harm when it is repeated.
    description : str
        For the log, such as "reading tile 3".
    errors : exception or tuple of exceptions
        Errors that are worth another attempt. The last one is raised.
    seconds : float, optional
        Patience, from the first attempt to the last; `DISK_PATIENCE` by default.
    """
    until = monotonic() + (DISK_PATIENCE if seconds is None else seconds)
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except errors as error:
            if monotonic() + pause > until:
                raise
            _log.info("%s failed and will be retried: %s", description, strip_queries(str(error)))
            sleep(pause)
            pause = min(4 * pause, LONGEST_PAUSE)
