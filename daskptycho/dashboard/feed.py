"""Who feeds a live view: a callback of a run that makes a view now and then, and costs next to nothing.

`live_page` and `live_cell` are feeds of their own places.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import xarray as xr

from daskptycho.dashboard.view import View, image_of, probe_of, scale_of, tiles_of
from daskptycho.errors import FaultError
from daskptycho.run.loop import Progress
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost

__all__ = ["Feed", "Place", "first_view"]

# Seconds from one picture to the next at least, with somebody there and without.
PICTURES, UNWATCHED = 1.0, 20.0
# Share of the run's time that numbers and pictures may take each, with somebody there and without.
SHARE, UNWATCHED_SHARE = 0.05, 0.005
# Pixels along a side of a picture on the way, and of the last one, into which one zooms at leisure.
MOST, MOST_AT_THE_END = 600, 1500
# What a picture may meet that the run has to know.
FAULTS_OF_THE_RUN = (WorkersLost, OutOfMemory, FaultError)
# Seconds that the end of a run waits for whoever looks to have it.
FAREWELL = 3.0


class Place(Protocol):
    """Where views are shown."""

    def put(self, view: View) -> bool:
        """Show this view from now on, and say whether anyone looks."""

    def unseen(self) -> bool:
        """Whether somebody looks who does not have the newest view yet."""

    def close(self) -> None:
        """Nothing more will be shown."""


def first_view(scan: xr.Dataset | None, out: str | Path | None) -> View:
    """What there is to show before the first sweep."""
    source = "" if scan is None else str(scan.encoding.get("source", scan.attrs.get("source", "")))
    return View(
        scan=source,
        out="" if out is None else str(out),
        note="The frames are being read; the image appears after the first sweep.",
        frames=0 if scan is None else scan.sizes["frame"],
    )


class Feed:
    """A callback of `reconstruct` or `resume` that shows the run in some place.

    As a context manager it says at its end that the run is done, or why it stopped.

    Attributes
    ----------
    clock : callable
        The time now, in seconds.
    """

    def __init__(self, scan: xr.Dataset | None, view: View, place: Place) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._scan = scan
        self._view = view
        self._place = place
        self._watched = False
        self._failed = False
        self._last: Progress | None = None
        self._pictured = 0
        self._next_numbers = self._next_picture = self._next_unwatched = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take note of a sweep, and show it where it is time to.

        Raises
        ------
        WorkersLost
        OutOfMemory
        FaultError
            What failed is the run's own, which goes on without those workers, or says what is kept.
        """
        view = self._view
        # After lost workers a run goes on from its last checkpoint, and some sweeps come once more.
        kept = sum(sweep < progress.sweep for sweep in view.sweep)
        self._pictured = min(self._pictured, progress.sweep - 1)
        self._view = replace(
            view,
            status="running",
            note=f"The result will be in {view.out}." if view.out else "",
            sweeps=progress.options.sweeps,
            frames=len(progress.tiling.corner),
            tile_count=len(progress.tiling.tiles),
            sweep=(*view.sweep[:kept], progress.sweep),
            residual=(*view.residual[:kept], progress.residual),
            consensus=(*view.consensus[:kept], progress.consensus),
            seconds=(*view.seconds[:kept], progress.seconds),
            scale=scale_of(self._scan, progress.tiling.window),
        )
        self._last = progress
        now = self.clock()
        last = progress.sweep == progress.options.sweeps
        if last or now >= (self._next_picture if self._watched else self._next_unwatched):
            self._show(pictures=True, let_through=FAULTS_OF_THE_RUN)
        elif now >= self._next_numbers:
            self._show()

    def done(self) -> None:
        """Say that the run has come to its end, and show its last image."""
        out = self._view.out
        self._end("done", f"The result is in {out}." if out else "The result is there.")

    def stopped(self, reason: str) -> None:
        """Say that the run has stopped before its end."""
        self._end("stopped", reason)

    def close(self) -> None:
        """Let whoever looks have the last view, and show nothing more."""
        given_up = self.clock() + FAREWELL
        try:
            while not self._failed and self._place.unseen() and self.clock() < given_up:
                time.sleep(0.05)
            # The last view has been taken; a moment to travel.
            time.sleep(0.3 if self._watched else 0.0)
        except Exception as error:
            self._give_up(error)
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.done()
        else:
            self.stopped(str(error).splitlines()[0] if str(error) else kind.__name__ if kind else "")
        self.close()

    def _end(self, status: Any, note: str) -> None:
        self._view = replace(self._view, status=status, note=note)
        behind = self._last is not None and self._last.sweep > self._pictured
        self._show(pictures=behind and status == "done")

    def _show(self, *, pictures: bool = False, let_through: tuple[type[BaseException], ...] = ()) -> None:
        """Show the view; a failure there must not end a run, but the run's own faults are the run's."""
        if self._failed:
            return
        begun = self.clock()
        try:
            view = self._with_pictures(self._last) if pictures and self._last is not None else self._view
            self._watched = self._place.put(view)
        except let_through:
            raise
        except Exception as error:
            self._give_up(error)
            return
        now = self.clock()
        cost = now - begun
        if pictures:
            self._next_picture = now + max(PICTURES, cost / SHARE)
            self._next_unwatched = now + max(UNWATCHED, cost / UNWATCHED_SHARE)
        else:
            self._next_numbers = now + cost / SHARE

    def _with_pictures(self, progress: Progress) -> View:
        view = self._view
        self._pictured = progress.sweep
        most = MOST_AT_THE_END if progress.sweep == view.sweeps or view.status == "done" else MOST
        return replace(
            view,
            image=image_of(
                progress.preview(most),
                view.scale,
                progress.sweep,
                # The probe may have taken up any ramp, and the object's own is not known.
                remove_ramp=progress.options.update_probe,
            ),
            probe=probe_of(progress.probe()),
            tiles=tiles_of(progress.tiling, progress.homes(), view.scale),
        )

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(f"the live view is no longer kept up to date: {error!r}", stacklevel=3)
