"""Two-level synchronisation: phases of the frames inside each tile, then one phase for each tile.

The frames of tile t, multiplied by the phases of the tile's leading eigenvector, have the overlap sum
``O_t = sum_i omega_i u_i(r - x_i)``. With the phases of each tile in a column of V, the Galerkin matrix
``G = V* H V`` has the entries ``G_tu = sum_r conj(O_t) O_u / N``. They need only the strips where the windows
of tiles overlap, which the merge sends anyway. The leading eigenvector of G gives the phases of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from daskptycho.backend import array_module, to_host
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.model import TileModel
from daskptycho.model.operators import overlap
from daskptycho.model.sweep import Stack, Weighted, illuminate_tile, sweep_tile
from daskptycho.sync.gramian import Border, GramianBlock, block_matrix, block_values
from daskptycho.sync.options import Synchronisation
from daskptycho.sync.phases import Phases, extract_phases, keep_significant, normalise, solve
from daskptycho.tiling import Strip, Tile

__all__ = [
    "GalerkinRow",
    "InnerSweeps",
    "Surroundings",
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


def synchronise_tile(
    tile: Tile, weighted: Weighted, block: GramianBlock, weight: Array, how: Synchronisation, misfit: float
) -> TileSum:
    """Solve the eigenproblem of one tile, and sum its frames with the phases found.

    Frames of a tile that are connected only through other tiles do not get a common phase. Tiles therefore
    have to be compact, as `scan.dataset.create_scan` makes them.

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
    assert how.normalisation is not None
    values = block_values(block, weighted.frames, Border(weighted.frames, block.border), tile.corner, weight)
    power = float(weighted.power.sum())
    matrix = normalise(block_matrix(block, values), weighted.power, how.normalisation)
    found = extract_phases(solve(matrix, how.sync), weighted.power)
    if how.only_significant:
        found = keep_significant(found, misfit / power if power else 0.0)
    return TileSum(overlap(weighted.frames, tile.corner, tile.window.shape, found.phase), found, power)


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
        image = (image_sum + image * others) * weight
        stack = None if swept.carried is None else Stack(swept.carried, phase)
    return InnerSweeps(image, stack, misfit)


class GalerkinRow(NamedTuple):
    """One row of G, and scalars of its tile."""

    tiles: NDArray[np.int64]
    """(entry,) columns. A column occurs twice if two tiles of a periodic scan meet on both sides."""
    values: NDArray[np.complex128]
    """(entry,) values; those of the same column are added."""
    misfit: float
    power: float
    spread: float
    disagreement: float
    localisation: float


def galerkin_row(
    index: int,
    own: TileSum,
    pieces: Sequence[Array],
    strips: Sequence[Strip],
    weight: Array,
    misfit: float = 0.0,
) -> GalerkinRow:
    """Compute the row of G of one tile.

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
    """
    weighted = own.image_sum.conj()
    weighted *= weight
    values = [(weighted * own.image_sum).sum(dtype=np.complex128)]
    for piece, strip in zip(pieces, strips, strict=True):
        values.append((weighted[strip.to_target] * piece).sum(dtype=np.complex128))
    return GalerkinRow(
        np.array([index, *(strip.source for strip in strips)], dtype=np.int64),
        # G has a few numbers for each tile; only these are copied from a GPU.
        to_host(array_module(weighted).stack(values)),
        misfit,
        own.power,
        own.found.spread,
        own.found.disagreement,
        own.found.localisation,
    )


def find_tile_phases(rows: Sequence[GalerkinRow], how: Synchronisation, residual: float) -> Phases:
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
    Phases
        ``phase`` has one element for each tile. ``disagreement``, ``spread`` and ``localisation`` are
        estimates for all frames, from both levels together.
    """
    assert how.normalisation is not None
    count = len(rows)
    row = np.repeat(np.arange(count), [len(of_tile.tiles) for of_tile in rows])
    column = np.concatenate([of_tile.tiles for of_tile in rows])
    entries = (np.concatenate([of_tile.values for of_tile in rows]), (row, column))
    matrix = sp.csr_array(entries, shape=(count, count))
    power = np.array([of_tile.power for of_tile in rows])
    # An eigensolver may need exact symmetry, but a strip and its counterpart are rounded differently.
    hermitian = sp.csr_array((matrix + matrix.conj().T) / 2)
    normalised = normalise(hermitian, power, how.normalisation)
    found = extract_phases(solve(normalised, how.sync, how.sync.steps_of_tiles(count)), power)
    spread_of_tiles = found.spread
    if how.only_significant:
        found = keep_significant(found, residual)
    share = power / power.sum()
    inside = float((share * np.array([of_tile.spread for of_tile in rows]) ** 2).sum())
    # Divided by the power of the frames, G's eigenvalue includes the disagreement within tiles. Divided by
    # its own degrees it does not.
    within_tiles = float((share * np.array([of_tile.disagreement for of_tile in rows])).sum())
    localisations = np.array([of_tile.localisation for of_tile in rows])
    return replace(
        found,
        disagreement=found.disagreement + (within_tiles if how.normalisation == "degree" else 0.0),
        spread=float(np.sqrt(spread_of_tiles**2 + inside)),
        # If all tiles are alike, the localisation of frames is the product of both levels'.
        localisation=found.localisation * float((share * localisations).sum()),
    )
