"""What the image adds to the derivatives of the misfit by the offsets of the frames, once tiles are merged.

`positions.Positions` computes the derivatives with the image held fixed.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, kernels
from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks, measure_misfits, split, unsplit
from daskptycho.model.positions import Derivatives
from daskptycho.tiling import Tile

__all__ = ["carry_image", "look_around", "pull_of_image", "sum_moves", "weigh_fields"]

Array = Any

# Noise drives frames apart, each by as much whatever the overlap: apart they leave more of the
# object to each of them, and counts whose square root is on average too small fit a larger image. A pull of
# this strength towards more light makes up for it. It is measured, on rendered scans with 7 to 30 frames on
# each pixel: their scale is then right to 2e-4 at 1e6 photons in a frame, and to 1.5e-3 at 1e5. The light is
# taken to be at least this share of the probe's brightness, the mean of its power in its own light.
PULL = 1.2
FLATTENED = 0.4


def _write_slope(image: Array, axis: int, out: Array, weight: Array | None = None) -> None:
    """Write the derivative ``D image`` along an axis, by central differences; zero at the image's edges.

    Parameters
    ----------
    image : (y, x) array
    axis : int
    out : (y, x) float32 array
        For the result.
    weight : (y, x) complex64 array, optional
        c, for ``Re(conj(D image) c)`` of a complex image.
    """
    inner = (slice(1, -1), slice(None)) if axis == 0 else (slice(None), slice(1, -1))
    twice = image[2:] - image[:-2] if axis == 0 else image[:, 2:] - image[:, :-2]
    if weight is not None:
        twice = twice.conj()
        twice *= weight[inner]
    out[...] = 0
    out[inner] = twice.real * np.float32(0.5)


def weigh_fields(tile: Tile, at: TileModel, fields: Array) -> Array:
    """``sum |P_i|^2 field`` under each frame, (frame, field) float64.

    Frames are taken at the nearest whole pixel, so that the probe need not be shifted. That changes how fast
    frames come to rest, hardly where.
    """
    view, xp = at.view_without_probe(tile, slice(None)), array_module(fields)
    power = (at.probe.real**2 + at.probe.imag**2).sum(axis=0)[None]
    sums = xp.empty((len(tile), len(fields)))
    kernels(power).field_sums(power, fields, view.corner, sums)
    return sums if view.factor is None else sums * (view.factor**2)[:, None]


def pull_of_image(
    tile: Tile, at: TileModel, found: Derivatives, change: Array, illumination: Array
) -> tuple[Array, Array]:
    """The part of the derivatives by the offsets that the image adds, since it follows the frames.

    Parameters
    ----------
    tile : Tile
    at : TileModel
        The model of the sweep.
    found : Derivatives
        Those of the tile.
    change : (y, x) complex64 array
        ``Derivatives.change`` summed over all tiles.
    illumination : (y, x) float32 array
        N on the tile's window, summed over all tiles.

    Returns
    -------
    image : (frame, 2) float64 array
        ``sum |P_i|^2 Re(conj(D_a y) dpsi)``, where ``dpsi = sum_i conj(P_i) chi_i / N`` is the coming change
        of the image. Without this part the frames would move by far too much: the image takes up most of the
        misfit.
    noise : (frame, 2) float64 array
        ``-c sum |P_i|^2 D_a log(N) / B`` with the probe's brightness B: how much better noise would fit if
        this frame moved away from others. Without this part frames drift apart.
    """
    xp = array_module(change)
    weight = at.inverse_illumination(illumination)
    coming = change * weight
    power, tiny = (at.probe.real**2 + at.probe.imag**2).sum(axis=0), np.finfo(np.float32).tiny
    brightness = (power**2).sum() / xp.maximum(power.sum(), tiny)
    floor = xp.maximum(FLATTENED * brightness, tiny)
    pull = np.float32(-PULL * FLATTENED) / floor * xp.log(xp.maximum(illumination / floor, 1))
    fields = xp.empty((4, *coming.shape), dtype=np.float32)
    for axis in (0, 1):
        _write_slope(found.image, axis, fields[axis], coming)
        _write_slope(pull, axis, fields[2 + axis])
    sums = weigh_fields(tile, at, fields)
    return sums[:, :2], sums[:, 2:]


def sum_moves(tile: Tile, at: TileModel, step: NDArray) -> Array:
    """The moves of the frames at each pixel, weighted by their light.

    Parameters
    ----------
    tile : Tile
    at : TileModel
        The model with the frames where they were.
    step : (frame, 2) array
        Moves [y, x] in pixels.

    Returns
    -------
    (y, x) complex64 array
        ``sum_i |P_i|^2 (step_iy + i step_ix)`` on the tile's window. Frames are taken at the nearest whole
        pixel, so that the probe need not be shifted.
    """
    xp, probe = array_module(at.probe), at.probe[None]
    view = at.view_without_probe(tile, slice(None))
    along = xp.asarray((step[:, 0] + 1j * step[:, 1]).astype(np.complex64))
    if view.factor is not None:
        along = along * view.factor**2
    total = xp.zeros(tile.window.shape, dtype=np.complex64)
    for frames in frame_blocks(len(tile), at.probe):
        unsplit(along[frames, None, None, None] * probe, probe, view.corner[frames], total)
    return total


def carry_image(image: Array, moves: Array, illumination: Array, damping: Array) -> Array:
    """The image where the frames that have moved carry it, (y, x) complex64.

    Each pixel moves by the mean of the moves of the frames that see it: what frames of a region see stays the
    same if all of them move alike. Otherwise the image would have to follow them in many sweeps, and pull
    them back until then.

    Parameters
    ----------
    image : (y, x) complex64 array
    moves : (y, x) complex64 array
        From `sum_moves`, summed over all tiles.
    illumination : (y, x) float32 array
        N where the frames were.
    damping : float32 without axes
        See `TileModel.damping`: where there is hardly any light, the image stays where it is.
    """
    mean = moves / (illumination + damping)
    # Moves are smooth over a pixel, so that one axis may follow the other.
    return _interpolate(_interpolate(image, mean.real, 0), mean.imag, 1)


def _interpolate(image: Array, shift: Array, axis: int) -> Array:
    """``image(r - shift(r))`` along an axis by cubic convolution (Keys, IEEE Trans. ASSP 29, 1153, 1981)."""
    xp, size = array_module(image), image.shape[axis]
    own = xp.arange(size)[:, None] if axis == 0 else xp.arange(size)
    below = xp.floor(-shift)
    t, first = -shift - below, own + below.astype(np.int64)
    weights = (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
    total = xp.zeros_like(image)
    for number, weight in enumerate(weights, start=-1):
        total += weight * xp.take_along_axis(image, xp.clip(first + number, 0, size - 1), axis)
    return total


# It moves there if its misfit is below this share of that where it is.
CLEARLY = 0.7


def look_around(
    tile: Tile, at: TileModel, amplitude: Array, image: Array, centre: dict[int, NDArray], farthest: int
) -> NDArray[np.float64]:
    """Try frames that fit badly at all whole pixels around a place, in the image that is there.

    Gradients lead a frame that is wrong by more than a speckle of the sample nowhere.

    Parameters
    ----------
    tile : Tile
    at : TileModel
    amplitude : Amplitudes
    image : (y, x) complex64 array
        The object on the tile's window.
    centre : dictionary
        For the number of each of these frames in the tile, the whole pixels from where it is to the centre
        of the search, [y, x].
    farthest : int
        Pixels around the centre to search. A frame that is further from it has an image of its own where it
        is, in which it fits well, and comes to the best place within.

    Returns
    -------
    (frame, 2) float64 array
        How far each frame of the tile is to move; zero where no other place is clearly better.
    """
    found = np.zeros((len(tile), 2))
    height, width = at.probe.shape[-2:]
    steps = range(-farthest, farthest + 1)
    most = np.array(tile.window.shape) - (height, width)
    grid = np.array(list(product(steps, steps)))
    for frame, middle in centre.items():
        view = at.view(tile, slice(frame, frame + 1))
        near = np.abs(middle).max() <= farthest
        places = np.concatenate([np.zeros((int(near), 2), dtype=np.int64), middle + grid])
        corner = view.corner + places
        inside = ((corner >= 0) & (corner <= most)).all(axis=1)
        if not inside.any():
            continue
        places, corner = places[inside], corner[inside]
        misfits: list[float] = []
        for some in frame_blocks(len(places), at.probe):
            count = some.stop - some.start
            waves = split(image, view.probe, corner[some])
            measured = array_module(image).empty((count, height, width), dtype=np.float32)
            measured[...] = amplitude[frame : frame + 1]
            forward = at.model.forward.at(view.fraction.repeat(count, axis=0))
            misfits += [float(one) for one in measure_misfits(waves, measured, forward, at.likelihood)]
        best = int(np.argmin(misfits))
        if not near or misfits[best] < CLEARLY * misfits[0]:
            found[frame] = places[best]
    return found
