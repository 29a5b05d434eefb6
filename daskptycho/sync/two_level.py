"""Two-level synchronisation: phases of the frames inside each tile, then one phase for each tile.

The frames of tile t, multiplied by the phases of the tile's leading eigenvector, have the overlap sum
``O_t = sum_i omega_i u_i(r - x_i)``. With the phases of each tile in a column of V, the Galerkin matrix
``G = V* H V`` has the entries ``G_tu = sum_r conj(O_t) O_u / N``. They need only the strips where the windows
of tiles overlap, which the merge sends anyway. The leading eigenvector of G gives the phases of tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from daskptycho.backend import array_module, inner_products, to_device_of, to_host
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import TileModel
from daskptycho.model.operators import overlap
from daskptycho.model.sweep import Stack, Weighted, merge, sweep_tile
from daskptycho.sync.blocks import synchronise_frames
from daskptycho.sync.gramian import Border, GramianBlock, block_matrix, block_values
from daskptycho.sync.options import Synchronisation
from daskptycho.sync.parts import find_links, galerkin_matrix, synchronise, synchronise_parts
from daskptycho.sync.phases import Phases, keep_gained, keep_significant
from daskptycho.sync.tile_parts import Labels, RowParts, TileParts, label_pixels, row_of_parts
from daskptycho.tiling import Strip, Tile

__all__ = [
    "GalerkinRow",
    "InnerSweeps",
    "Surroundings",
    "TilePhases",
    "TileSum",
    "find_tile_phases",
    "galerkin_row",
    "sweep_inside",
    "synchronise_tile",
]

Array = Any


class TileSum(NamedTuple):
    """A tile whose frames are synchronised with each other."""

    image_sum: Array
    """(y, x) complex64 overlap sum O_t on the tile's window."""
    found: Phases
    """Phases of the tile's frames."""
    power: float
    """``sum |z_i|^2`` over the tile's frames."""
    parts: TileParts | None = None
    """The parts of the tile; None if it has one."""
    labels: Labels = Labels()
    """The part that each pixel belongs to."""
    agreement: float | None = None
    """``sum_r |O_t|^2 / N``, if it is known already."""

    def with_images(self, convert: Callable[[Array], Any]) -> TileSum:
        """The same with `convert` applied to each (y, x) array."""
        return self._replace(image_sum=convert(self.image_sum), labels=self.labels.with_images(convert))


def synchronise_tile(
    tile: Tile, weighted: Weighted, block: GramianBlock, weight: Array, how: Synchronisation, misfit: float
) -> TileSum:
    """Solve the eigenproblem of one tile, and sum its frames with the phases found.

    Frames that are linked only through other tiles, or not at all, are parts of the tile. Each part is an
    eigenproblem of its own, and an element of G.

    Parameters
    ----------
    tile : Tile
    weighted : Weighted
    block : GramianBlock
        The pairs of frames within the tile.
    weight : (y, x) float32 array
        1 / N on the tile's window, N summed over all tiles.
    how : Synchronisation
    misfit : float
        ``sum (|Fz| - a)^2`` of the tile. Divided by the tile's power it is the residual that decides whether
        the phases are significant.
    """
    power = float(weighted.power.sum())
    residual, pixels = misfit / power if power else 0.0, math.prod(weighted.frames.shape[1:])
    near = block.near if how.near_pairs and not how.in_parts else None
    matrix = _compute_h(tile, weighted, near or block, weight)
    groups = find_links(matrix)
    if near is not None and groups is not None:
        # Near neighbours may share no light where others do.
        matrix = _compute_h(tile, weighted, block, weight)
        groups = find_links(matrix)
    if groups is None:
        found = synchronise_frames(tile, matrix, weighted.power, how)
        if how.only_significant:
            found = keep_significant(found, residual)
            found = keep_gained(found, misfit, pixels) if how.in_parts else found
        return TileSum(overlap(weighted.frames, tile.corner, tile.window.shape, found.phase), found, power)
    found = synchronise_parts(matrix, weighted.power, how, groups, residual=residual, pixels=pixels)
    image_sum = overlap(weighted.frames, tile.corner, tile.window.shape, found.phase)
    parts = TileParts(
        galerkin_matrix(matrix, found).toarray(),
        np.bincount(groups.label, to_host(weighted.power)).astype(np.float64),
        np.array([len(members) for members in groups.members]),
    )
    return TileSum(image_sum, found, power, parts, label_pixels(tile, weighted.frames, groups))


def _compute_h(tile: Tile, weighted: Weighted, block: GramianBlock, weight: Array) -> Any:
    """H of the pairs of a block within a tile, as a sparse matrix."""
    border = Border(weighted.frames, block.border)
    return block_matrix(block, block_values(block, weighted.frames, border, tile.corner, weight))


