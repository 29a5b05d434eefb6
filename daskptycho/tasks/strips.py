"""Strips between neighbouring tiles: all that one tile's task ever sends to another's.

`graph` and `two_level_graph` call this module. A strip that has to travel is cut out in a task of its own. A
neighbour in the same process is read where it lies: that saves most of a sweep's tasks, and what breaks first
is the scheduler (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dask.delayed import Delayed

from daskptycho.tasks.plan import Plan
from daskptycho.tasks.spec import task, together
from daskptycho.tiling import Strip, Tiling

__all__ = ["over_tiles", "strips_of", "taken"]

Array = Any

WHOLE = (slice(None), slice(None))


def _itself(image: Array) -> Array:
    return image


def _cut(source: Any, strip: Strip, image_of: Callable[[Any], Array]) -> Array:
    return taken(source, strip, image_of)


def strips_of(
    sums: list[Delayed], tiling: Tiling, image_of: Callable[[Any], Array] = _itself
) -> list[tuple[list[Delayed], list[Strip]]]:
    """For each tile what overlaps with it of other tiles' images, to be `taken` by its strips.

    Parameters
    ----------
    sums : list of Delayed
        Of each tile.
    tiling : Tiling
    image_of : callable
        The (y, x) image that strips are of, from a tile's sum.
    """
    beside = together(len(tiling.tiles))
    brought = []
    for tile in tiling.tiles:
        pieces, strips = [], []
        for strip in tiling.strips_into(tile.index):
            near = beside(strip.source, strip.target)
            pieces.append(sums[strip.source] if near else task(_cut, sums[strip.source], strip, image_of))
            strips.append(strip if near else replace(strip, from_source=WHOLE))
        brought.append((pieces, strips))
    return brought


def taken(piece: Any, strip: Strip, image_of: Callable[[Any], Array] = _itself) -> Array:
    """The strip's pixels: of a neighbour's sum, or of what was cut from it."""
    return (piece if strip.from_source == WHOLE else image_of(piece))[strip.from_source]


def _add_strips(own: Array, pieces: list[Array], strips: list[Strip]) -> Array:
    total = own[...].copy()
    for piece, strip in zip(pieces, strips, strict=True):
        total[strip.to_target] += taken(piece, strip)
    return total


def over_tiles(plan: Plan, sums: list[Delayed]) -> list[Delayed]:
    """Each tile's sum with its neighbours' strips added: what the whole canvas holds on its window."""
    brought = strips_of(sums, plan.tiling)
    return [
        task(plan.leaving(_add_strips), own, pieces, strips) if strips else own
        for own, (pieces, strips) in zip(sums, brought, strict=True)
    ]
