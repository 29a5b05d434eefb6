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
    return _make_ramp(fraction[:, 0], shape[0]), _make_ramp(fraction[:, 1], shape[1])


def _make_ramp(fraction: Array, size: int) -> Array:
    xp = array_module(fraction)
    # Frequencies from zero on. The others are their negatives, and the factors there the conjugates.
    angle = (fraction[:, None] * (xp.arange(size // 2 + 1) * (-2 * np.pi / size))).astype(np.float32)
    ramp = xp.cos(angle) + np.complex64(1j) * xp.sin(angle)
    if size % 2 == 0:
        # `fftfreq` has the negative of the highest frequency.
        ramp[:, -1] = ramp[:, -1].conj()
    return xp.concatenate([ramp, ramp[:, (size - 1) // 2 : 0 : -1].conj()], axis=1)
