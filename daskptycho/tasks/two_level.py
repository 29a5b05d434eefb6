"""The part of the Dask graph that synchronises on two levels: tiles in themselves, then tile by tile.

Only `graph` and `start` call this module; it puts the functions of `two_level` into tasks. The strips that G
needs are those that the merge needs: each is sent once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dask.delayed import Delayed

from daskptycho.model.algorithms import Weighted
from daskptycho.model.operators import inverse_illumination
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.phases import Normalisation, Phases, Sync
from daskptycho.sync.two_level import GalerkinRow, TileSum, galerkin_row, synchronise_tile, tile_phases
from daskptycho.tasks.plan import PairsToFind, Plan, pairs_within
from daskptycho.tasks.spec import task
from daskptycho.tasks.strips import strips_of, taken
from daskptycho.tiling import Strip, Tile

__all__ = ["TwoLevel", "join_tiles", "synchronised_tile"]

Array = Any


def synchronised_tile(
    tile: Tile,
    weighted: Weighted,
    pairs: GramianBlock | PairsToFind,
    illumination: Array,
    probe: Array,
    misfit: float,
    sync: Sync,
    normalisation: Normalisation,
) -> TileSum:
    """The first level, in a tile's own task; `illumination` and `probe` are those of the merge."""
    weight = inverse_illumination(illumination[...], probe)
    block = pairs_within(pairs, tile)
    return synchronise_tile(tile, weighted, block, weight, sync, normalisation, misfit)


class TwoLevel(NamedTuple):
    """What a two-level synchronisation leaves."""

    images: list[Delayed]
    """The tiles' images, merged."""
    phases: list[Delayed]
    """Of each tile's frames, both levels together."""
    found: Delayed
    """`Phases` of the tiles."""


def _image_sum(own: TileSum) -> Array:
    return own.image_sum


def _row(
    index: int, own: TileSum, pieces: list[Any], strips: list[Strip], illumination: Array, probe: Array
) -> GalerkinRow:
    cut = [taken(piece, strip, _image_sum) for piece, strip in zip(pieces, strips, strict=True)]
    own = own._replace(image_sum=own.image_sum[...])
    return galerkin_row(index, own, cut, strips, inverse_illumination(illumination[...], probe))


def _tile_phases(
    rows: list[GalerkinRow], misfits: list[float], counts: float, sync: Sync, normalisation: Normalisation
) -> Phases:
    return tile_phases(rows, sync, normalisation, sum(misfits) / counts)


def _merge(
    index: int,
    own: TileSum,
    pieces: list[Any],
    strips: list[Strip],
    found: Phases,
    illumination: Array,
    probe: Array,
) -> Array:
    total = own.image_sum[...] * found.phase[index]
    for piece, strip in zip(pieces, strips, strict=True):
        total[strip.to_target] += taken(piece, strip, _image_sum) * found.phase[strip.source]
    total *= inverse_illumination(illumination[...], probe)
    return total


def _phase_of_frames(own: TileSum, found: Phases, index: int) -> Array:
    return own.found.phase * found.phase[index]


def join_tiles(
    plan: Plan,
    sums: list[Delayed],
    lit: list[Delayed],
    probe: Delayed,
    sync: Sync,
    normalisation: Normalisation,
    misfits: list[Delayed],
    counts: float,
) -> TwoLevel:
    """Synchronise tiles among each other, and merge, in one round of communication.

    Parameters
    ----------
    plan : Plan
    sums, lit, probe, misfits : Delayed
        `TileSum`, illumination and misfit of each tile; the probe.
    sync : Sync
    normalisation : "frame" or "degree"
    counts : float
        sum a^2 over all valid pixels.
    """
    brought = strips_of(sums, plan.tiling, _image_sum)
    rows = [
        task(_row, index, own, pieces, strips, lit[index], probe)
        for index, (own, (pieces, strips)) in enumerate(zip(sums, brought, strict=True))
    ]
    found = task(_tile_phases, rows, misfits, counts, sync, normalisation)
    images = [
        task(plan.leaving(_merge), index, own, pieces, strips, found, lit[index], probe)
        for index, (own, (pieces, strips)) in enumerate(zip(sums, brought, strict=True))
    ]
    phases = [task(_phase_of_frames, own, found, index) for index, own in enumerate(sums)]
    return TwoLevel(images, phases, found)
