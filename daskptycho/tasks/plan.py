"""What a run keeps on the workers from its first sweep to its last: tiles, pairs of frames, amplitudes.

`run` makes a plan, `graph` and its parts read it; this module calls `scan`, `geometry`, `gramian`,
`operators` and `backend`. On a GPU all of it is brought to the device once: frames are read on the host, as
no decompressor of a Zarr store runs anywhere else, and the counts are moved as they are, half as large as
amplitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from dask.delayed import Delayed
from dask.local import get_sync
from dask.optimization import cull

from daskptycho.backend import Device, array_module, to_device
from daskptycho.errors import StoreError
from daskptycho.model.operators import Amplitudes, measured_amplitudes
from daskptycho.scan.dataset import fresnel_kernel
from daskptycho.storage.retrying import retry, strip_queries
from daskptycho.sync.gramian import GramianBlock, block_within, gramian_blocks
from daskptycho.tasks.spec import Home, place, task
from daskptycho.tasks.spill import LeavingOnDisk
from daskptycho.tiling import Shape, Tile, Tiling

__all__ = [
    "SAME_COUNTS",
    "PairsToFind",
    "Plan",
    "StoredAmplitudes",
    "confirmed",
    "in_passing",
    "make_plan",
    "pairs_within",
    "resident",
    "total_counts",
]

Array = Any

# Relative: sums of the same counts differ by the order of their terms, and by no more.
SAME_COUNTS = 1e-9
# Of the counts that `in_passing` lets go at once: large enough for an allocator to give it back.
PART_BYTES = 2**20


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
        the one block within each tile, or, streamed, `PairsToFind`; `pairs_within` takes both.
    amplitudes : list of Delayed
        Of each tile `Amplitudes`, or, where they find no room, `StoredAmplitudes`; `resident` takes both.
    waves_twice : bool
        While the probe is recovered, waves do not wait for the new one: they are computed a second time.
    streamed : bool
        Amplitudes stay in the scan's store and are read by each task that needs them, and no frame stays in
        memory from one task to a later one.
    images_on_disk : bool
        Nor does an image, an illumination or an overlap sum.
    device : "cpu" or "gpu"
        Where the arrays of all tasks live.
    fractional : bool
        Some position is a fraction of a pixel.
    overlaps : int
        Pairs of overlapping frames in all blocks of the outline.
    """

    tiling: Tiling
    outline: list[GramianBlock]
    tiles: list[Delayed]
    pairs: list[Delayed]
    amplitudes: list[Delayed]
    waves_twice: bool = False
    streamed: bool = False
    images_on_disk: bool = False
    device: Device = "cpu"
    fractional: bool = False
    overlaps: int = 0

    def leaving(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that leaves an image, for a task: it leaves it where this run keeps images."""
        return LeavingOnDisk(function) if self.images_on_disk else function


@dataclass(frozen=True)
class StoredAmplitudes:
    """Amplitudes of a tile that lie where the scan lies.

    Attributes
    ----------
    graph, key : mapping, str or tuple
        Dask's graph of the tile's frames, which names the store.
    valid, background : (qy, qx) arrays or None
    kernel : (qy, qx) complex64 array or None
        Of the near field.
    device : "cpu" or "gpu"
        Where they go.
    counts : float or None
        What they add up to, once it is known.
    """

    graph: Mapping[Any, Any]
    key: Any
    valid: Array | None
    background: Array | None
    kernel: Array | None = None
    device: Device = "cpu"
    counts: float | None = None

    def read(self) -> Amplitudes:
        """Read the tile's frames, in the task that calls.

        Raises
        ------
        OSError
            The store failed each time that it was tried.
        """
        return retry(self._read, f"reading {self.key} of the scan", OSError)

    def _read(self) -> Amplitudes:
        try:
            frames = get_sync(self.graph, self.key)
        except (MemoryError, StoreError, TypeError):
            raise
        except Exception as error:
            # Each kind of store has errors of its own.
            said = strip_queries(str(error))
            raise OSError(f"frames of the scan cannot be read: {type(error).__name__}: {said}") from error
        return _with_counts(
            _amplitudes_of(frames, self.valid, self.background, self.kernel, self.device), self.counts
        )


def _amplitudes_of(
    frames: Array, valid: Array | None, background: Array | None, kernel: Array | None, device: Device
) -> Amplitudes:
    detector = [None if own is None else to_device(own, device) for own in (valid, background, kernel)]
    return measured_amplitudes(to_device(frames, device), *detector)


@dataclass(frozen=True)
class PairsToFind:
    """The pairs of frames within a tile, found anew by each task that needs them, on the host.

    A frame that overlaps with a hundred others would have pairs as large as a quarter of its counts.
    """

    frame_shape: Shape
    period: Shape | None


def pairs_within(pairs: GramianBlock | PairsToFind, tile: Tile) -> GramianBlock:
    """The block within a tile, with its pairs."""
    return block_within(tile, pairs.frame_shape, pairs.period) if isinstance(pairs, PairsToFind) else pairs


def resident(amplitudes: Amplitudes | StoredAmplitudes) -> Amplitudes:
    """A tile's amplitudes in memory."""
    return amplitudes.read() if isinstance(amplitudes, StoredAmplitudes) else amplitudes


class _Passing:
    """Counts of a tile in parts, of which those go that have been passed."""

    def __init__(self, counts: Array) -> None:
        self._shape, self.dtype = counts.shape, counts.dtype
        self._size = max(1, PART_BYTES // max(1, counts[:1].nbytes))
        self._parts = {
            start: counts[start : start + self._size].copy() for start in range(0, len(counts), self._size)
        }

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts.values())

    def __getitem__(self, frames: slice) -> Array:
        for start in [start for start in self._parts if start + self._size <= frames.start]:
            del self._parts[start]
        pieces = [
            part[max(0, frames.start - start) : frames.stop - start]
            for start, part in self._parts.items()
            if start < frames.stop
        ]
        return pieces[0] if len(pieces) == 1 else array_module(pieces[0]).concatenate(pieces)


def in_passing(amplitudes: Amplitudes) -> Amplitudes:
    """The same amplitudes for one sweep from the first frame to the last: those go that have been passed."""
    return replace(amplitudes, counts=_Passing(amplitudes.counts))


def total_counts(amplitudes: Amplitudes | StoredAmplitudes) -> float:
    """Sum of a tile's counts; NaN where one of them has no root."""
    return resident(amplitudes).total()


def _with_counts(amplitudes: Amplitudes, counts: float | None) -> Amplitudes:
    """The amplitudes, if they have these counts."""
    if counts is not None and not math.isclose(amplitudes.total(), counts, rel_tol=SAME_COUNTS):
        # A chunk that is gone reads as zeros, and would spoil the image without a word.
        raise OSError(
            f"{len(amplitudes)} frames of the scan have {amplitudes.total():.9g} counts where they had "
            f"{counts:.9g}: parts of its store are gone or have changed"
        )
    return amplitudes


def _confirmed(amplitudes: Amplitudes | StoredAmplitudes, counts: float) -> Amplitudes | StoredAmplitudes:
    if isinstance(amplitudes, StoredAmplitudes):
        return replace(amplitudes, counts=counts)
    return _with_counts(amplitudes, counts)


def confirmed(plan: Plan, counts: Sequence[float]) -> Plan:
    """The same plan; a tile whose frames are read once more has to have the counts of the first time."""
    of_tiles = zip(plan.amplitudes, counts, strict=True)
    return replace(plan, amplitudes=[task(_confirmed, *of_tile) for of_tile in of_tiles])


def make_plan(
    scan: xr.Dataset,
    tiling: Tiling,
    method: Literal["two-level", "full"] | None,
    *,
    waves_twice: bool = False,
    streamed: bool = False,
    images_on_disk: bool = False,
    device: Device = "cpu",
) -> Plan:
    """Lay out a run; nothing is computed yet.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
        Of the scan's own chunks.
    method : "two-level", "full" or None
        How frames are synchronised, which tells the overlapping pairs of frames to look for.
    waves_twice : bool
        Compute waves a second time rather than have them wait for a new probe.
    streamed : bool
        Leave the amplitudes in the scan's store; waves are computed twice then in any case.
    images_on_disk : bool
        Leave the tiles' images on disk from task to task; on a CPU alone.
    device : "cpu" or "gpu"
    """
    blocks = gramian_blocks(tiling) if method == "full" else []
    tiles = [place(tile, home=Home(tile.index, len(tiling.tiles))) for tile in tiling.tiles]
    pairs = [place(block) for block in blocks]
    if method == "two-level" and streamed and device == "cpu":
        pairs = [
            place(PairsToFind(tiling.frame_shape, tiling.period), home=Home(tile.index, len(tiling.tiles)))
            for tile in tiling.tiles
        ]
    elif method == "two-level":
        # Each tile finds its own: the client need not know any pair.
        pairs = [task(block_within, tile, tiling.frame_shape, tiling.period) for tile in tiles]
    if device == "gpu":
        pairs = [task(_pairs_on_device, block) for block in pairs]
        tiles = [task(_tile_on_device, tile) for tile in tiles]
    nothing = np.empty((0, 2), dtype=np.int64)
    return Plan(
        tiling=tiling,
        outline=[replace(block, pair=nothing, offset=nothing, border=nothing[:, 0]) for block in blocks],
        tiles=tiles,
        pairs=pairs,
        amplitudes=_amplitudes(scan, tiling, streamed, device),
        waves_twice=waves_twice or streamed,
        streamed=streamed,
        images_on_disk=images_on_disk,
        device=device,
        fractional=not all(tile.is_whole_pixel for tile in tiling.tiles),
        overlaps=sum(len(block.pair) for block in blocks),
    )


def _tile_on_device(tile: Tile) -> Tile:
    return tile if tile.is_whole_pixel else replace(tile, fraction=to_device(tile.fraction, "gpu"))


def _pairs_on_device(block: GramianBlock) -> GramianBlock:
    return replace(
        block,
        pair=to_device(block.pair, "gpu"),
        offset=to_device(block.offset, "gpu"),
        border=to_device(block.border, "gpu"),
    )


def _amplitudes(scan: xr.Dataset, tiling: Tiling, streamed: bool, device: Device) -> list[Delayed]:
    detector = [place(scan[name].values) if name in scan else None for name in ("valid", "background")]
    kernel = fresnel_kernel(scan.attrs, tiling.frame_shape)
    detector.append(None if kernel is None else place(kernel))
    frames = scan["intensity"].data
    if not hasattr(frames, "to_delayed"):
        blocks = [
            place(frames[tile.frames], home=Home(tile.index, len(tiling.tiles))) for tile in tiling.tiles
        ]
        return [task(_amplitudes_of, block, *detector, device) for block in blocks]
    # A tile is all of its frames' detector pixels, however the scan was chunked.
    blocks = frames.rechunk({1: -1, 2: -1}).to_delayed().ravel()
    whole = dict(blocks[0].__dask_graph__())
    stored = [
        # Its own part of the graph alone: the whole would travel with every tile.
        task(
            StoredAmplitudes,
            cull(whole, [block.key])[0],
            block.key,
            *detector,
            device,
            home=Home(index, len(blocks)),
        )
        for index, block in enumerate(blocks)
    ]
    return stored if streamed else [task(StoredAmplitudes.read, tile) for tile in stored]
