"""H on Dask: its blocks as chunks of a dask array, and its eigenvector where no worker should hold it.

Only functions that every kind of dask array has are used, with query planning or without. Many chunks here
are objects rather than arrays: pairs of frames, sparse matrices, where a solver stands.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from daskptycho.backend import array_module
from daskptycho.sync.eigensolvers import Eigenpair, LobpcgIterate, PowerIterate
from daskptycho.sync.gramian import Border, GramianBlock, assemble_gramian, block_matrix, block_values
from daskptycho.sync.options import Normalisation, Sync
from daskptycho.sync.phases import Phases, extract_phases, invert_consensus, normalise, solve

__all__ = [
    "Gramian",
    "Ground",
    "each",
    "find_phases",
    "gramian_of_blocks",
    "item",
    "iterate",
    "map_objects",
    "spread",
    "with_one",
]

Array = Any
DaskArray = Any
"""``dask.array.Array``, with query planning or without."""

# Pairs of overlapping frames up to which H is assembled in one task: about two gigabytes with what
# its assembly and its solution take. Beyond, no worker need hold it.
MOST_ASSEMBLED = 2**25

# Chunks of objects have no array to show for it.
OBJECTS: dict[str, Any] = {"dtype": object, "meta": np.empty(0, dtype=object), "align_arrays": False}


# Arrays whose chunks are objects


def each(things: Sequence[Any]) -> DaskArray:
    """A (thing, 1, 1) dask array of objects, one a chunk, which aligns with the tiles of (frame, y, x)."""
    content = np.empty((len(things), 1, 1), dtype=object)
    content[:, 0, 0] = list(things)
    return da.from_array(content, chunks=1, asarray=False)


def item(chunk: Any) -> Any:
    """The object of a chunk of `each`; a chunk that is any other object is that object."""
    boxed = isinstance(chunk, np.ndarray) and chunk.dtype == object
    return chunk.item() if boxed else chunk


def map_objects(function: Callable[..., Any], *arrays: DaskArray, **options: Any) -> DaskArray:
    """A (chunk, 1, 1) array of objects from the chunks of arrays of one or three dimensions."""
    pairs = [part for array in arrays for part in (array, "ijk"[: array.ndim])]
    return da.blockwise(
        function, "ijk", *pairs, adjust_chunks=dict.fromkeys("ijk", _one), **OBJECTS, **options
    )


def _one(_: int) -> int:
    return 1


def _gather(function: Callable[..., Any], *arrays: DaskArray, **options: Any) -> DaskArray:
    """One object, (1, 1, 1), from all chunks of arrays of objects: the function takes a list of each."""
    axes = ["abc", "def", "ghi"]
    pairs = [part for array, own in zip(arrays, axes, strict=False) for part in (array, own)]
    new = {"x": 1, "y": 1, "z": 1}
    return da.blockwise(_Flat(function), "xyz", *pairs, new_axes=new, **OBJECTS, **options)


def with_one(function: Callable[..., Any], array: DaskArray, one: DaskArray, **options: Any) -> DaskArray:
    """`map_objects` of an array of objects and of one more object for all chunks."""
    return da.blockwise(_WithOne(function), "ijk", array, "ijk", one, "abc", **OBJECTS, **options)


@dataclass(frozen=True)
class _Adapted:
    """A function that takes what Dask gives it in another form."""

    function: Callable[..., Any]

    @property
    def __name__(self) -> str:
        """For the names of tasks."""
        return self.function.__name__.strip("_")


class _Flat(_Adapted):
    """A function of lists, for blocks of three dimensions that Dask nests in lists."""

    def __call__(self, *nested: list[list[list[Any]]], **options: Any) -> Any:
        return self.function(*([part[0][0] for part in parts] for parts in nested), **options)


class _WithOne(_Adapted):
    """A function of a chunk and of the only chunk of another array."""

    def __call__(self, chunk: Any, nested: list[list[list[Any]]], **options: Any) -> Any:
        return self.function(chunk, nested[0][0][0], **options)


def spread(function: Callable[..., Array], h: Gramian, one: DaskArray, dtype: Any) -> DaskArray:
    """A vector of all frames, a chunk a tile: `function` takes a tile's frames, a slice, and one object."""
    ends = np.cumsum(h.frames)
    frames = each([slice(int(end) - count, int(end)) for end, count in zip(ends, h.frames, strict=True)])
    meta = h.like.astype(dtype)
    return da.blockwise(
        *(_Part(function), "i", frames, "ijk", one, "abc"),
        adjust_chunks={"i": h.frames},
        **{**OBJECTS, "dtype": np.dtype(dtype), "meta": meta},
    )


class _Part(_Adapted):
    """A function of the frames of a tile and of the only chunk of another array."""

    def __call__(self, frames: list[list[Any]], nested: list[list[list[Any]]]) -> Any:
        return self.function(item(frames[0][0]), item(nested[0][0][0]))


