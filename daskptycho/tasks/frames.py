"""Amplitudes of a tile: held in memory, or read from the scan's store by each task that needs them.

Frames are read on the host, since Zarr decompresses there. Counts are copied to a GPU as they are, half as
large as amplitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.core
import numpy as np
import xarray as xr
from dask.optimization import cull
from dask.task_spec import DataNode, GraphNode, Task

from daskptycho.backend import Device, array_module
from daskptycho.errors import StoreError
from daskptycho.model.amplitudes import Amplitudes, Detector, join_amplitudes
from daskptycho.model.counting import expect_misfit
from daskptycho.model.forward import Forward
from daskptycho.storage.retrying import retry, strip_queries
from daskptycho.tasks.spec import Home, Value, place, task
from daskptycho.tiling import Tiling

__all__ = [
    "SAME_COUNTS",
    "StoredAmplitudes",
    "confirm_counts",
    "lay_out_amplitudes",
    "load_amplitudes",
    "measure_counts",
    "release_as_read",
    "total_counts",
]

Array = Any

# Largest relative difference between sums of the same counts, from rounding in a different order.
SAME_COUNTS = 1e-9
# Size of the parts in which `release_as_read` drops counts, large enough for the allocator to free each at
# once.
PART_BYTES = 2**20


@dataclass(frozen=True)
class Reading:
    """The task of a dask array that reads one chunk of frames. A call runs it in the calling task."""

    node: GraphNode
    frames: int

    def __call__(self) -> Array:
        return self.node({})


@dataclass(frozen=True)
class StoredAmplitudes:
    """Amplitudes of a tile that stay in the scan's store.

    Attributes
    ----------
    chunks : list of Reading
        Read the tile's frames from the scan's dask array, chunk by chunk.
    detector : Detector
    counts : float or None
        Sum of the counts, once it is known.
    """

    chunks: list[Reading]
    detector: Detector
    counts: float | None = None

    def read(self) -> Amplitudes:
        """Read the tile's frames, in the calling task, one chunk after the other.

        Raises
        ------
        OSError
            All attempts to read from the store failed, or the counts have changed since the first reading.
        """
        return retry(self._read, f"reading {self.chunks[0].node.key} of the scan", OSError)

    def _read(self) -> Amplitudes:
        frames = sum(chunk.frames for chunk in self.chunks)
        return _check_counts(join_amplitudes(map(self._read_chunk, self.chunks), frames), self.counts)

    def _read_chunk(self, chunk: Reading) -> Amplitudes:
        try:
            frames = chunk()
        except (MemoryError, StoreError, TypeError):
            raise
        except Exception as error:
            # Each kind of store raises different errors.
            reason = strip_queries(str(error))
            raise OSError(f"frames of the scan cannot be read: {type(error).__name__}: {reason}") from error
        return self.detector.prepare(frames)


def load_amplitudes(amplitudes: Amplitudes | StoredAmplitudes) -> Amplitudes:
    """The amplitudes of a tile in memory, read from the store if they are there."""
    return amplitudes.read() if isinstance(amplitudes, StoredAmplitudes) else amplitudes


class _DroppedOnceRead:
    """Counts of a tile in parts. A part is dropped once later frames are read."""

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


def release_as_read(amplitudes: Amplitudes) -> Amplitudes:
    """The same amplitudes for reading once, from the first frame to the last: parts are dropped once read."""
    return replace(amplitudes, counts=_DroppedOnceRead(amplitudes.counts))


def total_counts(amplitudes: Amplitudes | StoredAmplitudes) -> float:
    """Sum of a tile's counts; NaN if any of them is negative."""
    return load_amplitudes(amplitudes).total()


def measure_counts(amplitudes: Amplitudes | StoredAmplitudes) -> tuple[float, float]:
    """`total_counts` and `counting.expect_misfit` of a tile, which is read once."""
    loaded = load_amplitudes(amplitudes)
    return loaded.total(), expect_misfit(loaded.counts)


def confirm_counts(amplitudes: Amplitudes | StoredAmplitudes, counts: float) -> Any:
    """Check that the counts of a tile still have this sum; stored amplitudes check it at each reading.

    Returns
    -------
    Amplitudes or StoredAmplitudes
        The same amplitudes.

    Raises
    ------
    OSError
        The sum is another.
    """
    if isinstance(amplitudes, StoredAmplitudes):
        return replace(amplitudes, counts=counts)
    return _check_counts(amplitudes, counts)


def _check_counts(amplitudes: Amplitudes, counts: float | None) -> Amplitudes:
    if counts is not None and not math.isclose(amplitudes.total(), counts, rel_tol=SAME_COUNTS):
        # Zarr reads a missing chunk as zeros, which would damage the image without an error.
        raise OSError(
            f"{len(amplitudes)} frames of the scan have {amplitudes.total():.9g} counts where they had "
            f"{counts:.9g}: parts of its store are gone or have changed"
        )
    return amplitudes


def _read_block(graph: Mapping[Any, Any], key: Any, frames: int) -> Reading:
    """Fuse all tasks that one block of a dask array, with so many frames, needs into one."""
    # Only the part of the graph that the block needs, since it is sent with every tile.
    part, _ = cull(graph, [key])
    if any(isinstance(node, tuple) and node and callable(node[0]) for node in part.values()):
        # Tasks in the notation of Dask before 2025.
        return Reading(Task(key, dask.core.get, dict(part), key), frames)
    nodes = [node if isinstance(node, GraphNode) else DataNode(name, node) for name, node in part.items()]
    return Reading(Task.fuse(*nodes, key=key), frames)


def lay_out_amplitudes(
    scan: xr.Dataset, tiling: Tiling, forward: Forward, *, streamed: bool, device: Device
) -> list[Value]:
    """The amplitudes of each tile as values: `Amplitudes`, or `StoredAmplitudes` if they are to be streamed.

    Frames that are in memory on the client cannot be streamed.
    """
    tiles = len(tiling.tiles)
    valid = scan["valid"].values if "valid" in scan else None
    detector = place(Detector(valid, forward, device))
    frames = scan["intensity"].data
    if not hasattr(frames, "__dask_graph__"):
        blocks = [place(frames[tile.frames], Home(tile.index, tiles)) for tile in tiling.tiles]
        return [task(_prepare, detector, block) for block in blocks]
    frames = _chunk_by_tiles(frames, tiling)
    graph, keys = dict(frames.__dask_graph__()), list(dask.core.flatten(frames.__dask_keys__()))
    readings = [_read_block(graph, *chunk) for chunk in zip(keys, frames.chunks[0], strict=True)]
    starts = np.cumsum([0, *frames.chunks[0]])
    stored = []
    for tile in tiling.tiles:
        first, end = np.searchsorted(starts, [tile.frames.start, tile.frames.stop])
        stored.append(task(StoredAmplitudes, readings[first:end], detector, home=Home(tile.index, tiles)))
    return stored if streamed else [task(StoredAmplitudes.read, tile) for tile in stored]


def _chunk_by_tiles(frames: Array, tiling: Tiling) -> Array:
    """A dask array with whole frames in each chunk, and whole chunks in each tile."""
    ends = {tile.frames.stop for tile in tiling.tiles}
    if ends <= set(np.cumsum(frames.chunks[0]).tolist()):
        return frames.rechunk({1: -1, 2: -1})
    return frames.rechunk({0: tuple(map(len, tiling.tiles)), 1: -1, 2: -1})


def _prepare(detector: Detector, frames: Array) -> Amplitudes:
    return detector.prepare(frames)
