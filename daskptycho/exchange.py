"""Strips between neighbouring tiles: all that one tile's task ever sends to another's.

`graph` and `two_level_graph` call this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask.delayed import Delayed

from daskptycho.geometry import Strip, Tiling
from daskptycho.tasks import task

__all__ = ["over_tiles", "strips_of"]

Array = Any


def _cut(image: Array, part: tuple[slice, slice]) -> Array:
    # No copy: a strip that stays on its worker takes no memory, and the image is needed as long anyway.
    return image[part]


def strips_of(
    sums: list[Delayed], tiling: Tiling, cut: Callable[[Any, tuple[slice, slice]], Array] = _cut
) -> list[tuple[list[Delayed], list[Strip]]]:
    """For each tile the pieces of other tiles' images that overlap with it, and which strips they are."""
    brought = []
    for tile in tiling.tiles:
        strips = list(tiling.strips_into(tile.index))
        brought.append(([task(cut, sums[strip.source], strip.from_source) for strip in strips], strips))
    return brought


def _add_strips(own: Array, pieces: list[Array], strips: list[Strip]) -> Array:
    total = own.copy()
    for piece, strip in zip(pieces, strips, strict=True):
        total[strip.to_target] += piece
    return total


def over_tiles(sums: list[Delayed], tiling: Tiling) -> list[Delayed]:
    """Each tile's sum with its neighbours' strips added: what the whole canvas holds on its window."""
    brought = strips_of(sums, tiling)
    return [
        task(_add_strips, own, pieces, strips) if strips else own
        for own, (pieces, strips) in zip(sums, brought, strict=True)
    ]
