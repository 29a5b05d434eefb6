"""The geometry of an imported scan: what the file says, what the user gives, and what the user assumes.

`arrange` calls this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.formats.offers import Unreadable, require
from daskptycho.formats.units import PLAUSIBLE, check_plausible
from daskptycho.scan.calibration import GEOMETRY_NUMBERS
from daskptycho.scan.optics import ELECTRON, NEAR_FIELD, PHOTON, energy_to_wavelength, wavelength_to_energy

__all__ = ["ASSUMABLE", "CALIBRATIONS", "GEOMETRY_OPTIONS", "combine_geometry", "derive_pixel_size"]

# Arguments of `create_scan` that a user may give to take precedence over the file.
GEOMETRY_OPTIONS = (*GEOMETRY_NUMBERS, "propagation", "radiation", "position_unit")

# What a file may lack and a user may assume.
ASSUMABLE = (*GEOMETRY_OPTIONS, "scan_step_m", "scan_shape")

# Each follows from the other.
EQUIVALENT = {"energy_eV": "wavelength_m", "wavelength_m": "energy_eV"}

# What readers return in place of a pixel size; these are no arguments of `create_scan`.
CALIBRATIONS = ("angle_per_pixel", "frequency_per_pixel")

# Relative difference up to which an energy and a wavelength agree: they are often rounded to four digits. A
# larger one is said, and from `CONTRADICTION` on refused.
ROUNDING = 1e-3
CONTRADICTION = 1e-2

# No x-ray source has enough coherent photons above this energy, and all electron microscopes lie near or
# above it.
HIGHEST_PHOTON_ENERGY = 50e3


def combine_geometry(
    scan: dict[str, Any], given: Mapping[str, Any], assume: Mapping[str, Any], source: str
) -> None:
    """Complete and correct, in place, the geometry that a file has by what the user says.

    Parameters
    ----------
    scan : dict
        What a reader found; values may be `Unreadable`.
    given : mapping
        Arguments that take precedence over the file.
    assume : mapping
        Arguments for what the file lacks.
    source : str
        Name of the file.

    Warns
    -----
    UserWarning
        The file contradicts a number that was given, or has one that was assumed.

    Raises
    ------
    ScanError
        A number is impossible, two of them contradict each other, or the radiation is unknown.
    OptionError
        Something is assumed that cannot be assumed.
    """
    for name, value in assume.items():
        _assume(scan, name, value, source)
    _override(scan, given, source)
    for value in scan.values():
        require(value)
    # The user may give any positive number, which `create_scan` checks; the file only a plausible one.
    for name in PLAUSIBLE:
        if name in scan and name not in given and name not in assume:
            check_plausible(name, scan[name], source)
    _reconcile(scan, source)


def _assume(scan: dict[str, Any], name: str, value: Any, source: str) -> None:
    if name not in ASSUMABLE:
        raise OptionError(f"{name} cannot be assumed; expected one of {', '.join(ASSUMABLE)}")
    present = name if name in scan else EQUIVALENT.get(name)
    if present in scan:
        warn_caller(f"{name} is not assumed: {source} has {present} {scan[present]}")
    else:
        scan[name] = value


def _override(scan: dict[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Replace what the file says by what the user gives, and warn where they differ."""
    radiation = given.get("radiation", scan.get("radiation", PHOTON))
    for name, value in given.items():
        own = scan.get(name)
        other = EQUIVALENT.get(name)
        # Energy and wavelength are equivalent: what the file has of the other is dropped.
        if other is not None and other in scan and other not in given:
            convert = energy_to_wavelength if name == "wavelength_m" else wavelength_to_energy
            equivalent = scan.pop(other)
            if own is None and not isinstance(equivalent, Unreadable):
                own = convert(float(equivalent), radiation)
        if name not in PLAUSIBLE or own is None or isinstance(own, Unreadable):
            continue
        if not np.allclose(own, value, rtol=ROUNDING, atol=0):
            warn_caller(f"{name} is {value} as given; {source} has {own}")
    scan.update({name: value for name, value in given.items() if name != "position_unit"})
    if (
        "pixel_size_m" in given
        and scan.get("propagation") != NEAR_FIELD
        and "detector_distance_m" not in given
    ):
        # A calibrated pixel size is more accurate than the nominal distance of the camera.
        scan.pop("detector_distance_m", None)


def _reconcile(scan: dict[str, Any], source: str) -> None:
    """Make energy, wavelength and radiation agree; without a word about it, high energies are refused."""
    known = scan.get("radiation")
    if "energy_eV" in scan and "wavelength_m" in scan:
        energy, wavelength = float(scan["energy_eV"]), float(scan["wavelength_m"])
        kinds = (known,) if known is not None else (PHOTON, ELECTRON)
        off = {kind: abs(energy_to_wavelength(energy, kind) / wavelength - 1) for kind in kinds}
        nearest = min(off, key=lambda kind: off[kind])
        if not off[nearest] <= CONTRADICTION:
            expected = energy_to_wavelength(energy, known or PHOTON)
            raise ScanError(
                f"{source} has the energy {energy:.6g} eV and the wavelength {wavelength:.6g} m; at that "
                f"energy the {known or PHOTON} has {expected:.6g} m: give one of the two (--energy-eV or "
                "--wavelength-m)"
            )
        if off[nearest] > ROUNDING:
            warn_caller(
                f"{source} has the energy {energy:.6g} eV and the wavelength {wavelength:.6g} m, which "
                f"differ by {100 * off[nearest]:.2g} %; the energy is taken (or give --wavelength-m)"
            )
        if known is None and nearest == ELECTRON:
            scan["radiation"] = known = ELECTRON
        del scan["wavelength_m"]
    energy = float(scan.get("energy_eV", 0))
    if known is None and energy > HIGHEST_PHOTON_ENERGY:
        raise ScanError(
            f"the energy is {energy:.6g} eV, and {source} does not say of what; expected photons below "
            f"{HIGHEST_PHOTON_ENERGY:.0e} eV: give --radiation electron, or --radiation photon if it is right"
        )


def derive_pixel_size(scan: dict[str, Any]) -> None:
    """Derive the pixel size of the object from the angle or the spatial frequency of a detector pixel."""
    if "pixel_size_m" in scan or not any(name in scan for name in CALIBRATIONS):
        return
    if "frequency_per_pixel" in scan:
        frequency = np.broadcast_to(np.asarray(scan["frequency_per_pixel"], dtype=float), (2,))
    else:
        if "wavelength_m" in scan:
            wavelength = float(scan["wavelength_m"])
        elif "energy_eV" in scan:
            wavelength = energy_to_wavelength(float(scan["energy_eV"]), scan.get("radiation", PHOTON))
        else:
            return
        frequency = np.broadcast_to(np.asarray(scan["angle_per_pixel"], dtype=float), (2,)) / wavelength
    y, x = 1 / (np.array(scan["intensity"].shape[1:]) * frequency)
    scan["pixel_size_m"] = (float(y), float(x))
    check_plausible("pixel_size_m", scan["pixel_size_m"], "the calibration of the detector")
