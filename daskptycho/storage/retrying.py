"""A store that fails now and then: tried again with growing pauses, for as long as patience lasts.

Whoever reads or writes a store calls this module; it calls nothing of the package but `errors`.
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
    "VARIABLE",
    "fail_fast",
    "patience",
    "retry",
    "strip_queries",
]

T = TypeVar("T")

# Seconds that a disk may be away: what takes longer there is no hiccup.
DISK_PATIENCE = 6.0
# Seconds that a server may be away, unless the environment says otherwise: an outage of a minute, and
# the time of the last attempt.
VARIABLE = "DASKPTYCHO_STORE_PATIENCE"
SERVER_PATIENCE = 75.0

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0

_log = logging.getLogger(__name__)
_impatient: ContextVar[bool] = ContextVar("_impatient", default=False)


def patience() -> float:
    """Seconds that a server may be away.

    Raises
    ------
    OptionError
        The environment says something else than a number.
    """
    if _impatient.get():
        return 0.0
    said = os.environ.get(VARIABLE, "")
    try:
        seconds = float(said) if said else SERVER_PATIENCE
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise OptionError(f"{VARIABLE} is {said!r}; expected seconds")
    return seconds


@contextmanager
def fail_fast() -> Iterator[None]:
    """Try once: what happens here has been waited for already."""
    token = _impatient.set(True)
    try:
        yield
    finally:
        _impatient.reset(token)


def strip_queries(text: str) -> str:
    """A message without what stands after the question marks of its addresses, which may be signed."""
    return re.sub(r"\?\S+", "", text)


def retry(
    action: Callable[[], T],
    what: str,
    fails: type[Exception] | tuple[type[Exception], ...],
    seconds: float | None = None,
) -> T:
    """What the action returns, in the end.

    Parameters
    ----------
    action : callable
        Does no harm where it is done twice.
    what : str
        For the log: "reading tile 3".
    fails : exception or exceptions
        What is worth another attempt; the last one is raised.
    seconds : float, optional
        Patience, from the first attempt to the last; a disk's unless given.
    """
    until = monotonic() + (DISK_PATIENCE if seconds is None else seconds)
    pause = FIRST_PAUSE
    while True:
        try:
            return action()
        except fails as error:
            if monotonic() + pause > until:
                raise
            _log.info("%s failed and is tried again: %s", what, strip_queries(str(error)))
            sleep(pause)
            pause = min(4 * pause, LONGEST_PAUSE)
