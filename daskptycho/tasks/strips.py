"""Strips between neighbouring tiles: all that one tile's task ever sends to another's.

A strip that has to travel is cut out in a task of its own. A neighbour in the same process is read where it
lies: that saves most of a sweep's tasks, and what breaks first is the scheduler (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from daskptycho.model.sweep import TileSweep
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, in_one_process, task
from daskptycho.tiling import Strip

__all__ = ["Pieces", "add_neighbours", "bring_strips", "cut_strips"]

Array = Any
Pieces = list[Any]
"""In the order of a tile's strips: a neighbour's whole value, or what was cut from it (`CutStrip`)."""


class CutStrip(NamedTuple):
    """The pixels of a strip, on their way to another process."""

    pixels: Array


def _image_of(source: Any) -> Array:
    """The (y, x) image that strips are of: a tile's overlap sum, or an image itself."""
    return source.left.image_sum if isinstance(source, TileSweep) else source


def _cut_strip(source: Any, strip: Strip) -> CutStrip:
    return CutStrip(_image_of(source)[strip.from_source])


def bring_strips(layout: Layout, sources: list[Value]) -> list[list[Value]]:
    """For each tile what overlaps with it of other tiles' images, to be cut by `cut_strips`.

    Parameters
    ----------
    layout : Layout
    sources : list of Value
        Of each tile its `TileSweep`, or an image on its window.
    """
    beside = in_one_process(len(sources))
    return [
        [
            sources[strip.source]
            if beside(strip.source, strip.target)
            else task(_cut_strip, sources[strip.source], strip)
            for strip in layout.tiling.strips_into(tile.index)
        ]
        for tile in layout.tiling.tiles
    ]


def cut_strips(pieces: Pieces, strips: list[Strip]) -> Iterator[Array]:
    """The pixels of each strip, one after the other."""
    for piece, strip in zip(pieces, strips, strict=True):
        yield piece.pixels if isinstance(piece, CutStrip) else _image_of(piece)[strip.from_source]


def _add_strips(data: TileData, own: Array, pieces: Pieces) -> Array:
    total = own[...].copy()
    for strip, pixels in zip(data.strips, cut_strips(pieces, data.strips), strict=True):
        total[strip.to_target] += pixels
    return total


def add_neighbours(layout: Layout, images: list[Value]) -> list[Value]:
    """Each tile's image with its neighbours' strips added: what the whole canvas holds on its window."""
    brought = bring_strips(layout, images)
    return [
        task(layout.storing(_add_strips), data, own, pieces) if pieces else own
        for data, own, pieces in zip(layout.tiles, images, brought, strict=True)
    ]
