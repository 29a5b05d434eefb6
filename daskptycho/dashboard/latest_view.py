"""The newest view of a run: the run puts it here, and open pages read it.

One process holds it: the scheduler's where the page is on the scheduler's server, the run's own otherwise.
This module does not import Bokeh. A scheduler that holds views has daskptycho installed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from daskptycho.dashboard.view import Extent, View

__all__ = ["LatestView"]

# Seconds without a request after which a page counts as closed: an open one asks every half second.
OPEN_PAGE_SECONDS = 3.0


class LatestView:
    """The newest view of one run.

    Parameters
    ----------
    view : View
        The first one, before anything is known.
    clock : callable, optional
        Returns the time in seconds.
    """

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._view = view
        self._number = 0
        self._number_read = 0
        self._read_at = -OPEN_PAGE_SECONDS
        self._extent: Extent | None = None
        self._lock = threading.Lock()

    def show(self, view: View) -> bool:
        """Replace the view, and return whether a page is open.

        Where the new view has no picture, the picture of the old one stays.
        """
        with self._lock:
            pictures = {
                name: getattr(self._view, name)
                for name in ("image", "probe", "tiles")
                if getattr(view, name) is None
            }
            if "image" in pictures:
                pictures["detail"] = self._view.detail
            self._view = replace(view, **pictures)
            self._number += 1
        return self.is_watched()

    def read(self) -> tuple[int, View]:
        """Return the number of the newest view, and the view itself; a page calls this while it is open."""
        with self._lock:
            self._read_at = self._clock()
            self._number_read = self._number
            return self._number, self._view

    def look_at(self, extent: Extent | None) -> None:
        """Remember which part of the image a page shows now; None for all of it."""
        self._extent = extent

    def looked_at(self) -> Extent | None:
        """The part of the image that was looked at last; None for all of it, or if no page is open."""
        return self._extent if self.is_watched() else None

    def is_watched(self) -> bool:
        """Whether a page is open."""
        return self._clock() - self._read_at < OPEN_PAGE_SECONDS

    def is_up_to_date(self) -> bool:
        """Whether a page has read the newest view, or none is open."""
        return self._number_read == self._number or not self.is_watched()
