"""The Gramian H of overlapping pairs of frames: the pairs of each block, and their values.

``H_ij = sum_r conj(u_i(r - x_i)) u_j(r - x_j) / N(r)`` over the pixels that frames i and j share
(Marchesini et al., Inverse Problems 29, 115009 (2013)). The upper triangle is computed; the lower one follows
by conjugation, and the diagonal is real. The overlapping pairs depend only on the positions. They are found
once, and their values are computed at every synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from daskptycho.backend import Device, array_module, kernels, sparse_module, to_device, to_host
from daskptycho.sync.coarse import CoarseGrid, lay_grid
from daskptycho.tiling import Shape, Tile, Tiling, overlapping_pairs

__all__ = [
    "Border",
    "GramianBlock",
    "Pattern",
    "TilePair",
    "assemble_gramian",
    "block_matrix",
    "block_values",
    "block_within",
    "find_pattern",
    "gramian_blocks",
    "keep_near",
]

# Pairs for each frame, besides that with itself, that a synchronisation needs at least while the phases stand
# out from the noise; and the share of all pairs above which it computes all.
NEAR_PAIRS = 3
NEAR_SHARE = 0.6

Array = Any
Matrix = Any
"""A sparse matrix, SciPy's or CuPy's."""


class TilePair(NamedTuple):
    """The tiles of a block of H, by number."""

    row: int
    column: int


class Pattern(NamedTuple):
    """The places of the entries of a block's matrix, in compressed rows."""

    start: Array
    """(frame + 1,) int32: the entries of row r are those from ``start[r]`` to ``start[r + 1] - 1``."""
    index: Array
    """(entry,) int32 column of each entry."""
    source: Array
    """(entry,) int32 number of the pair that each entry has its value from."""
    conjugate: Array | None
    """(entry,) bool: whether it has the conjugate of that value; None in a block of two tiles."""
    diagonal: Array | None
    """Numbers of the entries on the diagonal, which are real; None in a block of two tiles."""
    repeats: bool
    """Whether any place has several entries: in a periodic scan two frames may meet on both sides."""

    def to(self, device: Device) -> Pattern:
        """The same pattern with its arrays on a device."""
        moved = self._replace(
            start=to_device(self.start, device),
            index=to_device(self.index, device),
            source=to_device(self.source, device),
        )
        if self.conjugate is None or self.diagonal is None:
            return moved
        return moved._replace(
            conjugate=to_device(self.conjugate, device), diagonal=to_device(self.diagonal, device)
        )


