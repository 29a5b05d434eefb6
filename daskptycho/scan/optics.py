"""How the exit wave propagates to the detector, in far field and near field, and the scale that follows.

In the far field the detector records the Fourier transform of the exit wave. In the near field it records the
wave itself, propagated and enlarged by the magnification M = (z1 + z2) / z1, with a point source at the
distance z1 before the sample and the detector at z2 behind it. By the Fresnel scaling theorem this is the
picture that a parallel beam gives at the effective distance z2 / M, with pixels M times smaller (Paganin,
Coherent X-Ray Optics, 2006, appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = [
    "ELECTRON",
    "FAR_FIELD",
    "NEAR_FIELD",
    "PHOTON",
    "PLANCK_TIMES_C",
    "PROPAGATIONS",
    "RADIATIONS",
    "effective_distance",
    "energy_to_wavelength",
    "fresnel_kernel",
    "fresnel_numbers",
    "is_near_field",
    "magnification",
    "object_pixel_size",
    "wavelength_to_energy",
]

PHOTON, ELECTRON = "photon", "electron"
RADIATIONS = (PHOTON, ELECTRON)

# h c in eV m, and the rest energy of an electron in eV (CODATA 2018).
PLANCK_TIMES_C = 1.23984198e-6
ELECTRON_REST_ENERGY = 510_998.95


def energy_to_wavelength(energy_eV: float, radiation: str = PHOTON) -> float:
    """Wavelength in metres of a photon, or of an electron with this kinetic energy, relativistically."""
    if radiation == PHOTON:
        return PLANCK_TIMES_C / energy_eV
    return PLANCK_TIMES_C / math.sqrt(energy_eV * (energy_eV + 2 * ELECTRON_REST_ENERGY))


def wavelength_to_energy(wavelength_m: float, radiation: str = PHOTON) -> float:
    """Energy in eV of a photon, or kinetic energy of an electron, with this wavelength in metres."""
    momentum_times_c = PLANCK_TIMES_C / wavelength_m
    if radiation == PHOTON:
        return momentum_times_c
    return math.hypot(momentum_times_c, ELECTRON_REST_ENERGY) - ELECTRON_REST_ENERGY


FAR_FIELD, NEAR_FIELD = "far-field", "near-field"
PROPAGATIONS = (FAR_FIELD, NEAR_FIELD)

# What old scans call the far field.
FORMER_FAR_FIELD = "fraunhofer"


def is_near_field(attributes: Mapping[str, Any]) -> bool:
    """Whether the detector of a scan with these attributes stands in the near field.

    Raises
    ------
    ScanError
        The attribute `propagation` is neither "far-field" nor "near-field".
    """
    found = attributes.get("propagation", FAR_FIELD)
    if found not in (*PROPAGATIONS, FORMER_FAR_FIELD):
        raise ScanError(f"propagation is {found!r}; expected one of {', '.join(PROPAGATIONS)}")
    return bool(found == NEAR_FIELD)


def magnification(attributes: Mapping[str, Any]) -> float:
    """M = (z1 + z2) / z1 for a point source; 1 for a parallel beam, which has no `source_distance_m`."""
    if "source_distance_m" not in attributes:
        return 1.0
    return 1.0 + float(attributes["detector_distance_m"]) / float(attributes["source_distance_m"])


def effective_distance(attributes: Mapping[str, Any]) -> float:
    """Metres from the sample to a detector that records the same picture in a parallel beam, z2 / M."""
    return float(attributes["detector_distance_m"]) / magnification(attributes)


def object_pixel_size(attributes: Mapping[str, Any], frame_shape: tuple[int, int]) -> tuple[float, float]:
    """Size of an object pixel in metres, [y, x].

    In the far field wavelength * distance / (N * detector pixel), with N pixels along that axis; in the near
    field the detector pixel divided by the magnification.

    Parameters
    ----------
    attributes : mapping
        With the complete geometry, `detector_pixel_size_m` as a pair.
    frame_shape : (int, int)
    """
    y, x = attributes["detector_pixel_size_m"]
    if is_near_field(attributes):
        enlargement = magnification(attributes)
        return y / enlargement, x / enlargement
    field = float(attributes["wavelength_m"]) * float(attributes["detector_distance_m"])
    return field / (frame_shape[0] * y), field / (frame_shape[1] * x)


def fresnel_numbers(attributes: Mapping[str, Any]) -> tuple[float, float]:
    """Fresnel number of one object pixel, pixel^2 / (wavelength * effective distance), along [y, x]."""
    zone = float(attributes["wavelength_m"]) * effective_distance(attributes)
    y, x = np.broadcast_to(np.asarray(attributes["pixel_size_m"], dtype=float), (2,))
    return float(y**2 / zone), float(x**2 / zone)


def fresnel_kernel(
    attributes: Mapping[str, Any], frame_shape: tuple[int, int]
) -> NDArray[np.complex64] | None:
    """The near-field propagator in Fourier space, ``exp(-i pi wavelength z q^2)``; None in the far field.

    Parameters
    ----------
    attributes : mapping
        Of a scan, with its complete geometry.
    frame_shape : (int, int)

    Returns
    -------
    (qy, qx) complex64 array or None
        Zero frequency in the corner. Its modulus is one, so that its inverse is its conjugate.
    """
    if not is_near_field(attributes):
        return None
    exponents = [
        np.fft.fftfreq(n) ** 2 / f for n, f in zip(frame_shape, fresnel_numbers(attributes), strict=True)
    ]
    return np.exp(-1j * np.pi * np.add.outer(*exponents)).astype(np.complex64)
