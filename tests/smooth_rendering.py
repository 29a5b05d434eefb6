"""A renderer of its own for scans with a known object: nothing is taken from the package.

The object is known at every point, so that frames lie at any position without interpolation. A frame at
position p covers p to p + N, both [y, x]; the zero frequency is at N//2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["error_of", "frames_at", "probe_of", "raster"]

RANDOM = np.random.default_rng(5)
SPOTS = np.column_stack(
    [RANDOM.uniform(-60, 160, (700, 2)), RANDOM.uniform(2, 5, 700), RANDOM.uniform(-1, 1, 700)]
)


def object_at(y: NDArray, x: NDArray) -> NDArray:
    """Smooth spots of phase, and an absorption of a fifth of them, on the grid y, x."""
    phase = sum(
        height * np.exp(-((y[:, None] - at_y) ** 2 + (x - at_x) ** 2) / (2 * width**2))
        for at_y, at_x, width, height in SPOTS
    )
    return np.asarray(np.exp(1j * phase - 0.2 * np.abs(phase)))


def probe_of(size: int = 24) -> NDArray:
    """A curved beam with an edge, centred at N//2."""
    r2 = np.add.outer(*[(np.arange(size) - size // 2) ** 2.0] * 2) / (0.28 * size) ** 2
    return np.exp(-(r2**2) + 1.8j * r2)


def raster(rows: int = 7, step: float = 4.0, jitter: float = 0.8) -> NDArray:
    """Positions [y, x] row by row, displaced at random."""
    places = np.mgrid[0:rows, 0:rows].reshape(2, -1).T * step
    return places + np.random.default_rng(3).uniform(-jitter, jitter, places.shape)


def frames_at(position: ArrayLike, photons: float = 1e5, size: int = 24) -> NDArray:
    """Poisson counts (frame, qy, qx) with this mean sum, in detector order."""
    side = np.arange(size)
    waves = np.array([probe_of(size) * object_at(y + side, x + side) for y, x in np.asarray(position)])
    power = np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2
    power *= photons / power.sum(axis=(1, 2)).mean()
    return np.random.default_rng(8).poisson(power)


def error_of(image: NDArray, y: NDArray, x: NDArray, illumination: NDArray) -> float:
    """Relative error of an image where it is lit, without a factor; the probe has to be known."""
    lit = illumination > 0.1 * np.percentile(illumination, 98)
    truth, found = object_at(np.asarray(y), np.asarray(x))[lit], image[lit]
    scale = np.vdot(found, truth) / np.vdot(found, found)
    return float(np.linalg.norm(scale * found - truth) / np.linalg.norm(truth))
