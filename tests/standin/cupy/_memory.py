"""New memory of the device, with nothing sensible in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._array import ndarray

__all__ = ["empty"]


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Every byte is 0xFF: NaN in floating point, -1 in whole numbers."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return ndarray(np.full(size, 0xFF, np.uint8).view(dtype).reshape(shape))
