"""Tiles whose frames fall into parts: the pixels of each part, and its elements of G.

Most tiles have one part and need nothing of this. Frames that do not overlap share no pixels, so that one
overlap sum and the part of each of its pixels are enough for the overlap sums of all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, to_host
from daskptycho.model.operators import illuminate
from daskptycho.sync.parts import Groups
from daskptycho.tiling import Strip, Tile, Window

__all__ = ["Labels", "RowParts", "TileParts", "label_pixels", "row_of_parts"]

Array = Any


class Labels(NamedTuple):
    """The part that each pixel of a tile, or of a strip of it, belongs to."""

    label: Array | None = None
    """(y, x) int32; None if the tile has one part."""
    box: NDArray[np.int64] | None = None
    """(part, 2, 2) first pixel of each part in the tile's window and the one after its last, [y, x]."""

    def cut(self, strip: tuple[slice, slice]) -> Labels:
        """Those of the pixels of a strip."""
        return self if self.label is None else self._replace(label=self.label[strip])

    def with_images(self, convert: Callable[[Array], Any]) -> Labels:
        """The same with `convert` applied to the label."""
        return self if self.label is None else self._replace(label=convert(self.label))


class TileParts(NamedTuple):
    """The parts of a tile whose frames no bright link within the tile holds together, on the host.

    Each part has a phase of its own, and is an element of G.
    """

    g: NDArray[np.complex128]
    """(part, part) elements of G between them."""
    power: NDArray[np.float64]
    """(part,) ``sum |z_i|^2``."""
    frames: NDArray[np.int64]
    """(part,) number of frames."""


class RowParts(NamedTuple):
    """The parts of tiles that the entries of a `GalerkinRow` belong to."""

    row: NDArray[np.int64]
    """(entry,) parts of the tile itself."""
    column: NDArray[np.int64]
    """(entry,) parts of the tiles of the columns."""
    power: NDArray[np.float64]
    """(part,) ``sum |z_i|^2`` of each part of the tile itself; empty if it has one part."""
    frames: NDArray[np.int64]
    """(part,) number of frames of each."""


def label_pixels(tile: Tile, frames: Array, groups: Groups) -> Labels:
    """Find the part that lights each pixel of a tile most.

    Parts share pixels only where a link between them is faint.

    Parameters
    ----------
    tile : Tile
    frames : (frame, N, N) complex64 array
        Weighted frames.
    groups : Groups
        The parts.
    """
    xp, shape = array_module(frames), tile.window.shape
    label, brightest = xp.zeros(shape, dtype=np.int32), xp.zeros(shape, dtype=np.float32)
    boxes = []
    for number, members in enumerate(groups.members):
        corner = tile.corner[members]
        window = Window.from_corners(corner, frames.shape[-2:])
        inside = Window(0, 0, *shape).slices_of(window)
        own = frames[xp.asarray(members)][:, None]
        light = illuminate(own, corner - (window.y, window.x), window.shape)
        label[inside][light > brightest[inside]] = number
        brightest[inside] = xp.maximum(brightest[inside], light)
        boxes.append([[part.start for part in inside], [part.stop for part in inside]])
    return Labels(label, np.array(boxes))


class _Entry(NamedTuple):
    """An element of G."""

    row: int
    tile: int
    column: int
    value: Any


def row_of_parts(
    index: int,
    image_sum: Array,
    weighted: Array,
    parts: TileParts | None,
    labels: Labels,
    neighbours: Iterable[tuple[Array, Labels, Strip]],
) -> tuple[NDArray[np.int64], NDArray[np.complex128], RowParts]:
    """Compute the rows of G of the parts of a tile.

    Parameters
    ----------
    index : int
        Number of the tile.
    image_sum : (y, x) complex64 array
        Overlap sum of the tile.
    weighted : (y, x) complex64 array
        Its conjugate, divided by N.
    parts : TileParts or None
        None if the tile has one part.
    labels : Labels
        Those of the tile.
    neighbours : iterable of (pixels, Labels, Strip)
        The strips of other tiles.

    Returns
    -------
    tiles, values, parts
        As in `two_level.GalerkinRow`.
    """
    if parts is None:
        entries = [_Entry(0, index, 0, (weighted * image_sum).sum(dtype=np.complex128))]
    else:
        # From H: it holds the faint links too, and those of frames that meet across the period.
        number = range(len(parts.power))
        entries = [_Entry(r, index, c, parts.g[r, c]) for r in number for c in number if parts.g[r, c]]
    for pixels, of_strip, strip in neighbours:
        if parts is None or strip.source != index:
            entries += [
                _Entry(row, strip.source, column, value)
                for row, column, value in _meet(weighted, labels, pixels, of_strip, strip)
            ]
    rows, tiles, columns = (
        np.array(numbers, dtype=np.int64)
        for numbers in zip(*((own.row, own.tile, own.column) for own in entries), strict=True)
    )
    values = np.array([complex(to_host(own.value)) for own in entries])
    power = np.zeros(0) if parts is None else parts.power
    frames = np.zeros(0, dtype=np.int64) if parts is None else parts.frames
    return tiles, values, RowParts(rows, columns, power, frames)


def _meet(
    weighted: Array, own: Labels, pixels: Array, other: Labels, strip: Strip
) -> Iterator[tuple[int, int, Any]]:
    """The parts of two tiles that meet in a strip, and ``sum_r conj(O_t) O_u / N`` over their pixels."""
    for row, rows in enumerate(_boxes_in(own, strip.to_target)):
        for column, columns in enumerate(_boxes_in(other, strip.from_source)):
            first, last = np.maximum(rows[0], columns[0]), np.minimum(rows[1], columns[1])
            if (first >= last).any():
                continue
            here = (slice(first[0], last[0]), slice(first[1], last[1]))
            product = weighted[strip.to_target][here] * pixels[here]
            if own.label is not None:
                product = product * (own.label[strip.to_target][here] == row)
            if other.label is not None:
                product = product * (other.label[here] == column)
            yield row, column, product.sum(dtype=np.complex128)


def _boxes_in(labels: Labels, strip: tuple[slice, slice]) -> NDArray[np.int64]:
    """The boxes of the parts, as pixels of a strip."""
    start, stop = ([getattr(part, name) for part in strip] for name in ("start", "stop"))
    box = np.array([[start, stop]]) if labels.box is None else labels.box
    return np.clip(box, start, stop) - start
