"""A first guess of the probe, estimated from the frames.

An electron microscope focuses with an aperture, which the frames show: the probe is the inverse transform of
the square root of the mean frame, defocused by the distance that the user gives.

For x-rays the guess is a disc on the sample, whose radius the frames determine. The inverse transform of a
frame is the autocorrelation of its exit wave. The part that is left when the mean frame is subtracted comes
from the structure of the sample. The mean of its squared modulus over many frames is the autocorrelation of
abs(P)^2, and the mean square distance of that is R^2 for a disc of radius R.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import warn_caller
from daskptycho.formats.lazy_frames import sample_frames
from daskptycho.scan.optics import ELECTRON, NEAR_FIELD, PHOTON, energy_to_wavelength, fresnel_kernel

__all__ = ["guess_first_probe"]

# Radii of the smallest and the largest disc, as shares of a frame: a smaller one would not overlap with its
# neighbours, a larger one would not be sampled sufficiently.
SMALLEST, LARGEST = 0.05, 0.45

# Width of the disc's edge in pixels.
EDGE = 2.0


def guess_first_probe(
    scan: Mapping[str, Any], diameter: float | None = None, defocus_m: float = 0.0
) -> NDArray[np.complex64]:
    """Guess a probe from the frames: a disc, or the focus of an electron microscope's aperture.

    Its phase is flat, except for the defocus. In the near field, where the beam fills the frame, the guess is
    constant.

    Parameters
    ----------
    scan : mapping
        Arguments of `create_scan`, with `intensity` in detector order.
    diameter : float, optional
        Diameter of the disc in pixels of the object; where they are not square, in the smaller of their
        sides. By default it is estimated from the frames.
    defocus_m : float
        Distance in metres by which the guess is propagated from its focus to the sample, which needs the
        pixel size and the wavelength. Above zero the beam diverges on the sample (in electron microscopy,
        overfocus), below zero it converges.

    Returns
    -------
    (1, y, x) complex64 array

    Warns
    -----
    UserWarning
        Says which diameter was estimated, or that the guess could not be defocused.
    """
    shape = tuple(int(n) for n in scan["intensity"].shape[1:])
    if scan.get("propagation") == NEAR_FIELD:
        return np.ones((1, *shape), dtype=np.complex64)
    frames = sample_frames(scan["intensity"])
    if scan.get("valid") is not None:
        frames = frames * np.asarray(scan["valid"], dtype=bool)
    if scan.get("radiation") == ELECTRON and diameter is None:
        aperture = np.fft.ifftshift(np.sqrt(np.maximum(frames.mean(axis=0), 0)))
        probe = np.fft.fftshift(np.fft.ifft2(aperture, norm="ortho")).astype(np.complex64)
        return (_propagate(probe, scan, defocus_m) if defocus_m else probe)[None]
    step = _relative_pixel(scan, shape)
    radius = _estimate_radius(frames, step) if diameter is None else diameter / 2
    field = float((np.array(shape) * step).min())
    radius = float(np.clip(radius, SMALLEST * field, LARGEST * field))
    y, x = ((np.arange(n) - n // 2) * step[axis] for axis, n in enumerate(shape))
    distance = np.hypot(y[:, None], x)
    probe = (0.5 * (1 - np.tanh((distance - radius) / EDGE))).astype(np.complex64)
    probe *= np.float32(np.sqrt(frames.sum(axis=(1, 2)).mean()) / np.linalg.norm(probe))
    if diameter is None:
        warn_caller(
            f"the first guess of the probe is a disc of {2 * radius:.0f} pixels, estimated from the frames; "
            "if that is wrong, give probe_diameter (--probe-diameter)"
        )
    if defocus_m:
        probe = _propagate(probe, scan, defocus_m)
    return probe[None]


def _relative_pixel(scan: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Size of a pixel of the object along [y, x], in units of the smaller one."""
    size = scan.get("pixel_size_m")
    if size is None:
        detector = scan.get("detector_pixel_size_m")
        # As long as nothing else is known, pixels of the detector are square.
        size = 1 / (np.array(shape) * np.broadcast_to(1.0 if detector is None else detector, (2,)))
    pair = np.broadcast_to(np.asarray(size, dtype=float), (2,))
    return pair / pair.min()


def _estimate_radius(frames: NDArray[np.float64], step: NDArray[np.float64]) -> float:
    """Root mean square distance in the autocorrelations of the frames, in units of the smaller pixel."""
    height, width = frames.shape[1:]
    power = np.zeros((height, width))
    # What all frames share depends on the phase of the probe; the differences show the size of the speckles.
    share = frames.sum(axis=(1, 2), keepdims=True)
    frames = frames - frames.mean(axis=0) * (share / max(share.mean(), 1e-30))
    for frame in frames:
        power += np.abs(np.fft.ifft2(frame)) ** 2
    power = np.fft.fftshift(power)
    y, x = np.arange(height) - height // 2, np.arange(width) - width // 2
    square = (step[0] * y[:, None]) ** 2.0 + (step[1] * x) ** 2.0
    rim = 0.45 * float(min(step * frames.shape[1:]))
    # Photon noise is white and adds a constant; unscattered light adds a peak in the middle.
    power = np.maximum(power - np.median(power[square > rim**2]), 0)
    power[y[:, None] ** 2 + x**2 < 2] = 0
    total = power.sum()
    return float(np.sqrt((power * square).sum() / total)) if total > 0 else 0.0


def _propagate(
    probe: NDArray[np.complex64], scan: Mapping[str, Any], defocus_m: float
) -> NDArray[np.complex64]:
    """Propagate the probe (y, x) by this distance, if the pixel size and the wavelength are known."""
    wavelength = scan.get("wavelength_m")
    if wavelength is None and scan.get("energy_eV") is not None:
        wavelength = energy_to_wavelength(float(scan["energy_eV"]), scan.get("radiation", PHOTON))
    size = scan.get("pixel_size_m")
    if (
        size is None
        and wavelength is not None
        and {"detector_distance_m", "detector_pixel_size_m"} <= set(scan)
    ):
        detector = np.broadcast_to(np.asarray(scan["detector_pixel_size_m"], dtype=float), (2,))
        size = wavelength * float(scan["detector_distance_m"]) / (np.array(probe.shape) * detector)
    if size is None or wavelength is None:
        warn_caller("the first probe is not defocused: the pixel size or the wavelength is unknown")
        return probe
    kernel = fresnel_kernel(
        {
            "propagation": NEAR_FIELD,
            "wavelength_m": wavelength,
            "pixel_size_m": size,
            "detector_distance_m": defocus_m,
        },
        probe.shape,
    )
    assert kernel is not None
    return np.fft.ifft2(np.fft.fft2(probe) * kernel).astype(np.complex64)
