"""What of ``cupy.fft`` is no transform."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._array import behind, ndarray, wrapped

__all__ = ["fftfreq", "fftshift", "ifftshift"]


def fftfreq(n: int, d: float = 1.0) -> ndarray:
    return wrapped(np.fft.fftfreq(n, d))


def fftshift(x: ndarray, axes: Any = None) -> ndarray:
    return wrapped(np.fft.fftshift(behind(x), axes=axes))


def ifftshift(x: ndarray, axes: Any = None) -> ndarray:
    return wrapped(np.fft.ifftshift(behind(x), axes=axes))
