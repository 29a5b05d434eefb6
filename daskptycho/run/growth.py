"""A scan that grows, as the run that follows it sees it: how far it is, and whether there is more."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from daskptycho.errors import OptionError
from daskptycho.scan.dataset import frames_used, open_scan
from daskptycho.scan.growing import NOT_YET, count_written
from daskptycho.scan.left_out import FRAME_USED, mark_left_out
from daskptycho.storage.store import find_writers, open_dataset, parse_location

__all__ = ["Growth", "Watch", "take_some_tiles"]

# Seconds between two looks at the store while there is nothing else to do.
PAUSE = 0.1
# Seconds without a frame after which it is said who writes the scan.
SILENT = 10.0
# Seconds over which the frames that come in a second are counted.
RECENT = 30.0


class Growth(NamedTuple):
    """How far a scan has grown, and how far the run that follows it is."""

    planned: int
    """Frames of the plan."""
    measured: int
    """Frames in the store."""
    taken_up: int
    """Frames that the image is computed from."""
    ended: bool
    """Whether no more frames will come."""
    rate: float = 0.0
    """Frames that came in a second, lately."""
    silence: str = ""
    """What is known of the writer, if no frame has come for long."""
    stage: int = 0
    """Number of sweeps done when the last of these frames came in."""
    written: tuple[bool, ...] = ()
    """Whether each tile of the plan is in the store, or has ended without frames."""

    @property
    def behind(self) -> int:
        """Frames that are measured and not taken up yet; those that are left out are none of them."""
        return max(0, self.measured - self.taken_up)

    def describe(self) -> str:
        """How far the scan and the run are, in words."""
        behind = f", {self.behind:,} behind" if self.behind else ""
        rate = f" at {self.rate:,.0f} a second" if self.rate else ""
        silence = f"; {self.silence}" if self.silence else ""
        return (
            f"{self.measured:,} of {self.planned:,} frames measured{rate}, {self.taken_up:,} in the "
            f"image{behind}{silence}"
        )


class Watch:
    """Looks at a scan that grows.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan`; it says where the scan lies.
    leave_out : sequence of int
        Numbers of frames to leave out.
    clock : callable
        Returns the time in seconds.

    Raises
    ------
    OptionError
        The scan is in memory, or was written at once.
    """

    def __init__(
        self, scan: xr.Dataset, leave_out: ArrayLike = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        url = scan.encoding.get("source")
        if url is None or "tiles_written" not in scan.attrs:
            found = "in memory" if url is None else "complete since it was written"
            raise OptionError(
                f"follow is True, and the scan is {found}; expected one that create_scan has laid out by its "
                "planned positions"
            )
        self._url, self._leave_out, self._clock = str(url), leave_out, clock
        self._location = parse_location(url)
        self.written = np.full(int(scan.attrs["tiles"]), NOT_YET, dtype=np.int64)
        """Number of frames of each tile in the store, at the last look; `NOT_YET` for those to come."""
        self._stored = open_dataset(self._location)
        self._planned = scan.sizes["frame"]
        # The times of looks, and the frames of then: the last one before `RECENT`, and all since.
        self._looks: deque[tuple[float, int]] = deque()
        self._latest = clock()

    @property
    def ended(self) -> bool:
        """Whether every tile has been written or has ended, at the last look."""
        return bool((self.written != NOT_YET).all())

    @property
    def measured(self) -> int:
        """Number of frames in the store, at the last look."""
        return int(self.written[self.written > 0].sum())

    def look(self) -> bool:
        """Look at the store again; whether there is anything new."""
        written = count_written(self._location, self._stored)
        assert written is not None
        new = not np.array_equal(written, self.written)
        self.written, now = written, self._clock()
        if new:
            self._latest = now
        self._looks.append((now, self.measured))
        while len(self._looks) > 2 and self._looks[1][0] < now - RECENT:
            self._looks.popleft()
        return new

    def wait(self, seconds: float = np.inf) -> bool:
        """Wait until there is something new, for so long at most; whether there is."""
        begun = self._clock()
        while not (new := self.look()) and self._clock() < begun + seconds:
            time.sleep(PAUSE)
        return new

    @property
    def _rate(self) -> float:
        """Frames that came in a second, over the looks that are kept."""
        if len(self._looks) < 2:
            return 0.0
        (before, few), (now, many) = self._looks[0], self._looks[-1]
        return (many - few) / (now - before) if now > before else 0.0

    def describe_silence(self) -> str:
        """For how long no frame has come, and what is known of the writer; empty unless that is long."""
        silent = self._clock() - self._latest
        if self.ended or silent < SILENT:
            return ""
        said = f"no tile has come for {silent:,.0f} s"
        writers = find_writers(self._location)
        if writers is None:
            return said
        if not writers:
            return f"{said}, and no process writes the scan: start its writer"
        lives = [writer.lives for writer in writers]
        if True in lives:
            return f"{said}; its writer, {writers[lives.index(True)]}, lives"
        if None in lives:
            return (
                f"{said}; its writer is {writers[lives.index(None)]}, from here one cannot tell if it lives"
            )
        return f"{said}, and its writer, {writers[0]}, has died: start it again, it goes on where it was"

    def open(self) -> xr.Dataset:
        """The scan as it was at the last look, or later."""
        scan = open_scan(self._url)
        return mark_left_out(scan, self._leave_out) if np.size(self._leave_out) else scan

    def growth(self, taken_up: int) -> Growth:
        """How far the scan has grown, for a run that has taken up so many of its frames."""
        # The scan may have been opened later than it was looked at.
        measured = max(self.measured, taken_up)
        return Growth(
            *(self._planned, measured, taken_up, self.ended, self._rate, self.describe_silence()),
            written=tuple((self.written != NOT_YET).tolist()),
        )


def take_some_tiles(scan: xr.Dataset, before: xr.Dataset, most: int) -> tuple[xr.Dataset, bool]:
    """A scan with only some of the tiles that have come.

    Parameters
    ----------
    scan : xarray.Dataset
    before : xarray.Dataset
        The same scan with fewer frames, none of which is left out now.
    most : int
        Most tiles to take up that have frames now, and had none before.

    Returns
    -------
    part : xarray.Dataset
        The scan with the frames of other tiles left out.
    rest : bool
        Whether there are any.
    """
    size, used = scan["intensity"].data.chunksize[0], frames_used(scan)
    starts = np.arange(0, len(used), size)
    there, known = (np.logical_or.reduceat(of_scan, starts) for of_scan in (used, frames_used(before)))
    rest = np.flatnonzero(there & ~known)[most:]
    if not rest.size:
        return scan, False
    part = scan.assign({FRAME_USED: ("frame", used & ~np.isin(np.arange(len(used)) // size, rest))})
    part.encoding = dict(scan.encoding)
    return part, True
