"""Units: numbers of a file converted to SI, or refused with the unit that was found.

A number whose unit is of another kind, or that no instrument can have, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["PLAUSIBLE", "check_plausible", "is_pixels", "to_si"]

ELECTRON_VOLT = 1.602176634e-19
ANGSTROM = ("Å", "Å", "A", "angstrom", "angstroms", "Angstrom", "ang")

RECIPROCAL = (("1/", ""), ("1 / ", ""), ("", "^-1"), ("", "⁻¹"))

# Kind of unit: name: factor to the kind's own unit, which is the first. Energies are in electron volts,
# angles in radians, reciprocal lengths in cycles a metre.
UNITS: Mapping[str, Mapping[str, float]] = {
    "length": {
        **dict.fromkeys(("m", "metre", "meter", "metres", "meters", "NX_LENGTH"), 1.0),
        "cm": 1e-2,
        **dict.fromkeys(("mm", "millimetre", "millimeter"), 1e-3),
        **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometre", "micrometer"), 1e-6),
        **dict.fromkeys(("nm", "nanometre", "nanometer"), 1e-9),
        **dict.fromkeys(ANGSTROM, 1e-10),
        "pm": 1e-12,
    },
    "energy": {
        **dict.fromkeys(("eV", "ev", "electronvolt"), 1.0),
        **dict.fromkeys(("keV", "kev"), 1e3),
        **dict.fromkeys(("MeV",), 1e6),
        **dict.fromkeys(("J", "j", "joule", "joules"), 1 / ELECTRON_VOLT),
    },
    "angle": {
        **dict.fromkeys(("rad", "radian", "radians"), 1.0),
        "mrad": 1e-3,
        **dict.fromkeys(("µrad", "μrad", "urad"), 1e-6),
        **dict.fromkeys(("deg", "degree", "degrees", "°"), np.pi / 180),
    },
    "reciprocal length": {
        **dict.fromkeys(("1/m", "m^-1", "1 / m"), 1.0),
        **dict.fromkeys(("1/nm", "nm^-1", "1 / nm", "nm⁻¹"), 1e9),
        **{f"{before}{name}{after}": 1e10 for name in ANGSTROM for before, after in RECIPROCAL},
    },
}

# Between which limits a beamline or a microscope finds itself; in the units of the names.
PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "energy_eV": (1.0, 1e7),
    "wavelength_m": (1e-13, 1e-5),
    "detector_distance_m": (1e-5, 1e3),
    "source_distance_m": (1e-6, 1e4),
    "detector_pixel_size_m": (1e-8, 1e-2),
    "pixel_size_m": (1e-13, 1e-3),
    "scan_step_m": (1e-13, 1e-2),
}


def to_si(value: Any, unit: Any, kind: str, what: str) -> NDArray[np.float64]:
    """A number or an array of them in the kind's own unit.

    Parameters
    ----------
    value : array_like
    unit : str or bytes
    kind : {"length", "energy", "angle", "reciprocal length"}
        Energies come out in eV, angles in rad, the rest in m and 1/m.
    what : str
        What it is, for the message.

    Raises
    ------
    ScanError
        The unit is none of that kind.
    """
    name = unit.decode() if isinstance(unit, bytes) else str(unit)
    factor = UNITS[kind].get(name.strip())
    if factor is None:
        belongs = next((other for other, names in UNITS.items() if name.strip() in names), None)
        found = "which is unknown" if belongs is None else f"which is of {_article(belongs)}"
        usual = ", ".join(list(UNITS[kind])[:12])
        raise ScanError(
            f"{what} has the unit {name!r}, {found}; expected one of {_article(kind)} ({usual}): "
            "correct the file, or give the number itself as an option"
        )
    return np.asarray(value, dtype=np.float64) * factor


def is_pixels(unit: Any) -> bool:
    """Whether a unit counts pixels."""
    name = unit.decode() if isinstance(unit, bytes) else str(unit)
    return name.strip().lower() in ("pixel", "pixels", "px")


def check_plausible(name: str, value: Any, where: str) -> None:
    """Refuse a number that no instrument has.

    Raises
    ------
    ScanError
        With the limits, and the option that gives the number.
    """
    low, high = PLAUSIBLE[name]
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if not ((numbers >= low) & (numbers <= high)).all():
        option = "--" + name.replace("_", "-")
        found = ", ".join(f"{number:.6g}" for number in numbers)
        raise ScanError(
            f"{name} comes out as {found} from {where}; "
            f"expected {low:g} to {high:g}: its unit is probably wrong, give {option} instead"
        )


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
