"""A first guess of the probe, estimated from the frames.

An electron microscope focuses with an aperture, which the frames show: the probe is the inverse transform of
the root of the mean frame, defocused by the distance that the user gives. For x-rays the guess is a disc on
the sample. The inverse transform of a frame is the autocorrelation of its exit wave; where the frames differ
from their mean, that is of the structured part, which lies within the autocorrelation of the probe. The mean
of its square modulus is the autocorrelation of abs(P)^2, whose mean square distance is R^2 for a disc of
radius R.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.formats.lazy_frames import sampled
from daskptycho.scan.optics import ELECTRON, NEAR_FIELD, PHOTON, energy_to_wavelength, fresnel_kernel

__all__ = ["first_probe"]

# The smallest and the largest disc, as shares of a frame: overlap needs more, sampling less.
SMALLEST, LARGEST = 0.05, 0.45

# Width of the disc's edge in pixels.
EDGE = 2.0


def first_probe(
    scan: Mapping[str, Any], diameter: float | None = None, defocus_m: float = 0.0
) -> NDArray[np.complex64]:
    """A disc of the width that the frames tell, or an electron microscope's aperture in focus, defocused.

    Phases are flat but for the defocus. In the near field the beam fills the frame: a constant.

    Parameters
    ----------
    scan : mapping
        Arguments of `create_scan`; `intensity` in detector order.
    diameter : float, optional
        Of the disc, in pixels, in place of what the frames tell.
    defocus_m : float
        Distance that the disc is propagated by; needs the pixel size and the wavelength.

    Warns
    -----
    UserWarning
        Says what was guessed, or that a defocus could not be applied.
    """
    shape = tuple(int(n) for n in scan["intensity"].shape[1:])
    if scan.get("propagation") == NEAR_FIELD:
        return np.ones((1, *shape), dtype=np.complex64)
    frames = sampled(scan["intensity"])
    if scan.get("valid") is not None:
        frames = frames * np.asarray(scan["valid"], dtype=bool)
    if scan.get("radiation") == ELECTRON and diameter is None:
        aperture = np.fft.ifftshift(np.sqrt(np.maximum(frames.mean(axis=0), 0)))
        probe = np.fft.fftshift(np.fft.ifft2(aperture, norm="ortho")).astype(np.complex64)
        return (_carried(probe, scan, defocus_m) if defocus_m else probe)[None]
    told = _radius(frames) if diameter is None else diameter / 2
    radius = float(np.clip(told, SMALLEST * min(shape), LARGEST * min(shape)))
    y, x = (np.arange(n) - n // 2 for n in shape)
    distance = np.hypot(y[:, None], x)
    probe = (0.5 * (1 - np.tanh((distance - radius) / EDGE))).astype(np.complex64)
    probe *= np.float32(np.sqrt(frames.sum(axis=(1, 2)).mean()) / np.linalg.norm(probe))
    if diameter is None:
        warnings.warn(
            f"the first guess of the probe is a disc of {2 * radius:.0f} pixels, as wide as the frames tell; "
            "where that is wrong, give probe_diameter (--probe-diameter)",
            UserWarning,
            stacklevel=5,
        )
    if defocus_m:
        probe = _carried(probe, scan, defocus_m)
    return probe[None]


def _radius(frames: NDArray[np.float64]) -> float:
    """Root mean square distance in the frames' autocorrelations, in pixels."""
    height, width = frames.shape[1:]
    power = np.zeros((height, width))
    # What all frames share tells of the probe's own phase; what differs, of the speckle's size.
    share = frames.sum(axis=(1, 2), keepdims=True)
    frames = frames - frames.mean(axis=0) * (share / max(share.mean(), 1e-30))
    for frame in frames:
        power += np.abs(np.fft.ifft2(frame)) ** 2
    power = np.fft.fftshift(power)
    y, x = np.arange(height) - height // 2, np.arange(width) - width // 2
    square = y[:, None] ** 2.0 + x**2.0
    # Photon noise is white and lies under everything; what is unscattered stands at the middle.
    power = np.maximum(power - np.median(power[square > (0.45 * min(height, width)) ** 2]), 0)
    power[square < 2] = 0
    total = power.sum()
    return float(np.sqrt((power * square).sum() / total)) if total > 0 else 0.0


def _carried(
    probe: NDArray[np.complex64], scan: Mapping[str, Any], defocus_m: float
) -> NDArray[np.complex64]:
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
        warnings.warn(
            "the first probe is not defocused: the pixel size or the wavelength is unknown",
            UserWarning,
            stacklevel=6,
        )
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
