"""Positions of the beam on the sample, along the axes of the detector, from vectors in the laboratory.

CXI and NeXus share the axes of the laboratory: z along the beam, y up, x to the left when looking along the
beam. Two directions of a detector say where its next row and its next pixel lie. The frames stay as they were
stored, and positions are given along these two directions. What moves is the sample, so the beam moves on the
sample in the opposite direction.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import ScanError

__all__ = ["DEFAULT_DIRECTIONS", "beam_centre", "beam_positions"]

# To the next row and to the next pixel, in (x, y, z): rows run downwards and columns to the right when
# looking along the beam. Both formats assume this of a detector without directions.
DEFAULT_DIRECTIONS = ((0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))


def _normalise(vectors: ArrayLike) -> NDArray[np.float64]:
    """Two orthogonal directions of a detector, (2, 3), as unit vectors."""
    directions = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    if directions.shape != (2, 3) or not np.isfinite(directions).all() or (length == 0).any():
        raise ScanError(
            f"the directions of the detector are {directions.tolist()}; expected two vectors (x, y, z)"
        )
    unit = directions / length
    if abs(float(unit[0] @ unit[1])) > 0.1:
        raise ScanError(
            f"the directions of the detector are {directions.tolist()}; expected two at right angles"
        )
    return unit


def beam_positions(translation: ArrayLike, directions: ArrayLike = DEFAULT_DIRECTIONS) -> NDArray[np.float64]:
    """Positions [y, x] of the beam on the sample, in metres, from translations of the sample.

    Parameters
    ----------
    translation : (frame, 2) or (frame, 3) array
        x, y and possibly z of the sample in the laboratory, in metres.
    directions : (2, 3) array
        From a pixel of the detector to the next row, and to the next pixel of its row. Their lengths do not
        matter.

    Returns
    -------
    (frame, 2) float64 array

    Raises
    ------
    ScanError
        The arrays have other shapes, or the directions are not orthogonal.
    """
    sample = np.asarray(translation, dtype=np.float64)
    if sample.ndim != 2 or sample.shape[1] not in (2, 3):
        raise ScanError(f"translations have the shape {sample.shape}; expected (frame, 3): x, y and z")
    return -sample @ _normalise(directions)[:, : sample.shape[1]].T


def beam_centre(corner: ArrayLike, basis: ArrayLike) -> NDArray[np.float64]:
    """[y, x] in pixels where the beam meets the detector, counted from the middle of the first pixel.

    Parameters
    ----------
    corner : (3,) array
        x, y and z of the outer corner of the first pixel in the laboratory, in metres.
    basis : (2, 3) array
        From a pixel to the next row, and to the next pixel of its row, in metres.

    Returns
    -------
    (2,) float64 array
    """
    steps = np.asarray(basis, dtype=np.float64)
    along = steps @ np.asarray(corner, dtype=np.float64)
    # The corner lies half a pixel before the middle of the first pixel.
    return -along / (steps**2).sum(axis=1) - 0.5
