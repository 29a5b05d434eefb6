"""Amplitudes of a tile: held in memory, or read from the scan's store by each task that needs them.

Frames are read on the host, as no decompressor of a Zarr store runs anywhere else, and the counts are moved
to a GPU as they are, half as large as amplitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.core
import xarray as xr
from dask.optimization import cull
from dask.task_spec import DataNode, GraphNode, Task

from daskptycho.backend import Device, array_module
from daskptycho.errors import StoreError
from daskptycho.model.amplitudes import Amplitudes, Detector
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
    "release_as_read",
    "total_counts",
]

Array = Any

# Relative: sums of the same counts differ by the order of their terms, and by no more.
SAME_COUNTS = 1e-9
# Of the counts that `release_as_read` drops at once: large enough for an allocator to give it back.
PART_BYTES = 2**20


@dataclass(frozen=True)
class Reading:
    """The task of a dask array that reads one tile's frames: called, it is done where it is called."""

    node: GraphNode

    def __call__(self) -> Array:
        return self.node({})


@dataclass(frozen=True)
class StoredAmplitudes:
    """Amplitudes of a tile that lie where the scan lies.

    Attributes
    ----------
    frames : Reading
        Of the scan's own dask array; it names the store.
    detector : Detector
    counts : float or None
        What they add up to, once it is known.
    """

    frames: Reading
    detector: Detector
    counts: float | None = None

    def read(self) -> Amplitudes:
        """Read the tile's frames, in the task that calls.

        Raises
        ------
        OSError
            The store failed each time that it was tried.
        """
        return retry(self._read, f"reading {self.frames.node.key} of the scan", OSError)

    def _read(self) -> Amplitudes:
        try:
            frames = self.frames()
        except (MemoryError, StoreError, TypeError):
            raise
        except Exception as error:
            # Each kind of store has errors of its own.
            said = strip_queries(str(error))
            raise OSError(f"frames of the scan cannot be read: {type(error).__name__}: {said}") from error
        return _check_counts(self.detector.prepare(frames), self.counts)


def load_amplitudes(amplitudes: Amplitudes | StoredAmplitudes) -> Amplitudes:
    """A tile's amplitudes in memory."""
    return amplitudes.read() if isinstance(amplitudes, StoredAmplitudes) else amplitudes


class _DroppedOnceRead:
    """Counts of a tile in parts; those that have been passed are dropped."""

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
    """The same amplitudes for one sweep from the first frame to the last: what has been read is dropped."""
    return replace(amplitudes, counts=_DroppedOnceRead(amplitudes.counts))


def total_counts(amplitudes: Amplitudes | StoredAmplitudes) -> float:
    """Sum of a tile's counts; NaN where one of them has no root."""
    return load_amplitudes(amplitudes).total()


def confirm_counts(amplitudes: Amplitudes | StoredAmplitudes, counts: float) -> Any:
    """The same amplitudes; whenever they are read again, they have to have these counts.

    Raises
    ------
    OSError
        They have others.
    """
    if isinstance(amplitudes, StoredAmplitudes):
        return replace(amplitudes, counts=counts)
    return _check_counts(amplitudes, counts)


def _check_counts(amplitudes: Amplitudes, counts: float | None) -> Amplitudes:
    if counts is not None and not math.isclose(amplitudes.total(), counts, rel_tol=SAME_COUNTS):
        # A chunk that is gone reads as zeros, and would spoil the image without a word.
        raise OSError(
            f"{len(amplitudes)} frames of the scan have {amplitudes.total():.9g} counts where they had "
            f"{counts:.9g}: parts of its store are gone or have changed"
        )
    return amplitudes


def _read_block(graph: Mapping[Any, Any], key: Any) -> Reading:
    """One task that does all that one block of a dask array needs."""
    # Only its own part of the graph: the whole would travel with every tile.
    part, _ = cull(graph, [key])
    if any(isinstance(own, tuple) and own and callable(own[0]) for own in part.values()):
        # An array whose tasks are written as Dask wrote them before 2025.
        return Reading(Task(key, dask.core.get, dict(part), key))
    nodes = [own if isinstance(own, GraphNode) else DataNode(name, own) for name, own in part.items()]
    return Reading(Task.fuse(*nodes, key=key))


def lay_out_amplitudes(
    scan: xr.Dataset, tiling: Tiling, forward: Forward, *, streamed: bool, device: Device
) -> list[Value]:
    """`Amplitudes` of each tile, or, where they stay in the scan's store, `StoredAmplitudes`."""
    tiles = len(tiling.tiles)
    valid, background = (scan[name].values if name in scan else None for name in ("valid", "background"))
    detector = place(Detector(valid, background, forward, device))
    frames = scan["intensity"].data
    if not hasattr(frames, "__dask_graph__"):
        blocks = [place(frames[tile.frames], Home(tile.index, tiles)) for tile in tiling.tiles]
        return [task(_prepare, detector, block) for block in blocks]
    # A tile is all of its frames' detector pixels, however the scan was chunked.
    frames = frames.rechunk({1: -1, 2: -1})
    graph, keys = dict(frames.__dask_graph__()), list(dask.core.flatten(frames.__dask_keys__()))
    stored = [
        task(StoredAmplitudes, _read_block(graph, key), detector, home=Home(index, tiles))
        for index, key in enumerate(keys)
    ]
    return stored if streamed else [task(StoredAmplitudes.read, tile) for tile in stored]


def _prepare(detector: Detector, frames: Array) -> Amplitudes:
    return detector.prepare(frames)
