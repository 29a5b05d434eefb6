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

__all__ = ["DOWNWARDS", "beam_centre", "beam_positions"]

# Rows downwards and columns to the right for who looks along the beam: what both formats take for granted.
DOWNWARDS = ((0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))


def _unit(vectors: ArrayLike) -> NDArray[np.float64]:
    """Directions of a detector's rows and columns, (2, 3), of length one."""
    found = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    if found.shape != (2, 3) or not np.isfinite(found).all() or (length == 0).any():
        raise ScanError(f"the detector's directions are {found.tolist()}; expected two vectors (x, y, z)")
    unit = found / length
    if abs(float(unit[0] @ unit[1])) > 0.1:
        raise ScanError(f"the detector's directions {found.tolist()} are not at right angles; expected that")
    return unit


def beam_positions(translation: ArrayLike, directions: ArrayLike = DOWNWARDS) -> NDArray[np.float64]:
    """[y, x] of the beam on the sample, in metres, for translations of the sample.

    Parameters
    ----------
    translation : (frame, 2 or 3) array
        x, y and z of the sample in the laboratory, in metres.
    directions : (2, 3) array
        To the detector's next row, and to its next pixel in a row; their lengths do not matter.
    """
    moved = np.asarray(translation, dtype=np.float64)
    if moved.ndim != 2 or moved.shape[1] not in (2, 3):
        raise ScanError(f"translations have the shape {moved.shape}; expected (frame, 3): x, y and z")
    return -moved @ _unit(directions)[:, : moved.shape[1]].T


def beam_centre(corner: ArrayLike, basis: ArrayLike) -> NDArray[np.float64]:
    """[y, x] in pixels where the beam meets the detector.

    Parameters
    ----------
    corner : (3,) array
        Of the detector's outer corner at its first pixel, in metres.
    basis : (2, 3) array
        From a pixel to the next row and to the next in its row, in metres.
    """
    steps = np.asarray(basis, dtype=np.float64)
    along = steps @ np.asarray(corner, dtype=np.float64)
    # The corner lies half a pixel before the first pixel's middle.
    return -along / (steps**2).sum(axis=1) - 0.5
