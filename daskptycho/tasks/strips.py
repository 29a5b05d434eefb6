"""Strips: the parts of a tile's image that the tasks of neighbouring tiles need.

All strips that one process sends to another are cut out in one task. From a tile in the same process a task
takes the whole image and cuts the strip itself. That saves most of a sweep's tasks, whose number the
scheduler limits first (docs/scale.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from daskptycho.backend import array_module
from daskptycho.model.sweep import TileSweep
from daskptycho.sync.tile_parts import Labels
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, find_processes, task
from daskptycho.tiling import Strip

__all__ = [
    "Pieces",
    "add_neighbours",
    "add_unturned",
    "bring_strips",
    "cut_labels",
    "cut_strips",
    "share_neighbours",
    "share_pixels",
]

Array = Any
Pieces = list[Any]
"""For each strip of a tile, in order: the whole value of the neighbour, or `Parcel`."""


class CutStrip(NamedTuple):
    """The pixels of a strip, cut out to be sent to another process."""

    pixels: Array
    labels: Labels
    """The part of the neighbour that each belongs to."""
    unturned: Array | None = None
    """Those of `TileSweep.unturned`, if there is one."""


Parcel = dict[tuple[int, int], CutStrip]
"""What one process sends to another, by the tile and by the number of the strip among those of the tile."""


def _image_of(source: Any) -> Array:
    """The (y, x) image to cut strips from: the overlap sum of a `TileSweep`, or the image itself."""
    return source.left.image_sum if isinstance(source, TileSweep) else source


def _labels_of(source: Any) -> Labels:
    is_tile_sum = isinstance(source, TileSweep) and isinstance(source.left, TileSum)
    return source.left.labels if is_tile_sum else Labels()


def _cut_strip(source: Any, strip: Strip) -> CutStrip:
    unturned = source.unturned if isinstance(source, TileSweep) else None
    part = strip.from_source
    cut = None if unturned is None else unturned[part]
    return CutStrip(_image_of(source)[part], _labels_of(source).cut(part), cut)


def _cut_strips(sources: list[Any], tiles: list[int], strips: list[tuple[int, Strip]]) -> Parcel:
    by_tile = dict(zip(tiles, sources, strict=True))
    return {(strip.target, number): _cut_strip(by_tile[strip.source], strip) for number, strip in strips}


def bring_strips(layout: Layout, sources: Sequence[Value | None]) -> list[list[Any]]:
    """Bring to each tile the parts of other tiles' images that overlap it.

    Parameters
    ----------
    layout : Layout
    sources : sequence of Value or None
        For each tile its `TileSweep`, or an image on its window; None if there is nothing to bring.

    Returns
    -------
    list of lists of Value
        For each tile the `Pieces` from which `cut_strips` gets the pixels.
    """
    process = find_processes(len(sources))
    brought: list[list[Any]] = []
    sent: dict[tuple[str, str], list[tuple[int, Strip]]] = {}
    for tile in layout.tiling.tiles:
        strips = layout.tiling.strips_into(tile.index)
        brought.append([sources[strip.source] for strip in strips])
        for number, strip in enumerate(strips):
            way = (process[strip.source], process[strip.target])
            if sources[strip.source] is not None and way[0] != way[1]:
                sent.setdefault(way, []).append((number, strip))
    for parcel in sent.values():
        tiles = sorted({strip.source for _, strip in parcel})
        cut = task(_cut_strips, [sources[tile] for tile in tiles], tiles, parcel)
        for number, strip in parcel:
            brought[strip.target][number] = cut
    return brought


def _open_pieces(pieces: Pieces, strips: list[Strip]) -> Iterator[tuple[Strip, Any]]:
    """Yield each strip of a tile with the whole value of its neighbour, its `CutStrip`, or None."""
    for number, (piece, strip) in enumerate(zip(pieces, strips, strict=True)):
        yield strip, piece[strip.target, number] if isinstance(piece, dict) else piece


def _pixels_of(piece: Any, strip: Strip) -> Array:
    return piece.pixels if isinstance(piece, CutStrip) else _image_of(piece)[strip.from_source]


def cut_strips(pieces: Pieces, strips: list[Strip]) -> Iterator[Array]:
    """Yield the pixels of each strip of a tile, (y, x)."""
    for strip, piece in _open_pieces(pieces, strips):
        yield _pixels_of(piece, strip)


def add_unturned(own: TileSweep, pieces: Pieces, strips: list[Strip], total: Array) -> None:
    """Add the sums without phases of a tile and of its strips to `total`, (y, x) complex64, in place."""
    if own.unturned is None:
        return
    total += own.unturned[...]
    for strip, piece in _open_pieces(pieces, strips):
        # Pixels that were cut out are those of the strip already.
        cut = isinstance(piece, CutStrip)
        total[strip.to_target] += piece.unturned if cut else piece.unturned[strip.from_source]


def share_pixels(window: Array, strips: list[Strip]) -> Array:
    """One divided by the number of tiles that hold each pixel of a tile's window, (y, x) float32.

    `window` is any array on the window; the result is on its device.
    """
    held = array_module(window).ones(window.shape, dtype=np.float32)
    for strip in strips:
        held[strip.to_target] += 1
    return np.float32(1) / held


def share_neighbours(window: Array, strips: list[Strip]) -> tuple[Array, Array]:
    """One divided by the number of tiles that hold both of two neighbours, along y and along x, float32."""
    xp, (height, width) = array_module(window), window.shape
    down = xp.ones((height - 1, width), dtype=np.float32)
    across = xp.ones((height, width - 1), dtype=np.float32)
    for strip in strips:
        rows, columns = strip.to_target
        down[rows.start : rows.stop - 1, columns] += 1
        across[rows, columns.start : columns.stop - 1] += 1
    return np.float32(1) / down, np.float32(1) / across


def cut_labels(pieces: Pieces, strips: list[Strip]) -> Iterator[Labels]:
    """Yield the parts of the neighbours that the pixels of each strip belong to."""
    for strip, piece in _open_pieces(pieces, strips):
        yield piece.labels if isinstance(piece, CutStrip) else _labels_of(piece).cut(strip.from_source)


def _add_strips(data: TileData, own: Array | None, pieces: Pieces) -> Array:
    total = None if own is None else own[...].copy()
    for strip, piece in _open_pieces(pieces, data.strips):
        if piece is None:
            continue
        pixels = _pixels_of(piece, strip)
        if total is None:
            total = array_module(pixels).zeros(data.tile.window.shape, dtype=pixels.dtype)
        total[strip.to_target] += pixels
    return total


def add_neighbours(layout: Layout, images: Sequence[Value | None]) -> list[Any]:
    """Add the strips of its neighbours to each tile's image: the sum over all tiles, on its window.

    None stands for zeros, among the images and in the result.
    """
    brought = bring_strips(layout, images)
    return [
        task(layout.storing(_add_strips), data, own, pieces)
        if any(piece is not None for piece in pieces)
        else own
        for data, own, pieces in zip(layout.tiles, images, brought, strict=True)
    ]
