"""Phases of frames from a coarse grid, without the Gramian.

Phases that only a synchronisation can find vary slowly from frame to frame: the sweeps find all others. If
they are small as well, they follow from the frames' agreement ``omega* H omega`` to second order,
``1* H 1 + 2 b . phi - phi . L phi``. Neither part needs the pairs of frames:

- ``b_i = Im sum_j H_ij = Im <u_i, O / N>`` is a product of each frame with the overlap sum O.
- ``phi . L phi = sum_ij H_ij (phi_i - phi_j)^2 / 2``, where phi varies slowly, is ``sum_i |z_i|^2`` times the
  squared difference of phi over the distance to a frame that shares light with frame i. If frames lie evenly,
  that is ``grad phi* S grad phi``, with S the covariance of the probe's intensity.

phi is piecewise bilinear between nodes that are two frames apart, and conjugate gradients find the values of
the nodes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, inner_products, kernels, to_device_of, to_host
from daskptycho.model.operators import overlap
from daskptycho.sync.phases import Phases, keep_significant
from daskptycho.tiling import Shape, Tile

__all__ = ["CoarseGrid", "Synchronised", "lay_grid", "synchronise_coarsely"]

Array = Any

# Fewest frames of a tile whose phases come from a grid. H of a few frames costs little.
LEAST_FRAMES = 64
# Distance of nodes, in that of a frame from its nearest neighbour; a half of a frame at most.
NODE_DISTANCE = 2.0
# Most nodes for each frame: a tile whose frames lie farther apart has no grid.
MOST_NODES = 2
# Two frames are linked here if they share more than this part of the probe's light. L is that of frames which
# lie evenly, and too large where links are faint.
LINKED = 0.05
# Largest phase of frames against the overlap of all, root mean square in radians, that counts as small.
SMALL = 0.2
# Relative residual at which conjugate gradients stop.
ACCURACY = 1e-4
# Relative rounding error of the frames' agreement.
ROUNDING = 1e-6


class CoarseGrid(NamedTuple):
    """The nodes between which the frames of a tile lie. All arrays are on the host."""

    place: NDArray[np.float64]
    """(frame, 2) corner of each frame, [y, x] in distances of nodes from the first of them."""
    shape: tuple[int, int]
    """Number of nodes along y and x."""
    distance: float
    """Distance of neighbouring nodes in pixels."""
    pair: NDArray[np.int64]
    """(pair, 2) numbers of frames that are near neighbours."""
    offset: NDArray[np.int64]
    """(pair, 2) corner of the second one minus corner of the first."""


class Synchronised(NamedTuple):
    """A tile whose frames have been synchronised with each other."""

    image_sum: Array
    """(y, x) complex64 overlap sum with the phases found."""
    found: Phases
    agreement: float
    """``sum_r |image_sum|^2 / N``: the element of G on the diagonal."""


def lay_grid(
    corner: NDArray[np.int64], frame_shape: Shape, pair: NDArray[np.int64], offset: NDArray[np.int64]
) -> CoarseGrid | None:
    """Lay the nodes of a tile; None if its frames are few, thinly spread, or meet across the period.

    Parameters
    ----------
    corner : (frame, 2) int64 array
        Corners of the frames in the window of the tile.
    frame_shape : (int, int)
    pair, offset : (pair, 2) int64 arrays
        The near neighbours among the frames.
    """
    if len(corner) < LEAST_FRAMES or (corner[pair[:, 1]] - corner[pair[:, 0]] != offset).any():
        return None
    apart = np.hypot(offset[:, 0], offset[:, 1])
    apart[apart == 0] = np.inf
    nearest = np.full(len(corner), np.inf)
    for side in (0, 1):
        np.minimum.at(nearest, pair[:, side], apart)
    distance = min(NODE_DISTANCE * float(np.median(nearest)), min(frame_shape) / 2)
    place = (corner - corner.min(axis=0)) / distance
    rows, columns = (int(most) + 2 for most in np.floor(place.max(axis=0)))
    if rows * columns > MOST_NODES * len(corner):
        return None
    return CoarseGrid(place, (rows, columns), distance, pair, offset)


def synchronise_coarsely(
    tile: Tile,
    frames: Array,
    power: Array,
    grid: CoarseGrid,
    weight: Array,
    probe: Array,
    residual: float | None,
    plain: Array | None = None,
) -> Synchronised | None:
    """Find small phases that vary slowly, and sum the frames with them.

    Parameters
    ----------
    tile : Tile
    frames : (frame, N, N) complex64 array
        Weighted frames.
    power : (frame,) float64 array
        ``|z_i|^2``.
    grid : CoarseGrid
    weight : (y, x) float32 array
        1 / N on the tile's window, N summed over all tiles.
    probe : (mode, N, N) complex64 array
    residual : float or None
        R2 of the tile, if only phases that are significant are to be applied.
    plain : (y, x) complex64 array, optional
        The overlap sum without phases, if it is known already.

    Returns
    -------
    Synchronised or None
        None if the phases are not small, or if frames are linked by faint light or not at all: the Gramian
        has to tell then.
    """
    light = to_host((array_module(probe).abs(probe) ** 2).sum(axis=0)).astype(np.float64)
    if not light.any() or not _are_linked(grid, light):
        return None
    if plain is None:
        plain = overlap(frames, tile.corner, tile.window.shape)
    products = _multiply_frames(frames, plain * weight, tile.corner)
    of_frame = to_host(power)
    total = float(of_frame.sum())
    if not total:
        return None
    turn = np.angle(products)
    if (of_frame * turn**2).sum() > SMALL**2 * total:
        return None
    # Rounding errors must not pass for a torque on all frames.
    torque = products.imag - of_frame * (products.imag.sum() / total)
    steps = math.ceil(max(24, math.sqrt(math.prod(grid.shape))))
    phi = kernels(torque).solve_on_grid(
        *(grid.place, grid.shape, of_frame, _measure_spread(light, grid.distance), torque, steps, ACCURACY)
    )
    phi -= (of_frame * phi).sum() / total
    spread = math.sqrt(float((of_frame * phi**2).sum() / total))
    gain = float((torque * phi).sum())
    phase = to_device_of(np.exp(1j * phi).astype(np.complex64), power)
    # What the phases leave of the frames' disagreement.
    whole = float(abs(products).sum())
    left = max(0.0, 1 - (float(products.real.sum()) + gain) / whole) if whole else 0.0
    found = Phases(phase, left, spread, 1.0, gain)
    kept = found if residual is None else keep_significant(found, residual)
    agreement = float(inner_products(weight, plain, [plain])[0])
    if kept is found:
        turned = overlap(frames, tile.corner, tile.window.shape, phase)
        gained = float(inner_products(weight, turned, [turned])[0])
        if gained >= (1 - ROUNDING) * agreement:
            return Synchronised(turned, found, gained)
        kept = replace(found, phase=array_module(phase).ones_like(phase))
    return Synchronised(plain, kept, agreement)


def _multiply_frames(frames: Array, image: Array, corner: NDArray[np.int64]) -> NDArray[np.complex128]:
    """``<u_i, image>`` over the pixels of each frame, on the host."""
    products = array_module(frames).empty(len(frames), dtype=np.complex128)
    kernels(frames).multiply_frames(frames, image, corner, products)
    found: NDArray[np.complex128] = to_host(products)
    return found


def _are_linked(grid: CoarseGrid, light: NDArray[np.float64]) -> bool:
    """Whether bright links hold all frames together."""
    shape = (2 * light.shape[0], 2 * light.shape[1])
    spectrum = np.fft.rfft2(light, shape)
    shared = np.fft.irfft2(abs(spectrum) ** 2, shape)
    least = LINKED * float(shared[0, 0])
    frames = len(grid.place)
    parts: int = kernels(shared).count_linked_parts(grid.pair, grid.offset, shared, least, frames)
    return parts == 1


def _measure_spread(light: NDArray[np.float64], unit: float) -> tuple[float, float, float]:
    """Covariance of the probe's intensity, yy, yx, and xx, in squares of a unit of length."""
    along_y, along_x = light.sum(axis=1), light.sum(axis=0)
    y, x = (
        np.arange(len(along)) - (along @ np.arange(len(along))) / along.sum() for along in (along_y, along_x)
    )
    scale = light.sum() * unit**2
    return float(along_y @ y**2 / scale), float(y @ light @ x / scale), float(along_x @ x**2 / scale)