def _take_blocks(array: DaskArray, numbers: list[int]) -> DaskArray:
    """The blocks of these numbers along the first axis, one after the other."""
    if hasattr(array, "blocks"):
        return array.blocks[numbers]
    # Arrays with query planning have no blocks.
    ends = np.cumsum(array.chunks[0])
    return da.concatenate([array[ends[n] - array.chunks[0][n] : ends[n]] for n in numbers])


# The Gramian


class Ground(NamedTuple):
    """What H's values need of the tile of their first frame."""

    corner: Array
    """(frame, 2) in the tile's window."""
    weight: Array
    """(y, x) 1 / N on that window, N summed over all tiles."""


@dataclass(frozen=True)
class Gramian:
    """H_ij = ``sum_r conj(u_i(r - x_i)) u_j(r - x_j) / N(r)``, its upper triangle in blocks, lazily.

    Attributes
    ----------
    values : (pair,) complex128 dask array
        A chunk for each overlapping pair of tiles.
    power : (tile, 1, 1) dask array
        A chunk a tile, of its frames' ``|z_i|^2``.
    blocks : (block, 1, 1) dask array
        Which pairs of frames the values of a chunk belong to.
    outline : tuple of GramianBlock
        Which pairs of tiles.
    frames : tuple of int
        In each tile.
    like : (0,) complex128 array
        NumPy's or CuPy's, as the chunks of `values` are.
    """

    values: DaskArray
    power: DaskArray
    blocks: DaskArray
    outline: tuple[GramianBlock, ...]
    frames: tuple[int, ...]
    like: Array

    def matrix(self) -> Any:
        """H over all frames, computed now.

        Returns
        -------
        (frame, frame) sparse array
            Hermitian; SciPy's, or CuPy's.
        """
        return item(_gather(_assemble, self.matrices(), outline=self.outline).compute())

    def matrices(self) -> DaskArray:
        """(block, 1, 1): one sparse matrix a chunk."""
        return map_objects(_block_matrix, self.blocks, self.values)


def gramian_of_blocks(
    frames: DaskArray,
    ground: DaskArray,
    power: DaskArray,
    blocks: DaskArray,
    outline: Sequence[GramianBlock],
    like: Array,
) -> Gramian:
    """The Gramian of frames whose chunks are any three-dimensional arrays, a chunk a tile.

    Parameters
    ----------
    frames, ground, power : dask arrays
        A chunk a tile: weighted frames, `Ground`, and ``|z_i|^2``.
    blocks : dask array
        A chunk a `GramianBlock`.
    outline : sequence of GramianBlock
        The same blocks, for the tiles, the numbers of their frames and of their pairs.
    like : (0,) complex128 array
        NumPy's or CuPy's, as the values are.
    """
    rows, columns = [own.row for own in outline], [own.column for own in outline]
    border = map_objects(_border, _take_blocks(frames, columns), blocks)
    given = (_take_blocks(frames, rows), border, _take_blocks(ground, rows), blocks)
    values = da.blockwise(
        *(_block_values, "i", *(part for array in given for part in (array, "ijk"))),
        adjust_chunks={"i": tuple(own.pairs for own in outline)},
        dtype=np.dtype(np.complex128),
        meta=like,
        align_arrays=False,
    )
    frames_of = {own.row: own.shape[0] for own in outline}
    frames_in = tuple(frames_of[row] for row in sorted(frames_of))
    return Gramian(values, power, blocks, tuple(outline), frames_in, like)


def _border(frames: Array, block: Any) -> Border:
    return Border(frames, item(block).border)


def _block_values(*chunks: list[list[Any]]) -> Array:
    # Each is the only one along the two axes that the values do not have.
    first, border, ground, block = (chunk[0][0] for chunk in chunks)
    corner, weight = item(ground)
    return block_values(item(block), first, item(border), corner, weight)


def _block_matrix(block: Any, values: Array) -> Any:
    return block_matrix(item(block), values)


def _assemble(matrices: list[Any], outline: Sequence[GramianBlock]) -> Any:
    return assemble_gramian(outline, [item(own) for own in matrices])


# Its leading eigenvector


class _Problem(NamedTuple):
    """An eigenproblem on blocks: where its solution stands, and how both sides of H are divided."""

    iterate: PowerIterate | LobpcgIterate
    inverse: Array
    """(frame,) one divided by the consensus vector."""
    power: Array

    @property
    def sent(self) -> Array:
        """The vector to multiply with H."""
        return self.inverse * self.iterate.vector