class Surroundings(NamedTuple):
    """The inputs of `sweep_inside` that do not change from one of its sweeps to the next."""

    illumination: Array
    """(y, x) float32 N on the tile's window, summed over all tiles."""
    block: GramianBlock | None
    """The pairs of frames within the tile; None if frames are not synchronised."""


class InnerSweeps(NamedTuple):
    """The result of the sweeps inside a tile, from which the last sweep of the round starts."""

    image: Array
    """(y, x) complex64 object on the tile's window."""
    stack: Stack | None
    misfit: float | None
    """Misfit of the first of these sweeps, that at the start of the round; None if no sweep was made."""


def sweep_inside(
    algorithm: Algorithm,
    at: TileModel,
    tile: Tile,
    amplitude: Array,
    image: Array,
    stack: Stack | None,
    around: Surroundings,
    how: Synchronisation,
) -> InnerSweeps:
    """Make all sweeps inside a tile between two rounds of communication except the last.

    In each of these sweeps the frames of neighbouring tiles are taken to agree with the image that the sweep
    starts from.

    Parameters
    ----------
    algorithm, at, tile, amplitude, image, stack
        See `model.sweep.sweep_tile`.
    around : Surroundings
    how : Synchronisation
        ``how.sync.inner - 1`` sweeps are made.
    """
    misfit: float | None = None
    weight = at.inverse_illumination(around.illumination)
    others = around.illumination - illuminate_tile(tile, at)
    located = at.locate(tile)
    for _ in range(how.sync.inner - 1):
        swept = sweep_tile(algorithm, at, tile, amplitude, image, stack=stack, leave="weighted frames")
        misfit = swept.misfit if misfit is None else misfit
        phase = None
        if around.block is None:
            image_sum = overlap(swept.left.frames, located.corner, tile.window.shape)
        else:
            tile_sum = synchronise_tile(located, swept.left, around.block, weight, how, swept.misfit)
            image_sum, phase = tile_sum.image_sum, tile_sum.found.phase
        image = merge(image_sum + image * others, around.illumination, at, image)
        stack = None if swept.carried is None else Stack(swept.carried, phase)
    return InnerSweeps(image, stack, misfit)


class GalerkinRow(NamedTuple):
    """The rows of G of one tile, and scalars of the tile."""

    tiles: NDArray[np.int64]
    """(entry,) tiles of the columns. One occurs twice if two tiles of a periodic scan meet on both sides."""
    values: NDArray[np.complex128]
    """(entry,) values; those of the same element are added."""
    misfit: float
    power: float
    spread: float
    disagreement: float
    localisation: float
    frames: int = 1
    """Number of frames of the tile."""
    parts: RowParts | None = None
    """None if neither the tile nor a neighbour has parts."""
    moved: tuple[float, float] = (0.0, 0.0)
    """See `model.sweep.TileSweep`."""


def galerkin_row(
    index: int,
    own: TileSum,
    pieces: Sequence[Array],
    strips: Sequence[Strip],
    weight: Array,
    misfit: float = 0.0,
    labels: Sequence[Labels] | None = None,
) -> GalerkinRow:
    """Compute the row of G of one tile, or those of its parts.

    Parameters
    ----------
    index : int
        Number of the tile.
    own : TileSum
        Of the tile.
    pieces : sequence of (y, x) complex64 arrays
        The pixels of each strip: parts of the other tiles' overlap sums.
    strips : sequence of Strip
    weight : (y, x) float32 array
        1 / N on the tile's window, N summed over all tiles.
    misfit : float
        Misfit of the tile's sweep.
    labels : sequence of Labels, optional
        The parts that the pixels of each strip belong to; by default no other tile has parts.
    """
    found = own.found
    scalars = (misfit, own.power, found.spread, found.disagreement, found.localisation, len(found.phase))
    labels = [Labels()] * len(strips) if labels is None else labels
    if own.parts is not None or any(of_strip.label is not None for of_strip in labels):
        weighted = own.image_sum.conj()
        weighted *= weight
        tiles, entries, parts = row_of_parts(
            *(index, own.image_sum, weighted, own.parts, own.labels),
            zip(pieces, labels, strips, strict=True),
        )
        return GalerkinRow(tiles, entries, *scalars, parts)
    agreement = own.agreement
    if agreement is None:
        agreement = float(inner_products(weight, own.image_sum, [own.image_sum])[0])
    values = []
    for piece, strip in zip(pieces, strips, strict=True):
        weighted = own.image_sum[strip.to_target].conj() * weight[strip.to_target]
        values.append((weighted * piece).sum(dtype=np.complex128))
    return GalerkinRow(
        np.array([index, *(strip.source for strip in strips)], dtype=np.int64),
        # G has a few numbers for each tile; only these are copied from a GPU.
        np.concatenate([[agreement], to_host(array_module(weight).stack(values)) if values else []]) + 0j,
        *scalars,
    )


