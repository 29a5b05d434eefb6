"""Energy and wavelength of what illuminates the sample: photons or electrons.

`scan_geometry` and the foreign formats call this module; it calls nothing of this package.
"""

from __future__ import annotations

import math

__all__ = ["ELECTRON", "PHOTON", "PLANCK_LIGHT", "RADIATIONS", "energy_of", "wavelength_of"]

PHOTON, ELECTRON = "photon", "electron"
RADIATIONS = (PHOTON, ELECTRON)

# h c in eV m, and the rest energy of an electron in eV (CODATA 2018).
PLANCK_LIGHT = 1.23984198e-6
REST_ENERGY = 510_998.95


def wavelength_of(energy_eV: float, radiation: str = PHOTON) -> float:
    """Wavelength in metres from the energy: of an electron the kinetic one, relativistically."""
    if radiation == PHOTON:
        return PLANCK_LIGHT / energy_eV
    return PLANCK_LIGHT / math.sqrt(energy_eV * (energy_eV + 2 * REST_ENERGY))


def energy_of(wavelength_m: float, radiation: str = PHOTON) -> float:
    """Inverse of `wavelength_of`, in electron volts."""
    momentum = PLANCK_LIGHT / wavelength_m
    return momentum if radiation == PHOTON else math.hypot(momentum, REST_ENERGY) - REST_ENERGY
