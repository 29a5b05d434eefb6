"""The frames of a scan that grows, as they were planned: their numbers, tiles and places.

`scan_writer` calls this module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.scan.calibration import position_in_pixels
from daskptycho.scan.dataset import tile_chunks
from daskptycho.scan.left_out import FRAME_USED

__all__ = ["PlannedFrames", "check_tiles"]


class PlannedFrames:
    """The frames of a plan, in the order in which they are stored.

    Parameters
    ----------
    scan : xarray.Dataset
        The scan as it is in the store.

    Attributes
    ----------
    numbers : (frame,) int array
        Number of each frame.
    position : (frame, 2) array
        Measured, or else planned positions in the unit of the plan.
    """

    def __init__(self, scan: xr.Dataset) -> None:
        self._header = scan.drop_vars(["intensity", FRAME_USED]).load()
        self.numbers: NDArray[np.int64] = self._header["frame_number"].values
        self.position: NDArray[np.float64] = self._header["position"].values.copy()
        pixels, size = position_in_pixels(scan), scan["intensity"].shape[1:]
        self._low, self._high = pixels.min(axis=0) - size, pixels.max(axis=0) + size
        self._starts = np.cumsum((0, *tile_chunks(scan)))
        self._sorted = np.argsort(self.numbers)

    def find(self, number: NDArray[Any]) -> NDArray[np.int64]:
        """Where these frames are in the scan; -1 for those that are not in the plan."""
        at = np.minimum(np.searchsorted(self.numbers, number, sorter=self._sorted), len(self._sorted) - 1)
        index = self._sorted[at]
        return np.where(self.numbers[index] == number, index, -1)

    def tile_of(self, index: Any) -> Any:
        """Number of the tile of each of these frames."""
        return np.searchsorted(self._starts, index, side="right") - 1

    def frames_of(self, tile: int) -> slice:
        """The frames of a tile."""
        return slice(int(self._starts[tile]), int(self._starts[tile + 1]))

    def place(self, index: NDArray[np.int64], position: ArrayLike) -> NDArray[np.int64]:
        """Keep measured positions; where there is none, the planned one holds. Which frames have one."""
        measured = np.asarray(position, dtype=np.float64).reshape(-1, 2)
        if len(measured) != len(index):
            raise ScanError(f"position has {len(measured)} places; expected {len(index)}, one for each frame")
        known = (index >= 0) & np.isfinite(measured).all(axis=1)
        self.position[index[known]] = measured[known]
        return index[known]

    def select(self, frames: Any) -> xr.Dataset:
        """What is known of these frames besides their counts, with their measured positions."""
        own = self._header.isel(frame=frames)
        own["position"] = own["position"].copy(data=self.position[frames])
        return own

    def are_on_canvas(self, frames: slice) -> NDArray[np.bool_]:
        """Which positions of a tile are on the canvas of the plan, with a frame of room around it."""
        position = position_in_pixels(self.select(frames))
        inside: NDArray[np.bool_] = ((position >= self._low) & (position <= self._high)).all(axis=1)
        return inside


def check_tiles(tiles: Iterable[int] | None, count: int) -> range:
    """The tiles that a writer writes, which have to be consecutive ones of `count`; all by default."""
    if tiles is None:
        return range(count)
    own = [int(tile) for tile in tiles]
    if not own or own != list(range(own[0], own[0] + len(own))) or own[0] < 0 or own[-1] >= count:
        raise OptionError(f"tiles are {own}; expected consecutive ones of the scan's {count}, from 0")
    return range(own[0], own[-1] + 1)
