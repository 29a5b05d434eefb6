"""The callback of a run that shows its progress now and then, at little cost.

`LivePage` and `LiveCell` are live views with a display of their own.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import xarray as xr

from daskptycho.dashboard.view import (
    Extent,
    View,
    add_plan,
    choose_scale,
    find_window,
    make_detail_picture,
    make_image_picture,
    make_probe_picture,
    make_tile_map,
)
from daskptycho.errors import FaultError
from daskptycho.run.loop import Progress
from daskptycho.tasks.waiting import OutOfMemory, WorkersLost

__all__ = ["Display", "LiveView", "make_first_view"]

# Seconds from one picture to the next at least, while somebody watches and while nobody does.
PICTURE_INTERVAL, UNWATCHED_INTERVAL = 1.0, 20.0
# Largest share of the run's time that numbers and pictures may take each, watched and unwatched.
TIME_SHARE, UNWATCHED_TIME_SHARE = 0.05, 0.005
# Most pixels along a side of a picture during the run, and of the last one, which one may zoom into.
PICTURE_PIXELS, LAST_PICTURE_PIXELS = 600, 1500
# Errors in making a picture that the run itself has to handle.
RUN_FAULTS = (WorkersLost, OutOfMemory, FaultError)
# Seconds that `close` waits at most until the last view has been read.
LAST_VIEW_SECONDS = 3.0


class Display(Protocol):
    """Something that shows views: a server of the live page, or the cell of a notebook."""

    def show(self, view: View) -> bool:
        """Show this view from now on, and return whether somebody watches."""

    def looked_at(self) -> Extent | None:
        """The part of the image that whoever watches has zoomed into; None for all of it."""

    def is_up_to_date(self) -> bool:
        """Whether whoever watches has the newest view."""

    def close(self) -> None:
        """Show nothing more."""


def make_first_view(scan: xr.Dataset | None, out: str | Path | None) -> View:
    """Make the view to show before the first sweep."""
    source = "" if scan is None else str(scan.encoding.get("source", scan.attrs.get("source", "")))
    return View(
        scan=source,
        out="" if out is None else str(out),
        note="The frames are being read; the image appears after the first sweep.",
        frames=0 if scan is None else scan.sizes["frame"],
    )


def _describe_growth(progress: Progress) -> str:
    """How far a scan that is still being measured is; an empty sentence once it has ended."""
    growth = progress.growth
    return "" if growth is None or growth.ended else f"{growth.describe()}."


class LiveView:
    """A callback of `reconstruct` or `resume` that shows the run on a display.

    As a context manager it shows at its end that the run is done, or why it stopped.

    Attributes
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, scan: xr.Dataset | None, view: View, display: Display) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._scan = scan
        self._view = view
        self._display = display
        self._is_watched = False
        self._failed = False
        self._progress: Progress | None = None
        self._pictured_sweep = 0
        self._next_numbers = self._next_picture = self._next_unwatched_picture = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take over the progress of a sweep, and show it if numbers or pictures are due.

        Raises
        ------
        WorkersLost
        OutOfMemory
        FaultError
            These are faults of the run: it continues without the lost workers, or reports what is kept.
        """
        view = self._view
        # After lost workers a run continues from its last checkpoint, and repeats some sweeps.
        kept = sum(sweep < progress.sweep for sweep in view.sweep)
        self._pictured_sweep = min(self._pictured_sweep, progress.sweep - 1)
        self._view = replace(
            view,
            status="running",
            note=_describe_growth(progress) or (f"The result will be in {view.out}." if view.out else ""),
            sweeps=progress.total,
            frames=len(progress.tiling.corner),
            tile_count=len(progress.tiling.tiles),
            sweep=(*view.sweep[:kept], progress.sweep),
            residual=(*view.residual[:kept], progress.residual),
            disagreement=(*view.disagreement[:kept], progress.disagreement),
            seconds=(*view.seconds[:kept], progress.seconds),
            scale=choose_scale(self._scan, progress.tiling.window),
        )
        self._progress = progress
        now = self.clock()
        is_last = progress.sweep == progress.total
        if is_last or now >= (self._next_picture if self._is_watched else self._next_unwatched_picture):
            self._show(pictures=True, let_through=RUN_FAULTS)
        elif now >= self._next_numbers:
            self._show()

    def show_done(self) -> None:
        """Show that the run has come to its end, with its last image."""
        out = self._view.out
        self._show_end("done", f"The result is in {out}." if out else "The result is ready.")

    def show_stopped(self, reason: str) -> None:
        """Show that the run has stopped before its end."""
        self._show_end("stopped", reason)

    def close(self) -> None:
        """Wait until whoever watches has the last view, and show nothing more."""
        latest = self.clock() + LAST_VIEW_SECONDS
        try:
            while not self._failed and not self._display.is_up_to_date() and self.clock() < latest:
                time.sleep(0.05)
            # The last view has been read, and needs a moment to arrive.
            time.sleep(0.3 if self._is_watched else 0.0)
        except Exception as error:
            self._give_up(error)
        finally:
            self._display.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.show_done()
        else:
            self.show_stopped(str(error).splitlines()[0] if str(error) else kind.__name__ if kind else "")
        self.close()

    def _show_end(self, status: Literal["done", "stopped"], note: str) -> None:
        self._view = replace(self._view, status=status, note=note)
        lacks_picture = self._progress is not None and self._progress.sweep > self._pictured_sweep
        self._show(pictures=lacks_picture and status == "done")

    def _show(self, *, pictures: bool = False, let_through: tuple[type[BaseException], ...] = ()) -> None:
        """Show the view. An error here does not end the run, unless it is to be let through."""
        if self._failed:
            return
        begun = self.clock()
        try:
            view = self._view
            if pictures and self._progress is not None:
                view = self._add_pictures(self._progress)
            self._is_watched = self._display.show(view)
        except let_through:
            raise
        except Exception as error:
            self._give_up(error)
            return
        now = self.clock()
        cost = now - begun
        if pictures:
            self._next_picture = now + max(PICTURE_INTERVAL, cost / TIME_SHARE)
            self._next_unwatched_picture = now + max(UNWATCHED_INTERVAL, cost / UNWATCHED_TIME_SHARE)
        else:
            self._next_numbers = now + cost / TIME_SHARE

    def _add_pictures(self, progress: Progress) -> View:
        view = self._view
        self._pictured_sweep = progress.sweep
        is_last = progress.sweep == view.sweeps or view.status == "done"
        whole = progress.preview(LAST_PICTURE_PIXELS if is_last else PICTURE_PIXELS)
        # A recovered probe may have taken up any phase ramp, so that the object's own is unknown.
        remove_ramp = progress.options.update_probe
        extent = self._display.looked_at() if whole.step > 1 else None
        window = None if extent is None else find_window(extent, view.scale, progress.tiling.window)
        detail = None
        if window is not None:
            part = progress.preview(PICTURE_PIXELS, window)
            detail = make_detail_picture(part, whole, view.scale, progress.sweep, remove_ramp=remove_ramp)
        tiles = make_tile_map(progress.tiling, progress.homes(), view.scale)
        growth = progress.growth
        if self._scan is not None and growth is not None and not growth.ended:
            tiles = add_plan(tiles, self._scan, growth.written, view.scale)
        return replace(
            view,
            image=make_image_picture(whole, view.scale, progress.sweep, remove_ramp=remove_ramp),
            detail=detail,
            probe=make_probe_picture(progress.probe()),
            tiles=tiles,
        )

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(f"the live view is no longer updated: {error!r}", stacklevel=3)