@dataclass(frozen=True)
class GramianBlock:
    """The overlapping pairs between the frames of two tiles (or of one tile with itself).

    Attributes
    ----------
    row, column : int
        Numbers of the two tiles, ``row <= column``.
    shape : (int, int)
        Number of frames in each of them.
    pair : (pair, 2) int64 array
        Number of the first frame in tile `row`, and index in `border` of the second one.
    offset : (pair, 2) int64 array
        Corner of the second frame minus corner of the first, [y, x] in pixels.
    border : (n,) int64 array
        Numbers of the frames of tile `column` that overlap a frame of tile `row`: all that have to be sent.
    pairs : int
        Number of pairs, also in an `outline`.
    pattern : Pattern, optional
        The places of the entries of its matrix, so that they need not be found at every synchronisation; `to`
        adds it.
    near : GramianBlock, optional
        The same block with the pairs of near neighbours only (`keep_near`); None if it has few others.
    grid : CoarseGrid, optional
        The coarse grid of a tile, from which small phases of its frames follow without H (see `coarse`).
    """

    row: int
    column: int
    shape: tuple[int, int]
    pair: NDArray[np.int64]
    offset: NDArray[np.int64]
    border: NDArray[np.int64]
    pairs: int
    pattern: Pattern | None = None
    near: GramianBlock | None = None
    grid: CoarseGrid | None = None

    def to(self, device: Device) -> GramianBlock:
        """The same block with its arrays and its pattern on a device."""
        return replace(
            self,
            pair=to_device(self.pair, device),
            offset=to_device(self.offset, device),
            border=to_device(self.border, device),
            pattern=(self.pattern or find_pattern(self)).to(device),
            near=None if self.near is None else self.near.to(device),
        )

    def at(self, rows: NDArray, columns: NDArray, period: Shape | None) -> GramianBlock:
        """The same pairs of frames at other corners on the canvas, (frame, 2), of both tiles."""
        pair, border = to_host(self.pair), to_host(self.border)
        offset = columns[border[pair[:, 1]]] - rows[pair[:, 0]]
        if period is not None:
            offset = np.mod(offset + np.array(period) // 2, period) - np.array(period) // 2
        return replace(self, offset=array_module(self.offset).asarray(offset))

    def outline(self) -> GramianBlock:
        """The same block without the arrays of its pairs."""
        nothing = np.empty((0, 2), dtype=np.int64)
        pairs = replace(self, pair=nothing, offset=nothing, border=nothing[:, 0])
        return replace(pairs, pattern=None, near=None, grid=None)


@dataclass(frozen=True)
class Border:
    """The frames of a tile that overlap a neighbouring tile.

    In the tile's own process they are not copied from the stack of all its frames. Pickled for another
    process, the stack is reduced to these frames.

    Attributes
    ----------
    stack : (n, N, N) complex64 array
        Weighted frames.
    number : (frame,) int64 array
        Indices of these frames in `stack`.
    """

    stack: Array
    number: NDArray[np.int64]

    def __reduce__(self) -> tuple[Any, ...]:
        xp = array_module(self.stack)
        return Border, (self.stack[self.number], xp.arange(len(self.number)))


def gramian_blocks(tiling: Tiling, reach: int = 0) -> list[GramianBlock]:
    """Find the blocks of H's upper triangle that are not empty, and their pairs, from the positions.

    With `reach`, pairs that overlap once each of their frames has moved by that number of pixels are among
    them.
    """
    size = np.array(tiling.frame_shape) + 2 * reach
    if tiling.period is not None:
        size = np.minimum(size, np.array(tiling.period) // 2)
    pairs = overlapping_pairs(tiling.corner, (int(size[0]), int(size[1])), tiling.period)
    start = np.array([tile.frames.start for tile in tiling.tiles])
    tile_of = np.searchsorted(start, np.arange(len(tiling.corner)), side="right") - 1
    row, column = tile_of[pairs.first], tile_of[pairs.second]
    order = np.lexsort((column, row))
    changes = np.flatnonzero(np.diff(row[order]) | np.diff(column[order])) + 1
    blocks = []
    for members in np.split(order, changes):
        r, c = int(row[members[0]]), int(column[members[0]])
        border, second = np.unique(pairs.second[members] - start[c], return_inverse=True)
        pair = np.stack([pairs.first[members] - start[r], second], axis=1)
        shape = (len(tiling.tiles[r]), len(tiling.tiles[c]))
        blocks.append(GramianBlock(r, c, shape, pair, pairs.offset[members], border, len(members)))
    return blocks


def block_within(tile: Tile, frame_shape: Shape, period: Shape | None) -> GramianBlock:
    """Find the overlapping pairs of frames within one tile: the block of H on the diagonal."""
    pairs = overlapping_pairs(tile.corner, frame_shape, period)
    block = GramianBlock(
        tile.index,
        tile.index,
        (len(tile), len(tile)),
        np.stack([pairs.first, pairs.second], axis=1),
        pairs.offset,
        np.arange(len(tile)),
        len(pairs),
    )
    near = keep_near(block)
    nearest = block if near is None else near
    grid = lay_grid(tile.corner, frame_shape, nearest.pair, nearest.offset)
    return replace(block, near=near, grid=grid)


def keep_near(block: GramianBlock) -> GramianBlock | None:
    """Keep the pairs of near neighbours, which share the most light; None if that spares hardly any.

    Parameters
    ----------
    block : GramianBlock
        Of one tile with itself.

    Returns
    -------
    GramianBlock or None
        All pairs up to the distance within which frames have about six neighbours, or farther if frames would
        fall into more parts than with all pairs.
    """
    distance = np.abs(block.offset).max(axis=1)
    frames, nearest = block.shape[0], np.sort(distance)
    parts = _count_parts(block, np.ones(len(distance), dtype=bool))
    kept = frames + NEAR_PAIRS * frames
    while kept <= NEAR_SHARE * len(distance):
        is_near = distance <= nearest[kept - 1]
        # All pairs that are as far apart as the last one are kept too.
        if is_near.sum() > NEAR_SHARE * len(distance):
            break
        if _count_parts(block, is_near) == parts:
            pair, offset = block.pair[is_near], block.offset[is_near]
            return replace(block, pair=pair, offset=offset, pairs=len(pair))
        kept = kept * 5 // 4 + 1
    return None


def _count_parts(block: GramianBlock, chosen: NDArray[np.bool_]) -> int:
    """Number of parts into which the frames of a tile fall if only these pairs link them."""
    first, second = block.pair[chosen].T
    links = sp.coo_array((np.ones(len(first)), (first, second)), shape=block.shape)
    return int(connected_components(links, directed=False)[0])


def block_values(
    block: GramianBlock, first: Array, border: Border, corner: NDArray[np.int64], weight: Array
) -> Array:
    """Values of H for the pairs of one block, computed on the device of the frames.

    Parameters
    ----------
    block : GramianBlock
    first : (frame, N, N) complex64 array
        Weighted frames of tile ``block.row``.
    border : Border
        Weighted frames ``block.border`` of tile ``block.column``.
    corner : (frame, 2) int64 array
        Corners of the first tile's frames in its window.
    weight : (y, x) float32 array
        1 / N on that window, N summed over all tiles.

    Returns
    -------
    (pair,) complex128 array
    """
    xp = array_module(first)
    values = xp.empty(len(block.pair), dtype=np.complex128)
    pair = xp.stack([block.pair[:, 0], border.number[block.pair[:, 1]]], axis=1)
    kernels(first).gramian(first, border.stack, pair, block.offset, corner, weight, values)
    return values


def find_pattern(block: GramianBlock) -> Pattern:
    """Arrange the pairs of a block by rows; in a diagonal block the lower triangle is added."""
    row, column = block.pair[:, 0], block.border[block.pair[:, 1]]
    source, is_hermitian = np.arange(len(row)), block.row == block.column
    conjugate = np.zeros(len(row), dtype=bool)
    if is_hermitian:
        lower = np.flatnonzero(row != column)
        row, column = np.concatenate([row, column[lower]]), np.concatenate([column, row[lower]])
        source = np.concatenate([source, lower])
        conjugate = np.concatenate([conjugate, np.ones(len(lower), dtype=bool)])
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    return Pattern(
        np.searchsorted(row, np.arange(block.shape[0] + 1)).astype(np.int32),
        column.astype(np.int32),
        source[order].astype(np.int32),
        conjugate[order] if is_hermitian else None,
        np.flatnonzero(row == column) if is_hermitian else None,
        bool(((np.diff(row) == 0) & (np.diff(column) == 0)).any()),
    )


def block_matrix(block: GramianBlock, values: Array) -> Matrix:
    """One block of H as a sparse matrix; in a diagonal block the lower triangle is added."""
    xp, pattern = array_module(values), block.pattern or find_pattern(block)
    data = values[pattern.source]
    if pattern.conjugate is not None:
        data = xp.where(pattern.conjugate, data.conj(), data)
        data.imag[pattern.diagonal] = 0
    matrix = sparse_module(values).csr_array((data, pattern.index, pattern.start), shape=block.shape)
    if pattern.repeats:
        # The indices of the pattern stay as they are.
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def assemble_gramian(blocks: Sequence[TilePair | GramianBlock], matrices: list[Matrix]) -> Matrix:
    """Assemble H over all frames from the matrices of the blocks of its upper triangle."""
    sparse = sparse_module(matrices[0].data)
    tiles = 1 + max(block.column for block in blocks)
    grid: list[list[Any]] = [[None] * tiles for _ in range(tiles)]
    for block, matrix in zip(blocks, matrices, strict=True):
        grid[block.row][block.column] = matrix
        if block.row != block.column:
            grid[block.column][block.row] = matrix.conj().T
    return sparse.block_array(grid, format="csr")
