"""A preview of the image with fewer pixels, averaged by tasks on the workers that hold the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.waiting import compute
from daskptycho.tiling import Shape, Tiling, Window

__all__ = ["Preview", "make_preview"]


@dataclass(frozen=True)
class Preview:
    """A part of the canvas, averaged over blocks of pixels.

    Attributes
    ----------
    image : (y, x) complex64 array
        Mean of the object over each block; 0 outside of all frames.
    illumination : (y, x) float32 array
        Mean of the illumination ``sum |P|^2`` over each block.
    window : Window
        The part of the canvas. The last blocks may extend beyond it.
    step : int
        Pixels of the canvas along a side of a block.
    """

    image: NDArray[np.complex64]
    illumination: NDArray[np.float32]
    window: Window
    step: int


class _Part(NamedTuple):
    """The contribution of a tile: sums over blocks, and numbers and pixels of these blocks on each axis."""

    image: NDArray
    illumination: NDArray
    blocks: tuple[NDArray[np.int64], NDArray[np.int64]]
    pixels: tuple[NDArray[np.int64], NDArray[np.int64]]


def make_preview(
    tiling: Tiling,
    images: Sequence[Value],
    illuminations: Sequence[Value],
    most: int,
    window: Window | None = None,
) -> Preview:
    """Compute a preview of the image.

    Parameters
    ----------
    tiling : Tiling
    images, illuminations : sequence of Value
        Image and illumination of each tile, (y, x) on its window.
    most : int
        Most pixels along a side of the preview.
    window : Window, optional
        A part of the canvas; all of it by default.
    """
    window = tiling.window if window is None else window
    step = -(-max(window.shape) // most)
    parts = [
        task(_thin, image, light, tile.window, tiling.period, window, step)
        for tile, image, light in zip(tiling.tiles, images, illuminations, strict=True)
        if tiling.period is not None or tile.window.intersection(window) is not None
    ]
    shape = tuple(-(-size // step) for size in window.shape)
    image, light, pixels = np.zeros(shape, np.complex128), np.zeros(shape), np.zeros(shape)
    for part in compute(parts):
        # Tiles hold the same merged pixels where they overlap, or nearly so after frames have moved. Counted
        # twice, these only have a larger weight.
        where = np.ix_(*part.blocks)
        np.add.at(image, where, part.image)
        np.add.at(light, where, part.illumination)
        np.add.at(pixels, where, np.multiply.outer(*part.pixels))
    pixels = np.maximum(pixels, 1)
    return Preview((image / pixels).astype(np.complex64), (light / pixels).astype(np.float32), window, step)


def _thin(
    image: Any, illumination: Any, of_tile: Window, period: Shape | None, window: Window, step: int
) -> _Part:
    """Sums of a tile's pixels over the blocks of the window."""
    selected, starts, blocks, pixels = [], [], [], []
    for axis, (first, size) in enumerate(((of_tile.y, of_tile.height), (of_tile.x, of_tile.width))):
        begin, length = ((window.y, window.height), (window.x, window.width))[axis]
        place = first - begin + np.arange(size)
        if period is not None:
            place %= period[axis]
        inside = np.flatnonzero((place >= 0) & (place < length))
        block = place[inside] // step
        start = np.flatnonzero(np.diff(block, prepend=-1))
        selected.append(inside)
        starts.append(start)
        blocks.append(block[start])
        pixels.append(np.diff(start, append=len(block)))
    here = np.ix_(*selected)
    sums = [_block_sums(to_host(values[...])[here], starts) for values in (image, illumination)]
    return _Part(sums[0], sums[1], (blocks[0], blocks[1]), (pixels[0], pixels[1]))


def _block_sums(values: NDArray, starts: list[NDArray[np.int64]]) -> NDArray:
    if not values.size:
        return np.zeros((len(starts[0]), len(starts[1])), dtype=values.dtype)
    return np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
