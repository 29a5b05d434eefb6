"""Phases of frames from a coarse grid, without the Gramian.

Phases that only a synchronisation can find vary slowly from frame to frame: the sweeps find all others. If
they are small as well, they follow from the frames' agreement ``omega* H omega`` to second order,
``1* H 1 + 2 b . phi - phi . L phi``. Neither part needs the pairs of frames:

- ``b_i = Im sum_j H_ij = Im <u_i, O / N>`` is known from the overlap sum O and the image that the sweep began
  with (`_measure_torque`): the frames need not be kept.
- ``phi . L phi = sum_ij H_ij (phi_i - phi_j)^2 / 2``, where phi varies slowly, is ``sum_i |z_i|^2`` times the
  squared difference of phi over the distance to a frame that shares light with frame i. If frames lie evenly,
  that is ``grad phi* S grad phi``, with S the covariance of the probe's intensity.

phi is piecewise bilinear between nodes that are two frames apart, and conjugate gradients find the values of
the nodes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree

from daskptycho.backend import (
    array_module,
    compare_sums,
    inner_products,
    kernels,
    to_device_of,
    to_host,
    turn_image,
)
from daskptycho.model.operators import illuminate
from daskptycho.model.sweep import OverlapSum
from daskptycho.sync.options import SMALL
from daskptycho.sync.phases import Phases, keep_significant
from daskptycho.tiling import Shape, Tile

__all__ = ["CoarseGrid", "Synchronised", "are_linked", "lay_grid", "synchronise_coarsely"]

Array = Any

# Fewest frames of a tile whose phases come from a grid. H of a few frames costs little.
LEAST_FRAMES = 64
# Distance of nodes, in that of a frame from its nearest neighbour; a half of a frame at most.
NODE_DISTANCE = 2.0
# Phases with a larger spread, in radians, are not small: the grid has not found them.
MOST_SPREAD = 1.0
# Most nodes for each frame: a tile whose frames lie farther apart has no grid.
MOST_NODES = 2
# Two frames are linked here if they share more than this part of the probe's light. L is that of frames which
# lie evenly, and too large where links are faint.
LINKED = 0.05
# Relative residual at which conjugate gradients stop.
ACCURACY = 1e-4
# Pixels along a side of the blocks in which the power of frames is summed.
BLOCK = 4
# What is below this share of the most is zero.
ROUNDING = 1e-6


class CoarseGrid(NamedTuple):
    """The nodes between which the frames of a tile lie. All arrays are on the host."""

    place: NDArray[np.float64]
    """(frame, 2) corner of each frame, [y, x] in distances of nodes from the first of them."""
    shape: tuple[int, int]
    """Number of nodes along y and x."""
    distance: float
    """Distance of neighbouring nodes in pixels."""
    link: NDArray[np.int64]
    """(link, 2) all different offsets of the nearest pairs of frames that hold the tile together."""
    block: NDArray[np.int64]
    """(frame, 2) corner of each frame, in blocks of `BLOCK` pixels."""


class Synchronised(NamedTuple):
    """A tile whose frames have been synchronised with each other."""

    image_sum: Array
    """(y, x) complex64 overlap sum with the phases found."""
    found: Phases
    power: float
    """``sum |z_i|^2`` over the tile's frames."""
    agreement: float
    """``sum_r |image_sum|^2 / N``: the element of G on the diagonal."""


