"""Masked arrays: their mask is part of a scan, or refused, and never dropped.

`dataset` calls this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.errors import ScanError

__all__ = ["take_mask"]


def take_mask(intensity: Any, valid: Any) -> tuple[Any, Any]:
    """Frames without a mask of their own, which becomes part of `valid`.

    Parameters
    ----------
    intensity : (frame, qy, qx) array
    valid : (qy, qx) bool array or None

    Returns
    -------
    intensity, valid

    Raises
    ------
    ScanError
        The mask is not the same in every frame, or the array is one of dask's, whose masks are not known.
    """
    if isinstance(getattr(intensity, "_meta", None), np.ma.MaskedArray):
        raise ScanError(
            "intensity is a dask array of masked arrays; expected plain ones, with the pixels that do not "
            "count in valid (dask.array.ma.getdata takes the mask away)"
        )
    if not isinstance(intensity, np.ma.MaskedArray):
        return intensity, valid
    mask = np.ma.getmaskarray(intensity)
    if mask.ndim == 3 and not (mask == mask[:1]).all():
        differing = np.flatnonzero((mask != mask[:1]).any(axis=(1, 2)))
        raise ScanError(
            f"intensity is masked differently from frame to frame, first in frame {differing[0]}; expected "
            "one mask for all frames: give the pixels that count in every frame as valid, and plain arrays"
        )
    counts = intensity.data
    if mask.ndim != 3 or not mask.any():
        return counts, valid
    return counts, ~mask[0] if valid is None else ~mask[0] & np.asarray(valid, dtype=bool)