@dataclass(frozen=True)
class TilePhases(Phases):
    """The phases of tiles. A tile that has parts has a phase for each of them.

    Attributes
    ----------
    first : (tile,) int64 array
        Number of the first element of `phase` that belongs to each tile.
    """

    first: NDArray[np.int64] = field(kw_only=True)

    def on_frames(self, tile: int, part: NDArray[np.int64] | None, like: Array) -> Array:
        """The phases of a tile's frames: one number, or a (frame,) array if the tile has parts.

        `part` is the part of each frame, and `like` an array on the device of the tile.
        """
        if part is None:
            return self.phase[self.first[tile]]
        return to_device_of(self.phase[self.first[tile] + part], like)

    def on_pixels(self, tile: int, labels: Labels, like: Array) -> Array:
        """The phases of the pixels of a tile or of a strip: one number, or a (y, x) array.

        `like` is an array on the device of the tile.
        """
        if labels.label is None or labels.box is None:
            return self.phase[self.first[tile]]
        start = self.first[tile]
        of_parts = to_device_of(self.phase[start : start + len(labels.box)], like)
        return of_parts[labels.label[...]]


class _Elements(NamedTuple):
    """The elements of G: one for each tile, or for each of its parts."""

    first: NDArray[np.int64]
    """(tile,) number of each tile's first element."""
    power: NDArray[np.float64]
    """(element,) ``sum |z_i|^2``."""
    frames: NDArray[np.int64]
    """(element,) number of frames."""


def _assemble_g(rows: Sequence[GalerkinRow]) -> tuple[Any, _Elements]:
    """G, and what it is made of."""
    of_tiles = [
        (np.array([own.power]), np.array([own.frames]))
        if own.parts is None or not len(own.parts.power)
        else (own.parts.power, own.parts.frames)
        for own in rows
    ]
    power, frames = (np.concatenate(parts) for parts in zip(*of_tiles, strict=True))
    first = np.cumsum([0, *(len(of_tile) for of_tile, _ in of_tiles)])
    row = np.repeat(first[:-1], [len(own.tiles) for own in rows])
    column = first[np.concatenate([own.tiles for own in rows])]
    if any(own.parts is not None for own in rows):
        row += np.concatenate([_parts_of_entries(own, "row") for own in rows])
        column += np.concatenate([_parts_of_entries(own, "column") for own in rows])
    entries = (np.concatenate([own.values for own in rows]), (row, column))
    matrix = sp.csr_array(entries, shape=(first[-1], first[-1]))
    # An eigensolver may need exact symmetry, but a strip and its counterpart are rounded differently.
    return sp.csr_array((matrix + matrix.conj().T) / 2), _Elements(first[:-1], power, frames)


def _parts_of_entries(own: GalerkinRow, side: Literal["row", "column"]) -> NDArray[np.int64]:
    if own.parts is None:
        return np.zeros(len(own.tiles), dtype=np.int64)
    return own.parts.row if side == "row" else own.parts.column


def find_tile_phases(rows: Sequence[GalerkinRow], how: Synchronisation, residual: float) -> TilePhases:
    """Find a phase for each tile from the leading eigenvector of G.

    Parameters
    ----------
    rows : sequence of GalerkinRow
        One for each tile, in order.
    how : Synchronisation
    residual : float
        R2, which decides whether the phases are significant.

    Returns
    -------
    TilePhases
        ``phase`` has one element for each tile, or for each part of a tile. ``disagreement``, ``spread`` and
        ``localisation`` are estimates for all frames, from both levels together.
    """
    g, elements = _assemble_g(rows)
    found = synchronise(g, elements.power, how, steps=how.sync.steps_of_tiles, frames=elements.frames)
    spread_of_tiles = found.spread
    if how.only_significant:
        found = keep_significant(found, residual)
    power = np.array([of_tile.power for of_tile in rows])
    share = power / power.sum()
    inside = float((share * np.array([of_tile.spread for of_tile in rows]) ** 2).sum())
    # Divided by the power of the frames, G's eigenvalue includes the disagreement within tiles. Divided by
    # its own degrees it does not.
    within_tiles = float((share * np.array([of_tile.disagreement for of_tile in rows])).sum())
    localisations = np.array([of_tile.localisation for of_tile in rows])
    return TilePhases(
        found.phase,
        disagreement=found.disagreement + (within_tiles if how.normalisation == "degree" else 0.0),
        spread=float(np.sqrt(spread_of_tiles**2 + inside)),
        # If all tiles are alike, the localisation of frames is the product of both levels'.
        localisation=found.localisation * float((share * localisations).sum()),
        part=found.part,
        first=elements.first,
    )
