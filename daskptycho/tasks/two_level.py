"""The part of a sweep's graph for ``Sync("two-level")``: frames within each tile, then tiles with each other.

The matrix G of the tiles and the merge need the same strips. Each strip is sent once.
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
from daskptycho.tasks.strips import Pieces, cut_labels, cut_strips

__all__ = ["find_phases", "join_tiles", "measure_row", "synchronise_swept"]

Array = Any


def synchronise_swept(
    data: TileData, swept: TileSweep, illumination: Array, at: TileModel, how: Synchronisation
) -> TileSweep:
    """Synchronise the frames within a tile: the first level, in the task of the tile's sweep.

    `illumination` and `at` are those of the coming merge. The `TileSweep` returned holds a `TileSum`.
    """
    assert data.pairs is not None
    weight = at.inverse_illumination(illumination[...])
    tile = at.locate(data.tile)
    block = find_pairs(data.pairs, tile)
    # Without smoothing that is the overlap sum of the frames.
    plain = None if swept.smoothing else swept.unturned
    of_tile = (tile, swept.left, block, weight)
    return swept._replace(left=synchronise_tile(*of_tile, how, swept.misfit, at.probe, plain))


def measure_row(
    data: TileData, swept: TileSweep, pieces: Pieces, illumination: Array, at: TileModel
) -> GalerkinRow:
    """The row of G of a tile, from the strips of its neighbours."""
    tile_sum = swept.left.with_images(lambda image: image[...])
    cut, labels = list(cut_strips(pieces, data.strips)), list(cut_labels(pieces, data.strips))
    weight = at.inverse_illumination(illumination[...])
    row = galerkin_row(data.tile.index, tile_sum, cut, data.strips, weight, swept.misfit, labels)
    return row._replace(moved=swept.moved)


def find_phases(rows: list[GalerkinRow], settings: SweepSettings) -> Phases:
    """The phases of all tiles."""
    residual = sum(row.misfit for row in rows) / settings.counts
    return find_tile_phases(rows, settings.how, residual)


def join_tiles(
    layout: Layout, swept: list[Value], pieces: list[list[Value]], after: State, settings: SweepSettings
) -> tuple[list[Value], Value]:
    """Synchronise tiles with each other, in one round of communication: the second level.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile, which holds a `TileSum`.
    pieces : list of lists of Value
        The strips of each tile, from `bring_strips`.
    after : State
        The model after the sweep, and its illumination.
    settings : SweepSettings

    Returns
    -------
    rows : list of Value
        The `GalerkinRow` of each tile.
    phases : Value
        `Phases` of the tiles.
    """
    illuminations = [tile.illumination for tile in after.tiles]
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    inputs = zip(layout.tiles, swept, pieces, illuminations, models, strict=True)
    rows = [task(measure_row, *of_tile, name="row") for of_tile in inputs]
    return rows, task(find_phases, rows, settings)
