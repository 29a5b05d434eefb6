"""Where the newest view of a run lies: the run puts it there, pages take it from there.

One process holds a board: the scheduler's where the page is on its server, the run's own otherwise. It
needs no bokeh; a scheduler that is to hold one has daskptycho installed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from daskptycho.dashboard.view import View

__all__ = ["Board"]

# Seconds after which a page that no longer asks is not looked at: pages ask every half second.
ATTENTION = 3.0


class Board:
    """The newest view of one run.

    Parameters
    ----------
    view : View
        The first one, before anything is known.
    clock : callable, optional
        The time now, in seconds.
    """

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._view = view
        self._number = 0
        self._taken = 0
        self._looked_at = -ATTENTION
        self._lock = threading.Lock()

    def put(self, view: View) -> bool:
        """Show this view, the older one's pictures where it has none; say whether anyone looks."""
        with self._lock:
            pictures = {
                name: getattr(self._view, name)
                for name in ("image", "probe", "tiles")
                if getattr(view, name) is None
            }
            self._view = replace(view, **pictures)
            self._number += 1
        return self.watched()

    def look(self) -> tuple[int, View]:
        """The newest view and its number, and note that somebody looks."""
        with self._lock:
            self._looked_at = self._clock()
            self._taken = self._number
            return self._number, self._view

    def watched(self) -> bool:
        """Whether a page is open somewhere."""
        return self._clock() - self._looked_at < ATTENTION

    def unseen(self) -> bool:
        """Whether a page is open that does not have the newest view yet."""
        return self.watched() and self._taken < self._number
