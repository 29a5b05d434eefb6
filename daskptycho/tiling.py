"""Where frames lie: their order, tiles, windows, strips, and the pairs of frames that overlap.

Positions are in object pixels, ``[y, x]``, and name the top-left corner of a frame. This module knows
positions and shapes only; it reads no data, uses no array library but NumPy, and every other module may
import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

__all__ = [
    "Pairs",
    "Strip",
    "Tile",
    "Tiling",
    "Window",
    "assign_worker",
    "compact_order",
    "make_tiling",
    "overlapping_pairs",
    "split_position",
]

Shape = tuple[int, int]

# A position this close to a whole pixel counts as that pixel: the phase ramp of the rest would change the
# outermost frequency by less than float32 can tell from the photon noise of a frame.
WHOLE_PIXEL = 1e-3


def compact_order(position: NDArray, tile_frames: int) -> NDArray[np.int64]:
    """Order of the frames in which each `tile_frames` consecutive ones are a spatially compact tile.

    The frames are halved repeatedly across the longer side of their bounding box, at a multiple of
    `tile_frames`, so that every tile but the last is full. Inside a tile the frames keep the order of
    acquisition. Frames that are in this order already stay in it.

    Parameters
    ----------
    position : (frame, 2) array
        Scan positions in any unit.
    tile_frames : int
        Number of frames in a tile, at least one.

    Returns
    -------
    (frame,) int64 array
        ``position[order]`` is sorted into tiles.
    """
    if tile_frames < 1:
        raise ValueError(f"tile_frames is {tile_frames}; expected at least 1")
    position = np.asarray(position, dtype=float)
    tiles: list[NDArray[np.int64]] = []
    pending = [np.arange(len(position))]
    while pending:
        frames = pending.pop()
        count = -(-len(frames) // tile_frames)
        if count <= 1:
            tiles.append(np.sort(frames))
            continue
        axis = int(np.argmax(np.ptp(position[frames], axis=0)))
        # Ties are broken by the number of the frame, which makes the order idempotent.
        frames = frames[np.lexsort((frames, position[frames, axis]))]
        middle = (count // 2) * tile_frames
        pending.append(frames[middle:])
        pending.append(frames[:middle])
    return np.concatenate(tiles) if tiles else np.zeros(0, dtype=np.int64)


def split_position(position: NDArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Split each position into a whole pixel and a fraction.

    Parameters
    ----------
    position : (frame, 2) array
        In pixels.

    Returns
    -------
    corner : (frame, 2) int64 array
        The nearest whole pixel.
    fraction : (frame, 2) float64 array
        ``position - corner``, from -0.5 to 0.5; exactly zero within a thousandth of a pixel.
    """
    position = np.asarray(position, dtype=float)
    corner = np.rint(position).astype(np.int64)
    fraction = position - corner
    fraction[np.abs(fraction) < WHOLE_PIXEL] = 0.0
    return corner, fraction


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas, given by its first pixel and its size in pixels.

    On a periodic canvas it may extend past the period.
    """

    y: int
    x: int
    height: int
    width: int

    @property
    def shape(self) -> Shape:
        return (self.height, self.width)

    def shift(self, dy: int, dx: int) -> Window:
        """The window of the same size, shifted by this number of pixels."""
        return Window(self.y + dy, self.x + dx, self.height, self.width)

    def grow(self, margin: int) -> Window:
        """The window with this number of pixels more on each side."""
        return Window(self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin)

    def intersection(self, other: Window) -> Window | None:
        """The rectangle that both windows share, or None."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - y
        width = min(self.x + self.width, other.x + other.width) - x
        return Window(y, x, height, width) if height > 0 and width > 0 else None

    def slices_of(self, inner: Window) -> tuple[slice, slice]:
        """Slices of an image of this window that are the image of the window `inner`."""
        y, x = inner.y - self.y, inner.x - self.x
        return slice(y, y + inner.height), slice(x, x + inner.width)

    @staticmethod
    def from_corners(corner: NDArray, frame_shape: Shape) -> Window:
        """The bounding box of the frames at these corners, a (frame, 2) array."""
        low, high = corner.min(axis=0), corner.max(axis=0)
        return Window(
            int(low[0]),
            int(low[1]),
            int(high[0] - low[0]) + frame_shape[0],
            int(high[1] - low[1]) + frame_shape[1],
        )


