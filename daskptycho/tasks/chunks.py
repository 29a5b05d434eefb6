"""Dask arrays whose chunks are objects: pairs of frames, sparse matrices, iterates of a solver.

Only functions that exist for dask arrays with and without query planning are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

__all__ = [
    "chunk_objects",
    "gather_objects",
    "map_objects",
    "map_slices",
    "map_with_object",
    "take_blocks",
    "unwrap_chunk",
]

Array = Any
DaskArray = Any
"""``dask.array.Array``, with query planning or without."""

# For arrays whose chunks are objects: Dask cannot infer a meta from them.
OBJECTS: dict[str, Any] = {"dtype": object, "meta": np.empty(0, dtype=object), "align_arrays": False}


def chunk_objects(things: Sequence[Any]) -> DaskArray:
    """A (thing, 1, 1) dask array with one object in each chunk, to be combined with (frame, y, x) arrays."""
    content = np.empty((len(things), 1, 1), dtype=object)
    content[:, 0, 0] = list(things)
    return da.from_array(content, chunks=1, asarray=False)


def unwrap_chunk(chunk: Any) -> Any:
    """The object of a chunk of `chunk_objects`; a chunk that is an object itself is returned unchanged."""
    is_boxed = isinstance(chunk, np.ndarray) and chunk.dtype == object
    return chunk.item() if is_boxed else chunk


def map_objects(function: Callable[..., Any], *arrays: DaskArray, **options: Any) -> DaskArray:
    """Map a function over chunks of arrays of one or three dimensions: a (chunk, 1, 1) array of objects."""
    pairs = [part for array in arrays for part in (array, "ijk"[: array.ndim])]
    return da.blockwise(
        function, "ijk", *pairs, adjust_chunks=dict.fromkeys("ijk", _one), **OBJECTS, **options
    )


def _one(_: int) -> int:
    return 1


def gather_objects(function: Callable[..., Any], *arrays: DaskArray, **options: Any) -> DaskArray:
    """Apply a function to lists of all chunks of each array of objects: a (1, 1, 1) array of one object."""
    axes = ["abc", "def", "ghi"]
    pairs = [part for array, axis in zip(arrays, axes, strict=False) for part in (array, axis)]
    new = {"x": 1, "y": 1, "z": 1}
    return da.blockwise(_Flat(function), "xyz", *pairs, new_axes=new, **OBJECTS, **options)


def map_with_object(
    function: Callable[..., Any], array: DaskArray, one: DaskArray, **options: Any
) -> DaskArray:
    """Map a function over the chunks of an array of objects; its second argument is the object of `one`."""
    return da.blockwise(_WithOne(function), "ijk", array, "ijk", one, "abc", **OBJECTS, **options)


@dataclass(frozen=True)
class _Adapted:
    """Calls a function with what Dask passes in another form."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        """The name that Dask gives to tasks."""
        return self.function.__name__.strip("_")


class _Flat(_Adapted):
    """A function of lists, for blocks of three dimensions that Dask nests in lists."""

    def __call__(self, *nested: list[list[list[Any]]], **options: Any) -> Any:
        return self.function(*([part[0][0] for part in parts] for parts in nested), **options)


class _WithOne(_Adapted):
    """Calls a function with a chunk and with the only chunk of another array."""

    def __call__(self, chunk: Any, nested: list[list[list[Any]]], **options: Any) -> Any:
        return self.function(chunk, nested[0][0][0], **options)


def map_slices(
    function: Callable[..., Array], sizes: Sequence[int], one: DaskArray, meta: Array
) -> DaskArray:
    """A vector in chunks of these sizes: `function` of each chunk's slice and of the object of `one`.

    `meta` is an empty array of the same kind.
    """
    ends = np.cumsum(sizes)
    slices = chunk_objects([slice(int(end) - size, int(end)) for end, size in zip(ends, sizes, strict=True)])
    return da.blockwise(
        *(_Part(function), "i", slices, "ijk", one, "abc"),
        adjust_chunks={"i": tuple(sizes)},
        **{**OBJECTS, "dtype": meta.dtype, "meta": meta},
    )


class _Part(_Adapted):
    """Calls a function with a slice and with the only chunk of another array."""

    def __call__(self, frames: list[list[Any]], nested: list[list[list[Any]]]) -> Any:
        return self.function(unwrap_chunk(frames[0][0]), unwrap_chunk(nested[0][0][0]))


def take_blocks(array: DaskArray, numbers: list[int]) -> DaskArray:
    """Select blocks along the first axis by their numbers, and concatenate them."""
    if hasattr(array, "blocks"):
        return array.blocks[numbers]
    # Dask arrays with query planning have no attribute blocks.
    ends = np.cumsum(array.chunks[0])
    return da.concatenate([array[ends[n] - array.chunks[0][n] : ends[n]] for n in numbers])
