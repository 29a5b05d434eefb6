"""The tiles of a scan, from its positions and its chunks."""

from __future__ import annotations

import xarray as xr

from daskptycho.scan.dataset import position_in_pixels, scan_period, tile_chunks
from daskptycho.tiling import Tiling, make_tiling

__all__ = ["lay_out_tiles"]


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
