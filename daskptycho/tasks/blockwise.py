"""The Gramian H as a dask array with a chunk for each block, and its leading eigenvector."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from daskptycho.backend import array_module
from daskptycho.errors import OptionError
from daskptycho.sync.eigensolvers import Eigenpair, LobpcgIterate, PowerIterate
from daskptycho.sync.gramian import (
    Border,
    GramianBlock,
    TilePair,
    assemble_gramian,
    block_matrix,
    block_values,
)
from daskptycho.sync.options import Normalisation, Sync
from daskptycho.sync.phases import Phases, extract_phases, invert_consensus, normalise, solve
from daskptycho.tasks.chunks import (
    chunk_objects,
    gather_objects,
    map_objects,
    map_with_object,
    take_blocks,
    unwrap_chunk,
)

__all__ = ["Gramian", "Ground", "find_phases", "gramian_of_blocks", "iterate"]

Array = Any
DaskArray = Any
"""``dask.array.Array``, with query planning or without."""

# Most pairs of overlapping frames for which H is assembled in one task: about 2 GB with its assembly and
# solution. A larger H stays in blocks.
MOST_ASSEMBLED = 2**25


class Ground(NamedTuple):
    """Corners and weights of a tile, which the values of H need for the tile of their first frame."""

    corner: Array
    """(frame, 2) corners of the tile's frames in its window, in pixels."""
    weight: Array
    """(y, x) float32 1 / N on that window, N summed over all tiles."""


@dataclass(frozen=True)
class Gramian:
    """The Gramian of a scan's weighted frames, lazily: the upper triangle, in blocks of pairs of tiles.

    ``H_ij = sum_r conj(u_i(r - x_i)) u_j(r - x_j) / N(r)`` over the pixels r that frames i and j share, where
    N is the illumination (Marchesini et al., Inverse Problems 29, 115009 (2013)). `daskptycho.gramian` makes
    it.

    Attributes
    ----------
    values : (pair,) complex128 dask array
        Values of H, with a chunk for each pair of tiles that overlap, each tile with itself included.
    power : (tile, 1, 1) dask array
        Objects, with a chunk for each tile: the (frame,) array of ``|z_i|^2`` of its frames.
    blocks : (block, 1, 1) dask array
        Objects, with a chunk for each chunk of `values`: its pairs of frames.
    outline : tuple of GramianBlock
        The pair of tiles of each block, without the pairs of frames.
    frames : tuple of int
        Number of frames of each tile.
    like : (0,) complex128 array
        An array of the same kind as the chunks of `values`, NumPy's or CuPy's.
    """

    values: DaskArray
    power: DaskArray
    blocks: DaskArray
    outline: tuple[GramianBlock, ...]
    frames: tuple[int, ...]
    like: Array

    def matrix(self) -> Any:
        """Compute H over all frames.

        Returns
        -------
        (frame, frame) sparse complex128 array
            Hermitian; SciPy's or CuPy's.
        """
        return unwrap_chunk(gather_objects(_assemble, self.matrices(), pairs=_tile_pairs(self)).compute())

    def matrices(self) -> DaskArray:
        """The blocks as sparse matrices, lazily: a (block, 1, 1) dask array with one matrix in each chunk."""
        return map_objects(_block_matrix, self.blocks, self.values)


def gramian_of_blocks(
    frames: DaskArray,
    ground: DaskArray,
    power: DaskArray,
    blocks: DaskArray,
    outline: Sequence[GramianBlock],
    like: Array,
) -> Gramian:
    """Make the Gramian from weighted frames.

    Parameters
    ----------
    frames, ground, power : three-dimensional dask arrays
        With a chunk for each tile: its weighted frames, its `Ground`, and its frames' ``|z_i|^2``.
    blocks : dask array
        With a `GramianBlock` in each chunk.
    outline : sequence of GramianBlock
        The outlines of the same blocks.
    like : (0,) complex128 array
        An array of the kind of the values, NumPy's or CuPy's.
    """
    rows, columns = [block.row for block in outline], [block.column for block in outline]
    border = map_objects(_border, take_blocks(frames, columns), blocks)
    arrays = (take_blocks(frames, rows), border, take_blocks(ground, rows), blocks)
    values = da.blockwise(
        *(_block_values, "i", *(part for array in arrays for part in (array, "ijk"))),
        adjust_chunks={"i": tuple(block.pairs for block in outline)},
        dtype=np.dtype(np.complex128),
        meta=like,
        align_arrays=False,
    )
    frames_of = {block.row: block.shape[0] for block in outline}
    frames_in = tuple(frames_of[row] for row in sorted(frames_of))
    return Gramian(values, power, blocks, tuple(outline), frames_in, like)


def _border(frames: Array, block: Any) -> Border:
    return Border(frames, unwrap_chunk(block).border)


def _block_values(*chunks: list[list[Any]]) -> Array:
    # Dask passes nested lists for the two axes that the values do not have; each has a single chunk there.
    first, border, ground, block = (chunk[0][0] for chunk in chunks)
    corner, weight = unwrap_chunk(ground)
    return block_values(unwrap_chunk(block), first, unwrap_chunk(border), corner, weight)