def lay_grid(
    corner: NDArray[np.int64], frame_shape: Shape, pair: NDArray[np.int64], offset: NDArray[np.int64]
) -> CoarseGrid | None:
    """Lay the nodes of a tile; None if its frames are few, lie unevenly, or meet across the period.

    Parameters
    ----------
    corner : (frame, 2) int64 array
        Corners of the frames in the window of the tile.
    frame_shape : (int, int)
    pair, offset : (pair, 2) int64 arrays
        The near neighbours among the frames.
    """
    if len(corner) < LEAST_FRAMES or min(frame_shape) < 2 * BLOCK:
        return None
    if (corner[pair[:, 1]] - corner[pair[:, 0]] != offset).any():
        return None
    apart = np.hypot(offset[:, 0], offset[:, 1])
    first, second = pair.T
    nearest = np.full(len(corner), np.inf)
    for side in (first, second):
        np.minimum.at(nearest, side, np.where(apart > 0, apart, np.inf))
    # Two frames at the same place are one apart: a tree has no edges of length zero.
    tree = minimum_spanning_tree(sp.coo_array((apart + 1, (first, second)), shape=(len(corner), len(corner))))
    if tree.nnz + 1 < len(corner):
        return None
    row, column = tree.nonzero()
    link = np.unique(corner[column] - corner[row], axis=0)
    distance = min(NODE_DISTANCE * float(np.median(nearest)), min(frame_shape) / 2)
    if tree.data.max() - 1 > distance:
        # Frames do not lie evenly, and nothing would hold the nodes between lines or patches of them.
        return None
    place = (corner - corner.min(axis=0)) / distance
    rows, columns = (int(most) + 2 for most in np.floor(place.max(axis=0)))
    if rows * columns > MOST_NODES * len(corner):
        return None
    return CoarseGrid(place, (rows, columns), distance, link, corner // BLOCK)


class _Light(NamedTuple):
    """What a coarse grid needs to know of a probe."""

    shared: NDArray[np.float64]
    """(2 N, 2 N) light that two frames share, by their offset, relative to that of one frame with itself."""
    centre: tuple[float, float]
    """Centre of the intensity, [y, x] in pixels."""
    spread: tuple[float, float, float]
    """Covariance of the intensity, yy, yx, and xx, in square pixels."""


def _measure_light(probe: Array) -> _Light:
    probe = np.ascontiguousarray(to_host(probe))
    return _measure_light_of(probe.tobytes(), probe.shape, probe.dtype.str)


# All tiles of a sweep have the same probe, and most sweeps that of the one before.
@functools.lru_cache(maxsize=4)
def _measure_light_of(values: bytes, shape: tuple[int, ...], dtype: str) -> _Light:
    probe = np.frombuffer(values, dtype=dtype).reshape(shape)
    light = (abs(probe) ** 2).sum(axis=0, dtype=np.float64)
    light /= light.sum() or 1.0
    along_y, along_x = light.sum(axis=1), light.sum(axis=0)
    centre = float(along_y @ np.arange(len(along_y))), float(along_x @ np.arange(len(along_x)))
    y, x = (np.arange(size) - middle for size, middle in zip(light.shape, centre, strict=True))
    spread = float(along_y @ y**2), float(y @ light @ x), float(along_x @ x**2)
    double = (2 * light.shape[0], 2 * light.shape[1])
    shared = np.fft.irfft2(abs(np.fft.rfft2(light, double)) ** 2, double)
    return _Light(shared / (shared[0, 0] or 1.0), centre, spread)


def are_linked(grid: CoarseGrid, probe: Array) -> bool:
    """Whether bright links hold all frames of a tile together: the Gramian has to tell what faint ones do."""
    y, x = grid.link.T
    return bool((_measure_light(probe).shared[y, x] > LINKED).all())


def synchronise_coarsely(
    tile: Tile,
    grid: CoarseGrid,
    swept: OverlapSum,
    image: Array,
    weight: Array,
    probe: Array,
    misfit: float | None,
    own: Array | None = None,
) -> Synchronised:
    """Find small phases that vary slowly, and turn the overlap sum of a tile by them.

    Parameters
    ----------
    tile : Tile
    grid : CoarseGrid
    swept : OverlapSum
        Without phases.
    image : (y, x) complex64 array
        psi, the object that the sweep began with.
    weight : (y, x) float32 array
        1 / N on the tile's window, N summed over all tiles.
    probe : (mode, N, N) complex64 array
    misfit : float or None
        ``sum (|Fz| - a)^2`` of the tile, if only phases that are significant are to be applied.
    own : (y, x) float32 array, optional
        Illumination of the tile's own frames, if it is known.
    """
    total = swept.image_sum
    torque, of_frame = _measure_torque(tile, grid, swept, image, probe, own)
    power = float(of_frame.sum())
    like = array_module(total).empty(0)
    ones = Phases(to_device_of(np.ones(len(tile), dtype=np.complex64), like), 0.0, 0.0, 1.0)
    agreement = float(inner_products(weight, total, [total])[0])
    if not power:
        return Synchronised(total.copy(), ones, power, agreement)
    # Rounding errors must not pass for a torque on all frames.
    torque -= of_frame * (torque.sum() / power)
    light = _measure_light(probe)
    stiffness = tuple(element / grid.distance**2 for element in light.spread)
    steps = math.ceil(max(24, math.sqrt(math.prod(grid.shape))))
    nodes, phi = kernels(torque).solve_on_grid(
        *(grid.place, grid.shape, of_frame, stiffness, torque, steps, ACCURACY)
    )
    mean = float((of_frame * phi).sum()) / power
    phi -= mean
    gain, spread = float((torque * phi).sum()), math.sqrt(float((of_frame * phi**2).sum()) / power)
    # How far frames turn from what all of them are together. If that is not small, the spread tells it, so
    # that the next synchronisation has the Gramian.
    turned = math.sqrt(float((torque**2 / np.maximum(of_frame, ROUNDING * power / len(tile))).sum() / power))
    found = Phases(
        to_device_of(np.exp(1j * phi).astype(np.complex64), like),
        # What the frames disagree by, and the phases take away.
        gain / power,
        max(spread, turned) if turned > SMALL else spread,
        1.0,
        gain,
    )
    if not spread < MOST_SPREAD:
        # The next synchronisation has the Gramian, as after any large spread.
        return Synchronised(total.copy(), replace(ones, spread=MOST_SPREAD), power, agreement)
    kept = found if misfit is None else keep_significant(found, misfit / power)
    if kept is not found:
        return Synchronised(total.copy(), kept, power, agreement)
    # Beyond the outermost frames phases stay as they are there.
    ranges = zip(*(total.shape, light.centre, tile.corner.min(axis=0), grid.place.max(axis=0)), strict=True)
    row, column = (
        np.clip((np.arange(size) - centre - first) / grid.distance, 0, last).astype(np.float32)
        for size, centre, first, last in ranges
    )
    turned_sum = turn_image(total, row, column, (nodes - mean).astype(np.float32))
    return Synchronised(turned_sum, found, power, agreement)


def _measure_torque(
    tile: Tile, grid: CoarseGrid, swept: OverlapSum, image: Array, probe: Array, own: Array | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The b and ``|z_i|^2`` of each frame, to first order in what the sweep changed; both on the host.

    ``u_i = w_i psi + d_i`` with small d, and w the probe's intensity, leads to
    ``b_i = Im sum_r w_i conj(psi) O / N - Im <psi, u_i>``, N summed over the frames of the tile.
    """
    xp = array_module(probe)
    intensity = (xp.abs(probe) ** 2).sum(axis=0, dtype=np.float32)
    if own is None:
        own = illuminate(probe[None], tile.corner, tile.window.shape)
    turn, around = compare_sums(own, image, swept.image_sum, ROUNDING * float(intensity.max()), BLOCK)
    torque, power = (xp.empty((len(tile), 1), dtype=np.float64) for _ in range(2))
    kernels(probe).field_sums(intensity[None], turn[None], tile.corner, torque)
    # The power only weighs the frames, and need not be exact.
    height, width = (size // BLOCK for size in intensity.shape)
    blocks = intensity[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK)
    mean = xp.ascontiguousarray(blocks.sum(axis=(1, 3)) / np.float32(BLOCK**2))
    kernels(probe).field_sums(mean[None], around[None], grid.block, power)
    torque, power = to_host(torque)[:, 0], to_host(power)[:, 0]
    if swept.turn is not None:
        torque -= to_host(swept.turn)
    return torque, power
