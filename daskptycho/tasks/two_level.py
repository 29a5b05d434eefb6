"""The part of the graph that synchronises on two levels: tiles by themselves, then tile by tile.

The strips that G needs are those that the merge needs: each is sent once.
"""

from __future__ import annotations

from typing import Any

from daskptycho.model.model import TileModel
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.options import Synchronisation
from daskptycho.sync.phases import Phases
from daskptycho.sync.two_level import GalerkinRow, find_tile_phases, galerkin_row, synchronise_tile
from daskptycho.tasks.layout import Layout, TileData, find_pairs
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import State, SweepSettings, model_on_tiles
from daskptycho.tasks.strips import Pieces, cut_strips

__all__ = ["join_tiles", "synchronise_swept"]

Array = Any


def synchronise_swept(
    data: TileData, swept: TileSweep, illumination: Array, at: TileModel, how: Synchronisation
) -> TileSweep:
    """The first level, in a tile's own task; `illumination` and `at` are those of the merge."""
    assert data.pairs is not None
    weight = at.inverse_illumination(illumination[...])
    block = find_pairs(data.pairs, data.tile)
    return swept._replace(left=synchronise_tile(data.tile, swept.left, block, weight, how, swept.misfit))


def _row(data: TileData, swept: TileSweep, pieces: Pieces, illumination: Array, at: TileModel) -> GalerkinRow:
    own = swept.left._replace(image_sum=swept.left.image_sum[...])
    cut = list(cut_strips(pieces, data.strips))
    weight = at.inverse_illumination(illumination[...])
    return galerkin_row(data.tile.index, own, cut, data.strips, weight, swept.misfit)


def _find_phases(rows: list[GalerkinRow], settings: SweepSettings) -> Phases:
    residual = sum(row.misfit for row in rows) / settings.counts
    return find_tile_phases(rows, settings.how, residual)


def join_tiles(
    layout: Layout, swept: list[Value], pieces: list[list[Value]], after: State, settings: SweepSettings
) -> tuple[list[Value], Value]:
    """Synchronise tiles among each other, in one round of communication.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        Of each tile its `TileSweep` with a `TileSum`.
    pieces : list of lists of Value
        Of each tile its strips.
    after : State
        The model after the sweep, and the illumination that goes with it.
    settings : SweepSettings

    Returns
    -------
    rows : list of Value
        `GalerkinRow` of each tile.
    phases : Value
        `Phases` of the tiles.
    """
    lit = [tile.illumination for tile in after.tiles]
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    given = zip(layout.tiles, swept, pieces, lit, models, strict=True)
    rows = [task(_row, *of_tile) for of_tile in given]
    return rows, task(_find_phases, rows, settings)
