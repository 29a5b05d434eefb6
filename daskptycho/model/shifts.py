"""Fourier factors that shift waves by fractions of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.backend import array_module

__all__ = ["are_whole_pixels", "make_ramps"]

Array = Any


def are_whole_pixels(fraction: Array) -> bool:
    """Whether positions are known to be whole pixels; fractions on a GPU are not read, which would wait."""
    # Asked for each block of frames: `any` of few numbers would take ten times as long.
    return isinstance(fraction, np.ndarray) and np.count_nonzero(fraction) == 0


def make_ramps(fraction: Array, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Fourier factors ``exp(-2 pi i q . fraction)`` that shift by fractions of a pixel, axis by axis.

    Parameters
    ----------
    fraction : (frame, 2) array
        [y, x] in pixels. A wave is shifted towards higher coordinates.
    shape : (int, int)
        Of the waves.

    Returns
    -------
    along_y, along_x : (frame, N) complex64 arrays
        The factor is their product. The zero frequency is first.
    """
    xp = array_module(fraction)
    qy, qx = xp.fft.fftfreq(shape[0]), xp.fft.fftfreq(shape[1])
    along_y = xp.exp(-2j * np.pi * fraction[:, 0, None] * qy).astype(np.complex64)
    along_x = xp.exp(-2j * np.pi * fraction[:, 1, None] * qx).astype(np.complex64)
    return along_y, along_x
