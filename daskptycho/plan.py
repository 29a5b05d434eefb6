"""What a run keeps on the workers from its first sweep to its last: tiles, pairs of frames, amplitudes.

`run` makes a plan, `graph` and its parts read it; this module calls `geometry`, `gramian`
and `operators`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr
from dask.delayed import Delayed

from daskptycho.geometry import Tiling
from daskptycho.gramian import GramianBlock, block_within, gramian_blocks
from daskptycho.operators import measured_amplitudes
from daskptycho.tasks import place, task

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What stays the same over a run.

    Attributes
    ----------
    tiling : Tiling
    outline : list of GramianBlock
        Which blocks H has, without their pairs; empty unless H is assembled.
    tiles, pairs : lists of Delayed
        The tiles, and the blocks with their pairs, on the workers: those of the outline, or
        the one block within each tile.
    amplitudes : list of Delayed
        `Amplitudes` of each tile, read from the scan by the task that needs them.
    """

    tiling: Tiling
    outline: list[GramianBlock]
    tiles: list[Delayed]
    pairs: list[Delayed]
    amplitudes: list[Delayed]


def make_plan(scan: xr.Dataset, tiling: Tiling, method: Literal["two-level", "full"] | None) -> Plan:
    """Lay out a run; nothing is computed yet.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
        Of the scan's own chunks.
    method : "two-level", "full" or None
        How frames are synchronised, which tells the overlapping pairs of frames to look for.
    """
    blocks = gramian_blocks(tiling) if method == "full" else []
    tiles = [place(tile) for tile in tiling.tiles]
    pairs = [place(block) for block in blocks]
    if method == "two-level":
        # Each tile finds its own: the client need not know any pair.
        pairs = [task(block_within, tile, tiling.frame_shape, tiling.period) for tile in tiles]
    nothing = np.empty((0, 2), dtype=np.int64)
    return Plan(
        tiling=tiling,
        outline=[replace(block, pair=nothing, offset=nothing, border=nothing[:, 0]) for block in blocks],
        tiles=tiles,
        pairs=pairs,
        amplitudes=_amplitudes(scan, tiling),
    )


def _amplitudes(scan: xr.Dataset, tiling: Tiling) -> list[Delayed]:
    detector = [place(scan[name].values) if name in scan else None for name in ("valid", "background")]
    frames = scan["intensity"].data
    if hasattr(frames, "to_delayed"):
        # A tile is all of its frames' detector pixels, however the scan was chunked.
        blocks = frames.rechunk({1: -1, 2: -1}).to_delayed().ravel()
    else:
        blocks = [place(frames[tile.frames]) for tile in tiling.tiles]
    return [task(measured_amplitudes, block, *detector) for block in blocks]