@dataclass(frozen=True)
class Tile:
    """The frames of one tile.

    Attributes
    ----------
    index : int
        Number of the tile.
    frames : slice
        Its frames in the order of the scan.
    window : Window
        The part of the canvas that its frames cover, with a margin within which they may move.
    corner : (frame, 2) int64 array
        Corner of each frame inside `window`.
    fraction : (frame, 2) float64 array
        Remaining fraction of a pixel of each position.
    """

    index: int
    frames: slice
    window: Window
    corner: NDArray[np.int64]
    fraction: NDArray[np.float64]

    def __len__(self) -> int:
        return self.frames.stop - self.frames.start

    @property
    def is_whole_pixel(self) -> bool:
        """Whether all frames lie on whole pixels."""
        return not self.fraction.any()


@dataclass(frozen=True)
class Strip:
    """Pixels that tile `target` shares with tile `source`, as slices of the window of each."""

    source: int
    target: int
    from_source: tuple[slice, slice]
    to_target: tuple[slice, slice]


def assign_worker(tile: int, tiles: int, workers: int) -> int:
    """Number of the worker that a tile belongs to. Workers have consecutive tiles, which are neighbours."""
    return tile * workers // tiles


@dataclass(frozen=True)
class Tiling:
    """All tiles of a scan on its canvas.

    Attributes
    ----------
    frame_shape : (int, int)
    window : Window
        The whole canvas: the bounding box of all frames with its margin, or one period.
    period : (int, int) or None
        Size of a canvas that wraps round, in pixels.
    corner : (frame, 2) int64 array
        Whole-pixel corner of each frame on the canvas.
    tiles : tuple of Tile
    strips : tuple of Strip
        What has to be added to the overlap image of each tile to make it that of the whole canvas. A tile
        that wraps round onto itself has strips from itself.
    """

    frame_shape: Shape
    window: Window
    period: Shape | None
    corner: NDArray[np.int64]
    tiles: tuple[Tile, ...]
    strips: tuple[Strip, ...]

    def strips_into(self, target: int) -> list[Strip]:
        """The strips that a tile receives."""
        return self._strips_of_target.get(target, [])

    def strips_between_workers(self, workers: int) -> list[Strip]:
        """The strips that travel if `assign_worker` assigns the tiles to this number of workers."""
        worker = [assign_worker(tile, len(self.tiles), workers) for tile in range(len(self.tiles))]
        return [strip for strip in self.strips if worker[strip.source] != worker[strip.target]]

    def cut(self, canvas: NDArray, window: Window) -> NDArray:
        """The part of an array on the canvas that lies under a window, wrapped round with the period."""
        rows, columns = self.indices(window)
        return np.ascontiguousarray(canvas[np.ix_(rows, columns)])

    def indices(self, window: Window) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the canvas that lie under a window."""
        rows = np.arange(window.height) + window.y - self.window.y
        columns = np.arange(window.width) + window.x - self.window.x
        if self.period is not None:
            rows, columns = rows % self.period[0], columns % self.period[1]
        return rows, columns

    def whole_periods(self, window: Window) -> list[Shape]:
        """Shifts by whole periods at which frames of the canvas can meet a window.

        Only (0, 0) without a period.
        """
        return _whole_periods(window, self.period)

    @cached_property
    def _strips_of_target(self) -> dict[int, list[Strip]]:
        into: dict[int, list[Strip]] = {}
        for strip in self.strips:
            into.setdefault(strip.target, []).append(strip)
        return into


def make_tiling(
    position: NDArray,
    frame_shape: Shape,
    chunks: tuple[int, ...],
    *,
    period: Shape | None = None,
    whole_pixel: bool = False,
    margin: int = 0,
) -> Tiling:
    """Lay out the tiles of a scan.

    Parameters
    ----------
    position : (frame, 2) array
        Positions in pixels, sorted into tiles.
    frame_shape : (int, int)
    chunks : tuple of int
        Number of frames in each tile.
    period : (int, int), optional
        Size of a canvas that wraps round, in pixels.
    whole_pixel : bool
        Round the positions to whole pixels.
    margin : int
        Pixels around the frames of a tile, and around the canvas, within which frames may move.
    """
    corner, fraction = split_position(position)
    if whole_pixel:
        fraction = np.zeros_like(fraction)
    tiles = []
    start = 0
    for index, count in enumerate(chunks):
        frames = slice(start, start + count)
        window = Window.from_corners(corner[frames], frame_shape).grow(margin)
        local = corner[frames] - (window.y, window.x)
        tiles.append(Tile(index, frames, window, local, fraction[frames]))
        start += count
    lit = Window.from_corners(corner, frame_shape).grow(margin)
    canvas = lit if period is None else Window(0, 0, *period)
    return Tiling(frame_shape, canvas, period, corner, tuple(tiles), _find_strips(tiles, period))


def _find_strips(tiles: list[Tile], period: Shape | None) -> tuple[Strip, ...]:
    """Every overlap between the windows of two tiles, also across the period."""
    centre = np.array([[t.window.y + t.window.height / 2, t.window.x + t.window.width / 2] for t in tiles])
    reach = np.array([[t.window.height / 2, t.window.width / 2] for t in tiles]).max(axis=0)
    # Scaled by the largest half window, two windows can only meet within a distance of two.
    tree = KDTree(centre / reach)
    strips = []
    for target in tiles:
        for wrap in _whole_periods(target.window, period):
            near = tree.query_ball_point((centre[target.index] - wrap) / reach, 2.0, p=np.inf)
            for source_index in sorted(near):
                source = tiles[source_index].window.shift(*wrap)
                if source_index == target.index and wrap == (0, 0):
                    continue
                shared = source.intersection(target.window)
                if shared is not None:
                    strips.append(
                        Strip(
                            source_index,
                            target.index,
                            source.slices_of(shared),
                            target.window.slices_of(shared),
                        )
                    )
    return tuple(strips)


def _whole_periods(window: Window, period: Shape | None) -> list[Shape]:
    """Shifts by whole periods that can make another window meet this one."""
    if period is None:
        return [(0, 0)]
    most = [size // length + 1 for size, length in zip(window.shape, period, strict=True)]
    return [(a * period[0], b * period[1]) for a, b in product(*(range(-n, n + 1) for n in most))]


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs of frames: each pair once, and each frame with itself.

    Attributes
    ----------
    first, second : (pair,) int64 arrays
        Frame numbers, ``first <= second``.
    offset : (pair, 2) int64 array
        Corner of `second` minus corner of `first`, across the period where that is shorter.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    offset: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)


def overlapping_pairs(corner: NDArray, frame_shape: Shape, period: Shape | None = None) -> Pairs:
    """All pairs of frames that share at least one pixel.

    Parameters
    ----------
    corner : (frame, 2) int array
    frame_shape : (int, int)
    period : (int, int), optional
        Size of a canvas that wraps round, in pixels.

    Raises
    ------
    ValueError
        The period is less than twice the frame, so that two frames could meet on both sides.
    """
    corner = np.asarray(corner, dtype=np.int64)
    size = np.array(frame_shape)
    boxsize = None
    points = corner.astype(float)
    if period is not None:
        wrap = np.array(period)
        if np.any(wrap < 2 * size):
            raise ValueError(f"period is {period} pixels; expected at least twice the frame, {frame_shape}")
        points = np.mod(points, wrap)
        boxsize = wrap / size
    # In units of the frame, two frames overlap if they are nearer than one along both axes. Corners are whole
    # pixels, so that half a pixel less makes the bound strict.
    tree = KDTree(points / size, boxsize=boxsize)
    found = tree.query_pairs(1.0 - 0.5 / size.max(), p=np.inf, output_type="ndarray").astype(np.int64)
    found.sort(axis=1)
    own = np.arange(len(corner))
    first = np.concatenate([own, found[:, 0]])
    second = np.concatenate([own, found[:, 1]])
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    offset = corner[second] - corner[first]
    if period is not None:
        offset = np.mod(offset + wrap // 2, wrap) - wrap // 2
    return Pairs(first, second, offset)
