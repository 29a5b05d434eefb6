"""The part of a sweep's graph for ``Sync("two-level")``: frames within each tile, then tiles with each other.

The matrix G of the tiles and the merge need the same strips. Each strip is sent once.
"""

from __future__ import annotations

from typing import Any

from daskptycho.model.model import TileModel
from daskptycho.model.sweep import Leave, OverlapSum, TileSweep
from daskptycho.sync.coarse import are_linked, synchronise_coarsely
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.options import Synchronisation
from daskptycho.sync.phases import Phases
from daskptycho.sync.two_level import GalerkinRow, TileSum, find_tile_phases, galerkin_row, synchronise_tile
from daskptycho.tasks.layout import Layout, TileData, find_pairs
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import State, SweepSettings, model_on_tiles
from daskptycho.tasks.strips import Pieces, cut_labels, cut_strips

__all__ = ["choose_leave", "find_phases", "is_coarse", "join_tiles", "measure_row", "synchronise_swept"]

Array = Any


def is_coarse(data: TileData, at: TileModel, how: Synchronisation) -> bool:
    """Whether the phases of a tile's frames come from a coarse grid, so that a sweep need not keep frames."""
    if how.in_parts or how.normalisation is None or not isinstance(data.pairs, GramianBlock):
        return False
    return how.coarse and data.pairs.grid is not None and are_linked(data.pairs.grid, at.probe)


def choose_leave(
    data: TileData, at: TileModel, following: TileModel | None, settings: SweepSettings
) -> Leave:
    """The form in which a tile that is synchronised in the task of its sweep returns its frames."""
    if not is_coarse(data, following or at, settings.how):
        return "weighted frames"
    # The data projection alone turns no frame away from the image.
    turns = following is not None or getattr(settings.algorithm, "needs_waves", True)
    return "overlap sum and turns" if turns else "overlap sum"


def synchronise_swept(
    data: TileData, swept: TileSweep, illumination: Array, at: TileModel, how: Synchronisation
) -> TileSweep:
    """Synchronise the frames within a tile: the first level, in the task of the tile's sweep.

    `illumination` and `at` are those of the coming merge. The `TileSweep` returned holds a `TileSum`.
    """
    assert data.pairs is not None
    if isinstance(swept.left, OverlapSum):
        return swept._replace(left=_synchronise_coarsely(data, swept, illumination[...], at, how))
    weight = at.inverse_illumination(illumination[...])
    tile = at.locate(data.tile)
    block = find_pairs(data.pairs, tile)
    return swept._replace(left=synchronise_tile(tile, swept.left, block, weight, how, swept.misfit))


def _synchronise_coarsely(
    data: TileData, swept: TileSweep, illumination: Array, at: TileModel, how: Synchronisation
) -> TileSum:
    assert isinstance(data.pairs, GramianBlock)
    assert data.pairs.grid is not None
    assert swept.start is not None
    weight = at.inverse_illumination(illumination)
    misfit = swept.misfit if how.only_significant else None
    own = synchronise_coarsely(
        *(data.tile, data.pairs.grid, swept.left, swept.start[...], weight, at.probe, misfit),
        own=None if data.strips else illumination,
    )
    return TileSum(own.image_sum, own.found, own.power, agreement=own.agreement)


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
