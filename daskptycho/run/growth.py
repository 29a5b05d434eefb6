"""A scan that grows, as the run that follows it sees it: how far it is, and whether there is more."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError
from daskptycho.scan.dataset import frames_used, leave_out_frames, open_scan
from daskptycho.scan.growing import NOT_YET, count_written
from daskptycho.scan.left_out import FRAME_USED
from daskptycho.storage.store import open_dataset, parse_location

__all__ = ["Growth", "Watch", "take_some_tiles"]

# Seconds between two looks at the store while there is nothing else to do.
PAUSE = 0.1


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
    """Frames that come in a second, on average."""
    stage: int = 0
    """Number of sweeps done when the last of these frames came in."""

    @property
    def behind(self) -> int:
        """Frames that are measured and not taken up yet; those that are left out are none of them."""
        return max(0, self.measured - self.taken_up)

    def describe(self) -> str:
        """How far the scan and the run are, in words."""
        behind = f", {self.behind:,} behind" if self.behind else ""
        rate = f" at {self.rate:,.0f} a second" if self.rate else ""
        return (
            f"{self.measured:,} of {self.planned:,} frames measured{rate}, {self.taken_up:,} in the "
            f"image{behind}"
        )


class Watch:
    """Looks at a scan that grows.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan`; it says where the scan lies.
    leave_out : sequence of int
        Numbers of frames to leave out.

    Raises
    ------
    OptionError
        The scan is in memory, or was written at once.
    """

    def __init__(self, scan: xr.Dataset, leave_out: ArrayLike = ()) -> None:
        url = scan.encoding.get("source")
        if url is None or "tiles_written" not in scan.attrs:
            found = "in memory" if url is None else "complete since it was written"
            raise OptionError(
                f"follow is True, and the scan is {found}; expected one that create_scan has laid out by its "
                "planned positions"
            )
        self._url, self._leave_out = str(url), leave_out
        self._location = parse_location(url)
        self._written = np.full(int(scan.attrs["tiles"]), NOT_YET, dtype=np.int64)
        self._stored = open_dataset(self._location)
        self._planned = scan.sizes["frame"]
        # When frames were seen first, and how many.
        self._first: tuple[float, int] | None = None
        self._rate = 0.0

    @property
    def ended(self) -> bool:
        """Whether every tile has been written or has ended, at the last look."""
        return bool((self._written != NOT_YET).all())

    @property
    def measured(self) -> int:
        """Number of frames in the store, at the last look."""
        return int(self._written[self._written > 0].sum())

    def look(self) -> bool:
        """Look at the store again; whether there is anything new."""
        written = count_written(self._location, self._stored)
        assert written is not None
        new = not np.array_equal(written, self._written)
        self._written = written
        now, measured = time.monotonic(), self.measured
        if self._first is None and measured:
            self._first = (now, measured)
        elif self._first is not None and new and now > self._first[0]:
            self._rate = (measured - self._first[1]) / (now - self._first[0])
        return new

    def wait(self) -> None:
        """Wait until there is something new."""
        while not self.look():
            time.sleep(PAUSE)

    def open(self) -> xr.Dataset:
        """The scan as it was at the last look, or later."""
        scan = open_scan(self._url)
        return leave_out_frames(scan, self._leave_out) if np.size(self._leave_out) else scan

    def growth(self, scan: xr.Dataset) -> Growth:
        """How far the scan has grown, for a run that has taken up this much of it."""
        used: NDArray[np.bool_] = frames_used(scan)
        taken_up = int(used.sum())
        # The scan may have been opened later than it was looked at.
        return Growth(self._planned, max(self.measured, taken_up), taken_up, self.ended, self._rate)


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
