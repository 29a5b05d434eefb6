"""The object and the probes that simulated scans are made of."""

from __future__ import annotations

from itertools import count

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["diffuser_probe", "phantom_object", "zone_plate_probe"]

# Each next probe mode has this share of the power of the one before: 72, 22, 6 % for three.
MODE_RATIO = 0.3

# The pupil: rim and central stop in cycles a pixel, width of its soft edges as a share of the rim.
RIM = 0.175
STOP = 0.05
SOFTNESS = 0.6

# Where defocus carries the rim of the beam, as a share of the frame.
SPREAD = 0.45

# A diffuser: the finest grain in pixels, the root mean square of its phase in radians.
GRAIN = 6.0
ROUGHNESS = 1.0

# Radians from the darkest to the brightest of the photograph that makes the phase. Twice as much
# makes the start from a constant object so poor that half of a run goes into leaving it.
PHASE_RANGE = np.pi / 2


def phantom_object(shape: tuple[int, int], periodic: bool = False) -> NDArray[np.complex64]:
    """A complex object from two photographs that scikit-image ships.

    The amplitude, from 0.5 to 1, shows a cameraman, the phase, from -pi/4 to pi/4, gravel. The
    photographs shrink to small canvases and continue, mirrored, on large ones, so that there
    is detail at the scale of a pixel everywhere.

    Parameters
    ----------
    shape : (int, int)
    periodic : bool
        The last pixels continue at the first ones.

    Returns
    -------
    (y, x) complex64 array
    """
    from skimage import data

    amplitude = 0.5 + 0.5 * _picture(data.camera(), shape, periodic)
    phase = PHASE_RANGE * (_picture(data.gravel(), shape, periodic) - 0.5)
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def zone_plate_probe(frame_size: int, modes: int = 1) -> NDArray[np.complex128]:
    """The defocused focus of a zone plate with a central stop.

    An annular pupil with soft edges, half as wide as the detector, whose defocus spreads the
    beam over most of the frame whatever the frame's size. Further modes are Hermite-like:
    the first multiplied by polynomials, made orthogonal.

    Parameters
    ----------
    frame_size : int
    modes : int

    Returns
    -------
    (mode, y, x) complex128 array
        Centred at N//2, total power 1, each mode with 0.3 of the power of the one before.
    """
    frequency = np.fft.fftfreq(frame_size)
    radius = np.hypot(frequency[:, np.newaxis], frequency)
    edge = max(SOFTNESS * RIM, 1 / frame_size)
    pupil = 0.25 * (1 - np.tanh(1.5 * (radius - RIM) / edge))
    pupil *= 1 + np.tanh(1.5 * (radius - STOP) / edge)
    # The stationary phase of this defocus carries the pupil's rim to SPREAD of the frame.
    defocus = np.exp(1j * np.pi * SPREAD * frame_size / RIM * radius**2)
    first = np.fft.fftshift(np.fft.ifft2(pupil * defocus))
    y, x = np.mgrid[:frame_size, :frame_size] / frame_size - 0.5
    powers = ((a, total - a) for total in count() for a in range(total + 1))
    family = [first * y**a * x**b for (a, b), _ in zip(powers, range(modes), strict=False)]
    return _orthogonal(family, modes)


def diffuser_probe(frame_size: int, modes: int = 1) -> NDArray[np.complex128]:
    """A beam as wide as the frame behind a diffuser: what a near-field scan needs to tell depths apart.

    Parameters
    ----------
    frame_size : int
    modes : int

    Returns
    -------
    (mode, y, x) complex128 array
        Of amplitude near one and random smooth phase, total power 1, orthogonal modes each with 0.3 of the
        power of the one before.
    """
    random = np.random.default_rng(frame_size)
    frequency = np.fft.fftfreq(frame_size)
    smooth = np.exp(-((frequency[:, np.newaxis] ** 2 + frequency**2) * GRAIN**2))
    noise = np.fft.ifft2(np.fft.fft2(random.normal(size=(2, modes, frame_size, frame_size))) * smooth).real
    noise /= noise.std(axis=(-2, -1), keepdims=True)
    family = (1 + 0.15 * noise[0]) * np.exp(1j * ROUGHNESS * noise[1])
    return _orthogonal(family, modes)


def _orthogonal(family: ArrayLike, modes: int) -> NDArray[np.complex128]:
    """Gram-Schmidt in order: the first mode stays what it is, up to its sign."""
    waves = np.asarray(family)
    orthogonal, _ = np.linalg.qr(waves.reshape(modes, -1).T)
    share = MODE_RATIO ** np.arange(modes)
    return orthogonal.T.reshape(waves.shape) * np.sqrt(share / share.sum())[:, None, None]


def _picture(photograph: NDArray[np.uint8], shape: tuple[int, int], periodic: bool) -> NDArray[np.float64]:
    """A photograph from 0 to 1, as large as the canvas; a periodic one is faded across its seam."""
    from skimage.transform import resize

    seam = tuple(n // 8 for n in shape) if periodic else (0, 0)
    wanted = (shape[0] + seam[0], shape[1] + seam[1])
    fitted = tuple(min(n, size) for n, size in zip(wanted, photograph.shape, strict=True))
    image = resize(photograph, fitted, order=1, anti_aliasing=True).astype(float)
    low, high = np.percentile(image, (0.5, 99.5))
    image = np.clip((image - low) / (high - low), 0, 1)
    image = np.pad(image, [(0, n - m) for n, m in zip(wanted, fitted, strict=True)], mode="reflect")
    for axis, (size, fade) in enumerate(zip(shape, seam, strict=True)):
        image = np.moveaxis(image, axis, 0)
        weight = ((np.arange(fade) + 0.5) / max(fade, 1))[:, np.newaxis]
        start = weight * image[:fade] + (1 - weight) * image[size : size + fade]
        image = np.moveaxis(np.concatenate([start, image[fade:size]]), 0, axis)
    return image
