"""Strips: the parts of a tile's image that the tasks of neighbouring tiles need.

A strip that is sent to another process is cut out in a separate task. From a tile in the same process a task
takes the whole image and cuts the strip itself. That saves most of a sweep's tasks, whose number the
scheduler limits first (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from daskptycho.model.sweep import TileSweep
from daskptycho.sync.tile_parts import Labels
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, in_one_process, task
from daskptycho.tiling import Strip

__all__ = ["Pieces", "add_neighbours", "bring_strips", "cut_labels", "cut_strips"]

Array = Any
Pieces = list[Any]
"""For each strip of a tile, in order: the whole value of the neighbour, or only the strip (`CutStrip`)."""


class CutStrip(NamedTuple):
    """The pixels of a strip, cut out to be sent to another process."""

    pixels: Array
    labels: Labels
    """The part of the neighbour that each belongs to."""


def _image_of(source: Any) -> Array:
    """The (y, x) image to cut strips from: the overlap sum of a `TileSweep`, or the image itself."""
    return source.left.image_sum if isinstance(source, TileSweep) else source


def _labels_of(source: Any) -> Labels:
    is_tile_sum = isinstance(source, TileSweep) and isinstance(source.left, TileSum)
    return source.left.labels if is_tile_sum else Labels()


def _cut_strip(source: Any, strip: Strip) -> CutStrip:
    return CutStrip(_image_of(source)[strip.from_source], _labels_of(source).cut(strip.from_source))


def bring_strips(layout: Layout, sources: list[Value]) -> list[list[Value]]:
    """Bring to each tile the parts of other tiles' images that overlap it.

    Parameters
    ----------
    layout : Layout
    sources : list of Value
        For each tile its `TileSweep`, or an image on its window.

    Returns
    -------
    list of lists of Value
        For each tile the `Pieces` from which `cut_strips` gets the pixels.
    """
    share_process = in_one_process(len(sources))
    return [
        [
            sources[strip.source]
            if share_process(strip.source, strip.target)
            else task(_cut_strip, sources[strip.source], strip)
            for strip in layout.tiling.strips_into(tile.index)
        ]
        for tile in layout.tiling.tiles
    ]


def cut_strips(pieces: Pieces, strips: list[Strip]) -> Iterator[Array]:
    """Yield the pixels of each strip, (y, x)."""
    for piece, strip in zip(pieces, strips, strict=True):
        yield piece.pixels if isinstance(piece, CutStrip) else _image_of(piece)[strip.from_source]


def cut_labels(pieces: Pieces, strips: list[Strip]) -> Iterator[Labels]:
    """Yield the parts of the neighbours that the pixels of each strip belong to."""
    for piece, strip in zip(pieces, strips, strict=True):
        yield piece.labels if isinstance(piece, CutStrip) else _labels_of(piece).cut(strip.from_source)


def _add_strips(data: TileData, own: Array, pieces: Pieces) -> Array:
    total = own[...].copy()
    for strip, pixels in zip(data.strips, cut_strips(pieces, data.strips), strict=True):
        total[strip.to_target] += pixels
    return total


def add_neighbours(layout: Layout, images: list[Value]) -> list[Value]:
    """Add the strips of its neighbours to each tile's image: the sum over all tiles, on its window."""
    brought = bring_strips(layout, images)
    return [
        task(layout.storing(_add_strips), data, own, pieces) if pieces else own
        for data, own, pieces in zip(layout.tiles, images, brought, strict=True)
    ]
