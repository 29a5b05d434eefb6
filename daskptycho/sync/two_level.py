r"""Two-level synchronisation: phases inside each tile, then one for each tile from overlap images.

The frames of tile t, turned by their own leading eigenvector, overlap to
``O_t = sum_i omega_i u_i(r - x_i)``. With V the block vector of the tiles' eigenvectors, the Galerkin matrix
``G = V* H V`` has the entries ``G_tu = sum_r conj(O_t) O_u / N``: they need only the strips where tile images
overlap, which is what the merge sends anyway. G's leading eigenvector turns whole tiles.
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
    """A tile whose frames are synchronised among themselves."""

    image_sum: Array
    """(y, x) overlap sum O_t on the tile's window."""
    found: Phases
    """Of the tile's frames."""
    power: float
    """sum |z_i|^2 over the tile's frames."""


def synchronise_tile(
    tile: Tile, weighted: Weighted, block: GramianBlock, weight: Array, how: Synchronisation, misfit: float
) -> TileSum:
    """The tile's own eigenproblem, and its overlap sum with the phases found.

    Frames of a tile that hang together only through other tiles get no common phase from it: tiles have to
    be compact, as `scan.dataset.create_scan` makes them.

    Parameters
    ----------
    tile : Tile
    weighted : Weighted
    block : GramianBlock
        The pairs within the tile.
    weight : (y, x) float32 array
        1 / N on the tile's window, N summed over all tiles.
    how : Synchronisation
    misfit : float
        ``sum (|Fz| - a)^2`` of the tile, against which its phases have to be significant.
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
    """What a tile knows of its neighbours and of its own pairs while it sweeps by itself."""

    illumination: Array
    """(y, x) float32 N on the tile's window, summed over all tiles."""
    block: GramianBlock | None
    """The pairs within the tile; None where they are not synchronised."""


class InnerSweeps(NamedTuple):
    """What the sweeps inside a tile leave to the one after them."""

    image: Array
    """(y, x), on the tile's window."""
    stack: Stack | None
    misfit: float | None
    """Of the first of them: that of the waves that the round began with. None where there was none."""


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
    """The sweeps inside a tile between two rounds of communication, except the last.

    While a tile sweeps, its neighbours' frames hold on to the image as it was at the start of the sweep.

    Parameters
    ----------
    algorithm, at, tile, amplitude, image, stack
        See `model.sweep.sweep_tile`.
    around : Surroundings
    how : Synchronisation
        ``sync.inner - 1`` sweeps are made.
    """
    misfit: float | None = None
    weight = at.inverse_illumination(around.illumination)
    others = around.illumination - illuminate_tile(tile, at)
    for _ in range(how.sync.inner - 1):
        swept = sweep_tile(algorithm, at, tile, amplitude, image, stack=stack, leave="weighted frames")
        misfit = swept.misfit if misfit is None else misfit
        phase = None
        if around.block is None:
            image_sum = overlap(swept.left.frames, tile.corner, tile.window.shape)
        else:
            own = synchronise_tile(tile, swept.left, around.block, weight, how, swept.misfit)
            image_sum, phase = own.image_sum, own.found.phase
        image = (image_sum + image * others) * weight
        stack = None if swept.carried is None else Stack(swept.carried, phase)
    return InnerSweeps(image, stack, misfit)


class GalerkinRow(NamedTuple):
    """One row of G, and what its tile has to say of itself."""

    tiles: NDArray[np.int64]
    """Columns; one may stand more than once, where a tile meets another on both sides of a period."""
    values: NDArray[np.complex128]
    misfit: float
    power: float
    spread: float
    consensus: float
    localisation: float


def galerkin_row(
    index: int,
    own: TileSum,
    pieces: Sequence[Array],
    strips: Sequence[Strip],
    weight: Array,
    misfit: float = 0.0,
) -> GalerkinRow:
    """The row of G of tile `index`.

    Parameters
    ----------
    index : int
    own : TileSum
    pieces : sequence of (y, x) complex64 arrays
        What the strips bring of the other tiles' overlap sums.
    strips : sequence of Strip
    weight : (y, x) float32 array
        1 / N on the tile's window.
    misfit : float
        Of the tile's sweep.
    """
    weighted = own.image_sum.conj()
    weighted *= weight
    values = [(weighted * own.image_sum).sum(dtype=np.complex128)]
    for piece, strip in zip(pieces, strips, strict=True):
        values.append((weighted[strip.to_target] * piece).sum(dtype=np.complex128))
    return GalerkinRow(
        np.array([index, *(strip.source for strip in strips)], dtype=np.int64),
        # G is a few numbers for each tile: only they leave a GPU.
        to_host(array_module(weighted).stack(values)),
        misfit,
        own.power,
        own.found.spread,
        own.found.consensus,
        own.found.localisation,
    )


def find_tile_phases(rows: Sequence[GalerkinRow], how: Synchronisation, residual: float) -> Phases:
    """A phase for each tile, from the leading eigenvector of G.

    Parameters
    ----------
    rows : sequence of GalerkinRow
        Of all tiles, in order.
    how : Synchronisation
    residual : float
        R2, against which the phases have to be significant.

    Returns
    -------
    Phases
        ``phase`` is the tiles'; ``consensus``, ``spread`` and ``localisation`` are those of all frames,
        both levels together.
    """
    assert how.normalisation is not None
    count = len(rows)
    row = np.repeat(np.arange(count), [len(own.tiles) for own in rows])
    entries = (np.concatenate([own.values for own in rows]), (row, np.concatenate([r.tiles for r in rows])))
    matrix = sp.csr_array(entries, shape=(count, count))
    power = np.array([own.power for own in rows])
    # Rounding differs between a strip and its counterpart; an eigensolver may ask for exact symmetry.
    hermitian = sp.csr_array((matrix + matrix.conj().T) / 2)
    normalised = normalise(hermitian, power, how.normalisation)
    found = extract_phases(solve(normalised, how.sync, how.sync.steps_of_tiles(count)), power)
    spread_of_tiles = found.spread
    if how.only_significant:
        found = keep_significant(found, residual)
    share = power / power.sum()
    inside = float((share * np.array([own.spread for own in rows]) ** 2).sum())
    # Divided by the frames' power, G holds what its tiles lack within; divided by its own degrees, not.
    lacking = float((share * np.array([own.consensus for own in rows])).sum())
    return replace(
        found,
        consensus=found.consensus + (lacking if how.normalisation == "degree" else 0.0),
        spread=float(np.sqrt(spread_of_tiles**2 + inside)),
        # Where all tiles are alike, the participation of frames is the product of both levels'.
        localisation=found.localisation * float((share * np.array([own.localisation for own in rows])).sum()),
    )
