"""The tiles of a scan, from its positions and its chunks."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.scan.dataset import position_in_pixels, scan_period, tile_chunks
from daskptycho.tiling import Tiling, make_tiling

__all__ = ["join_consecutive", "lay_out_tiles"]


def lay_out_tiles(
    scan: xr.Dataset, chunks: tuple[int, ...] | None = None, *, whole_pixel: bool = False, margin: int = 0
) -> Tiling:
    """Lay out the tiles of a scan.

    Parameters
    ----------
    scan : xarray.Dataset
    chunks : tuple of int, optional
        Frames in each tile; those of the scan's chunks unless given.
    whole_pixel : bool
        Round the positions and forget the fractions.
    margin : int
        See `tiling.make_tiling`.
    """
    return make_tiling(
        position_in_pixels(scan),
        (scan.sizes["qy"], scan.sizes["qx"]),
        tile_chunks(scan) if chunks is None else chunks,
        period=scan_period(scan),
        whole_pixel=whole_pixel,
        margin=margin,
    )


def join_consecutive(tiling: Tiling, most: int, least: int) -> tuple[int, ...]:
    """Join consecutive tiles into fewer and larger ones.

    All tiles are halved again and again in their order, as `compact_order` has made it, until a part is small
    enough. Its tiles become one if the window of that has no more pixels than theirs together: tiles in
    another order may lie far apart.

    Parameters
    ----------
    tiling : Tiling
    most : int
        Most frames of joined tiles.
    least : int
        Least number of tiles that are left.

    Returns
    -------
    tuple of int
        Number of frames in each tile. A tile with more frames than `most` stays as it is.
    """
    low = np.array([[tile.window.y, tile.window.x] for tile in tiling.tiles])
    high = low + [tile.window.shape for tile in tiling.tiles]
    pixels = (high - low).prod(axis=1)
    starts = np.array([tile.frames.start for tile in tiling.tiles] + [len(tiling.corner)])
    halvings = math.ceil(math.log2(least))
    joined: list[int] = []
    pending: list[tuple[int, int, int]] = [(0, len(tiling.tiles), 0)]
    while pending:
        first, end, halved = pending.pop()
        frames = int(starts[end] - starts[first])
        own = slice(first, end)
        fits = halved >= halvings and frames <= most and _area(low[own], high[own]) <= pixels[own].sum()
        if fits or end - first == 1:
            joined.append(frames)
            continue
        middle = first + (end - first) // 2
        pending += [(middle, end, halved + 1), (first, middle, halved + 1)]
    return tuple(joined)


def _area(low: NDArray[np.int64], high: NDArray[np.int64]) -> int:
    """Pixels of the smallest window that holds windows with these (tile, 2) first and last corners."""
    return int((high.max(axis=0) - low.min(axis=0)).prod())
