"""The object and the probes that simulated scans are made of."""

from __future__ import annotations

from itertools import count

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["diffuser_probe", "phantom_object", "zone_plate_probe"]

# Ratio of the powers of a probe mode and the one before it: three modes have 72, 22 and 6 %.
MODE_RATIO = 0.3

# The pupil: radii of its rim and of its central stop in cycles per pixel, width of its edges relative to the
# rim.
RIM = 0.175
STOP = 0.05
SOFTNESS = 0.6

# Radius of the defocused beam, as a share of the frame.
SPREAD = 0.45

# A diffuser: its finest grain in pixels, and the root mean square of its phase in radians.
GRAIN = 6.0
ROUGHNESS = 1.0

# Phase between the darkest and the brightest pixel of the photograph, in radians. With twice this value half
# of a run would be spent on leaving the constant object that it starts from.
PHASE_RANGE = np.pi / 2


def phantom_object(shape: tuple[int, int], periodic: bool = False) -> NDArray[np.complex64]:
    """A complex object made of two photographs that scikit-image ships.

    The amplitude, from 0.5 to 1, shows a cameraman; the phase, from -pi/4 to pi/4, shows gravel. The
    photographs are shrunk to fit a small canvas and mirrored to fill a large one, so that the object has
    detail at the scale of a pixel everywhere.

    Parameters
    ----------
    shape : (int, int)
    periodic : bool
        Make the last pixels continue at the first ones.

    Returns
    -------
    (y, x) complex64 array
    """
    from skimage import data

    amplitude = 0.5 + 0.5 * _fit_photograph(data.camera(), shape, periodic)
    phase = PHASE_RANGE * (_fit_photograph(data.gravel(), shape, periodic) - 0.5)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def zone_plate_probe(frame_size: int, modes: int = 1) -> NDArray[np.complex128]:
    """The defocused focus of a zone plate with a central stop.

    The pupil is an annulus with soft edges, half as wide as the detector. Its defocus spreads the beam over
    most of the frame, for frames of any size. Further modes are like Hermite modes: the first multiplied by
    polynomials and orthogonalised.

    Parameters
    ----------
    frame_size : int
        Pixels along each side.
    modes : int

    Returns
    -------
    (mode, y, x) complex128 array
        Centred at N//2, of total power 1. Each mode has 0.3 times the power of the one before.
    """
    frequency = np.fft.fftfreq(frame_size)
    radius = np.hypot(frequency[:, np.newaxis], frequency)
    edge = max(SOFTNESS * RIM, 1 / frame_size)
    pupil = 0.25 * (1 - np.tanh(1.5 * (radius - RIM) / edge))
    pupil *= 1 + np.tanh(1.5 * (radius - STOP) / edge)
    # By stationary phase, this defocus moves the rim of the pupil to SPREAD times the frame.
    defocus = np.exp(1j * np.pi * SPREAD * frame_size / RIM * radius**2)
    first = np.fft.fftshift(np.fft.ifft2(pupil * defocus))
    y, x = np.mgrid[:frame_size, :frame_size] / frame_size - 0.5
    powers = ((a, total - a) for total in count() for a in range(total + 1))
    family = [first * y**a * x**b for (a, b), _ in zip(powers, range(modes), strict=False)]
    return _orthogonalise(family, modes)


def diffuser_probe(frame_size: int, modes: int = 1) -> NDArray[np.complex128]:
    """A beam as wide as the frame behind a diffuser, whose structure a near-field scan needs.

    Parameters
    ----------
    frame_size : int
        Pixels along each side.
    modes : int

    Returns
    -------
    (mode, y, x) complex128 array
        Nearly constant amplitude and a smooth random phase; orthogonal modes of total power 1. Each mode has
        0.3 times the power of the one before.
    """
    random = np.random.default_rng(frame_size)
    frequency = np.fft.fftfreq(frame_size)
    smooth = np.exp(-((frequency[:, np.newaxis] ** 2 + frequency**2) * GRAIN**2))
    noise = np.fft.ifft2(np.fft.fft2(random.normal(size=(2, modes, frame_size, frame_size))) * smooth).real
    noise /= noise.std(axis=(-2, -1), keepdims=True)
    family = (1 + 0.15 * noise[0]) * np.exp(1j * ROUGHNESS * noise[1])
    return _orthogonalise(family, modes)


def _orthogonalise(family: ArrayLike, modes: int) -> NDArray[np.complex128]:
    """Orthogonalise modes in order, so that the first changes at most its sign, and set their powers."""
    waves = np.asarray(family)
    orthogonal, _ = np.linalg.qr(waves.reshape(modes, -1).T)
    share = MODE_RATIO ** np.arange(modes)
    return orthogonal.T.reshape(waves.shape) * np.sqrt(share / share.sum())[:, None, None]


def _fit_photograph(
    photograph: NDArray[np.uint8], shape: tuple[int, int], periodic: bool
) -> NDArray[np.float64]:
    """A photograph as large as the canvas, from 0 to 1; for a periodic canvas it is faded across the seam."""
    from skimage.transform import resize

    seam = tuple(n // 8 for n in shape) if periodic else (0, 0)
    full = (shape[0] + seam[0], shape[1] + seam[1])
    shrunk = tuple(min(n, size) for n, size in zip(full, photograph.shape, strict=True))
    image = resize(photograph, shrunk, order=1, anti_aliasing=True).astype(float)
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / (high - low), 0, 1)
    image = np.pad(image, [(0, n - m) for n, m in zip(full, shrunk, strict=True)], mode="reflect")
    for axis, (size, fade) in enumerate(zip(shape, seam, strict=True)):
        image = np.moveaxis(image, axis, 0)
        weight = ((np.arange(fade) + 0.5) / max(fade, 1))[:, np.newaxis]
        start = weight * image[:fade] + (1 - weight) * image[size : size + fade]
        image = np.moveaxis(np.concatenate([start, image[fade:size]]), 0, axis)
    return image
