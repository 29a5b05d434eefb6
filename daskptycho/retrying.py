"""A store that fails now and then: tried again, a few times, with growing pauses.

Whoever reads or writes a store calls this module; it calls nothing of the package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PAUSES", "retried"]

T = TypeVar("T")

# Seconds between one attempt and the next: a store may be away for about six seconds.
PAUSES = (0.1, 0.4, 1.5, 4.0)


def retried(action: Callable[[], T], what: str, fails: type[Exception] | tuple[type[Exception], ...]) -> T:
    """What the action returns, in the end.

    Parameters
    ----------
    action : callable
        Does no harm where it is done twice.
    what : str
        For the log: "reading tile 3".
    fails : exception or exceptions
        What is worth another attempt; the last one is raised.
    """
    for pause in PAUSES:
        try:
            return action()
        except fails as error:
            logging.getLogger(__name__).info("%s failed and is tried again: %s", what, error)
            time.sleep(pause)
    return action()