def _block_matrix(block: Any, values: Array) -> Any:
    return block_matrix(unwrap_chunk(block), values)


def _tile_pairs(h: Gramian) -> tuple[TilePair, ...]:
    """The tiles of each block: all of the outline that a task on every block needs."""
    return tuple(TilePair(block.row, block.column) for block in h.outline)


def _assemble(matrices: list[Any], pairs: Sequence[TilePair]) -> Any:
    return assemble_gramian(pairs, [unwrap_chunk(matrix) for matrix in matrices])


# Its leading eigenvector


class _Problem(NamedTuple):
    """The state of a solver that works on blocks of H."""

    iterate: PowerIterate | LobpcgIterate
    inverse: Array
    """(frame,) one divided by the consensus vector."""
    power: Array

    @property
    def scaled_vector(self) -> Array:
        """The vector to multiply with H, which is normalised by scaling vectors before and after."""
        return self.inverse * self.iterate.vector


def find_phases(h: Gramian, sync: Sync, normalisation: Normalisation) -> DaskArray:
    """Find the `Phases` of all frames: a dask array with one object.

    Lanczos and LOBPCG run in one task on the assembled H. Power iteration runs on the blocks of H if there
    are several, and so does LOBPCG, also in place of Lanczos, if H is too large for one worker.
    """
    steps = sync.steps(sum(h.frames))
    is_assembled = sum(block.pairs for block in h.outline) <= MOST_ASSEMBLED
    if (sync.eigensolver == "power" and len(h.outline) > 1) or not is_assembled:
        kind = PowerIterate if sync.eigensolver == "power" else LobpcgIterate
        return map_objects(_extract_phases, iterate(h, steps, normalisation, kind))
    how = {"pairs": _tile_pairs(h), "sync": sync, "normalisation": normalisation}
    return gather_objects(_solve, h.matrices(), h.power, **how)


def iterate(
    h: Gramian,
    iterations: int,
    normalisation: Normalisation,
    kind: type[PowerIterate] | type[LobpcgIterate],
) -> DaskArray:
    """Run a solver on the blocks of H: one object, an `Eigenpair` and all ``|z_i|^2``, in a dask array.

    Only vectors are sent between workers. Each step gathers them once.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise OptionError(f"iterations is {iterations!r}; expected a whole number, 0 or more")
    matrices, places = h.matrices(), _Places(h.outline, h.frames)
    degrees = map_objects(_row_sums, matrices, h.blocks)
    problem = gather_objects(_begin, degrees, h.power, normalisation=normalisation, kind=kind, places=places)
    located = map_objects(_locate, matrices, chunk_objects(places.of_blocks))
    for step in range(iterations + 1):
        products = map_with_object(_multiply, located, problem)
        last = step == iterations
        problem = gather_objects(_conclude if last else _advance, products, problem, places=places)
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
    return unwrap_chunk(matrix), *unwrap_chunk(place)


def _row_sums(matrix: Any, block: Any) -> tuple[Array, Array | None]:
    """Sums of moduli along the rows of a block, and along its columns unless it is on the diagonal."""
    moduli, pairs = abs(unwrap_chunk(matrix)), unwrap_chunk(block)
    xp = array_module(moduli.data)
    of_columns = None if pairs.row == pairs.column else moduli.T @ xp.ones(moduli.shape[0])
    return moduli @ xp.ones(moduli.shape[1]), of_columns


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
    power_of_frame = array_module(unwrap_chunk(power[0])).concatenate([unwrap_chunk(own) for own in power])
    squared = power_of_frame if normalisation == "frame" else _add_up(degrees, places)
    consensus = array_module(squared).sqrt(squared)
    return _Problem(kind.begin(consensus), invert_consensus(consensus), power_of_frame)


def _multiply(located: Any, problem: Any) -> tuple[Array, Array | None]:
    matrix, rows, columns = unwrap_chunk(located)
    vector = unwrap_chunk(problem).scaled_vector
    of_rows = matrix @ vector[columns]
    return of_rows, None if rows == columns else matrix.conj().T @ vector[rows]


def _advance(products: list[Any], problem: list[Any], places: _Places) -> _Problem:
    (before,) = map(unwrap_chunk, problem)
    product = before.inverse * _add_up(products, places)
    return before._replace(iterate=before.iterate.advance(product))


def _conclude(products: list[Any], problem: list[Any], places: _Places) -> tuple[Eigenpair, Array]:
    (before,) = map(unwrap_chunk, problem)
    product = before.inverse * _add_up(products, places)
    return before.iterate.conclude(product), before.power


def _extract_phases(found: Any) -> Phases:
    return extract_phases(*unwrap_chunk(found))


def _solve(
    matrices: list[Any],
    power: list[Any],
    pairs: Sequence[TilePair],
    sync: Sync,
    normalisation: Normalisation,
) -> Phases:
    power_of_frame = array_module(unwrap_chunk(power[0])).concatenate(
        [unwrap_chunk(chunk) for chunk in power]
    )
    matrix = _assemble(matrices, pairs)
    return extract_phases(solve(normalise(matrix, power_of_frame, normalisation), sync), power_of_frame)
