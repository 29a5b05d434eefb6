"""What the image adds to the derivatives of the misfit by the offsets of the frames, once tiles are merged.

`positions.Positions` computes the derivatives with the image held fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.backend import array_module, kernels
from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks
from daskptycho.model.positions import Derivatives
from daskptycho.tiling import Tile

__all__ = ["pull_of_image"]

Array = Any

# 1 / N is differentiated where N is not below this share of its mean over the lit pixels: further out, at
# the rim, its derivative would outweigh everything else.
FLATTENED = 0.03


def derivative(image: Array, axis: int) -> Array:
    """The derivative of an image along an axis, by central differences of neighbours; zero at its edges."""
    out = array_module(image).zeros_like(image)
    if axis == 0:
        out[1:-1] = (image[2:] - image[:-2]) / 2
    else:
        out[:, 1:-1] = (image[:, 2:] - image[:, :-2]) / 2
    return out


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
        ``sum |P_i|^2 D_a(1 / N)``: how much more noise the frames fit if this one moves away. Without this
        part frames drift apart, which leaves more pixels of the object to each of them.
    """
    xp = array_module(change)
    weight = at.inverse_illumination(illumination)
    coming = change * weight
    lit = weight > 0
    mean = (illumination * lit).sum() / xp.maximum(lit.sum(), 1)
    least = xp.maximum(FLATTENED * mean, np.finfo(np.float32).tiny).astype(np.float32)
    flattened = 1 / xp.maximum(illumination, least)
    slopes = [(derivative(found.image, axis).conj() * coming).real for axis in (0, 1)]
    fields = xp.stack([*slopes, *(derivative(flattened, axis) for axis in (0, 1))]).astype(np.float32)
    sums = xp.empty((len(tile), 4))
    for frames in frame_blocks(len(tile), at.probe):
        view = at.view(tile, frames)
        power = (view.probe.real**2 + view.probe.imag**2).sum(axis=1)
        kernels(power).field_sums(power, fields, view.corner, sums[frames])
    return sums[:, :2], sums[:, 2:]