def find_phases(h: Gramian, sync: Sync, normalisation: Normalisation) -> DaskArray:
    """`Phases` of all frames, one object.

    Lanczos and LOBPCG run in one task on the assembled H, as long as one worker can hold it; beyond that
    LOBPCG, and power iteration always, run on the blocks where they lie.
    """
    steps = sync.steps(sum(h.frames))
    assembled = sum(own.pairs for own in h.outline) <= MOST_ASSEMBLED
    if sync.eigensolver == "power" or not assembled:
        kind = PowerIterate if sync.eigensolver == "power" else LobpcgIterate
        return map_objects(_extract_phases, iterate(h, steps, normalisation, kind))
    how = {"outline": h.outline, "sync": sync, "normalisation": normalisation}
    return _gather(_solve, h.matrices(), h.power, **how)


def iterate(
    h: Gramian,
    iterations: int,
    normalisation: Normalisation,
    kind: type[PowerIterate] | type[LobpcgIterate],
) -> DaskArray:
    """`Eigenpair` and ``|z_i|^2`` of all frames, one object: steps of a solver on the blocks of H.

    Only vectors travel between tiles, for matrices that no worker should hold. Each step gathers them once.
    """
    matrices, places = h.matrices(), _Places(h.outline, h.frames)
    degrees = map_objects(_row_sums, matrices, h.blocks)
    problem = _gather(_begin, degrees, h.power, normalisation=normalisation, kind=kind, places=places)
    located = map_objects(_locate, matrices, each(places.of_blocks))
    for step in range(iterations + 1):
        products = with_one(_multiply, located, problem)
        last = step == iterations
        problem = _gather(_conclude if last else _advance, products, problem, places=places)
    return problem


class _Places:
    """Where the blocks of H stand: of each block the frames of its rows and of its columns, as slices.

    It is no dataclass, and has a token of its own: Dask would look all through it at each step.
    """

    def __init__(self, outline: Sequence[GramianBlock], frames: Sequence[int]) -> None:
        ends = [int(end) for end in np.cumsum(frames)]
        tiles = [slice(end - count, end) for end, count in zip(ends, frames, strict=True)]
        self.frames = ends[-1]
        self.of_blocks = [(tiles[block.row], tiles[block.column]) for block in outline]
        self._token = uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        return self._token


def _locate(matrix: Any, place: Any) -> tuple[Any, slice, slice]:
    return item(matrix), *item(place)


def _row_sums(matrix: Any, block: Any) -> tuple[Array, Array | None]:
    """Sums of moduli along the rows of a block, and along its columns where that is another tile's."""
    own, given = abs(item(matrix)), item(block)
    xp = array_module(own.data)
    beside = None if given.row == given.column else own.T @ xp.ones(own.shape[0])
    return own @ xp.ones(own.shape[1]), beside


def _add_up(parts: Sequence[tuple[Array, Array | None]], places: _Places) -> Array:
    """What blocks say of the frames of their rows and of their columns, on all frames."""
    xp = array_module(parts[0][0])
    total = xp.zeros(places.frames, dtype=parts[0][0].dtype)
    for (of_rows, of_columns), (rows, columns) in zip(parts, places.of_blocks, strict=True):
        total[rows] += of_rows
        if of_columns is not None:
            total[columns] += of_columns
    return total


def _begin(
    degrees: list[Any],
    power: list[Array],
    normalisation: Normalisation,
    kind: type[PowerIterate] | type[LobpcgIterate],
    places: _Places,
) -> _Problem:
    of_frames = array_module(item(power[0])).concatenate([item(own) for own in power])
    squared = of_frames if normalisation == "frame" else _add_up(degrees, places)
    consensus = array_module(squared).sqrt(squared)
    return _Problem(kind.begin(consensus), invert_consensus(consensus), of_frames)


def _multiply(located: Any, problem: Any) -> tuple[Array, Array | None]:
    matrix, rows, columns = item(located)
    vector = item(problem).sent
    of_rows = matrix @ vector[columns]
    return of_rows, None if rows == columns else matrix.conj().T @ vector[rows]


def _advance(products: list[Any], problem: list[Any], places: _Places) -> _Problem:
    (before,) = map(item, problem)
    product = before.inverse * _add_up(products, places)
    return before._replace(iterate=before.iterate.advance(product))


def _conclude(products: list[Any], problem: list[Any], places: _Places) -> tuple[Eigenpair, Array]:
    (before,) = map(item, problem)
    product = before.inverse * _add_up(products, places)
    return before.iterate.conclude(product), before.power


def _extract_phases(found: Any) -> Phases:
    return extract_phases(*item(found))


def _solve(
    matrices: list[Any],
    power: list[Any],
    outline: Sequence[GramianBlock],
    sync: Sync,
    normalisation: Normalisation,
) -> Phases:
    of_frames = array_module(item(power[0])).concatenate([item(own) for own in power])
    matrix = _assemble(matrices, outline)
    return extract_phases(solve(normalise(matrix, of_frames, normalisation), sync), of_frames)
