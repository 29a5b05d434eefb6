"""``cupyx.scipy.fft``: cuFFT on a GPU, SciPy's transforms here. Plans are noted."""

from __future__ import annotations

from typing import Any

import scipy.fft
from cupy import ndarray
from cupy._array import behind, wrapped
from cupy.transfers import planned

__all__ = ["fft2", "ifft2"]


def fft2(x: ndarray, norm: str | None = None, overwrite_x: bool = False) -> ndarray:
    return _transformed(scipy.fft.fft2, x, norm, overwrite_x)


def ifft2(x: ndarray, norm: str | None = None, overwrite_x: bool = False) -> ndarray:
    return _transformed(scipy.fft.ifft2, x, norm, overwrite_x)


def _transformed(transform: Any, x: ndarray, norm: str | None, overwrite_x: bool) -> ndarray:
    planned(x.shape, str(x.dtype))
    # SciPy may round in another way where it may overwrite its argument.
    return wrapped(transform(behind(x), norm=norm, overwrite_x=overwrite_x))
