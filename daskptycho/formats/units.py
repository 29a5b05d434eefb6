"""Units: numbers of a file converted to SI, or refused with the unit that was found.

A number whose unit is of another kind, or that no instrument can have, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["PLAUSIBLE", "check_plausible", "is_pixels", "is_unit", "split_unit", "to_si", "unit_of"]

ELECTRON_VOLT = 1.602176634e-19
ANGSTROM = ("Å", "Å", "A", "angstrom", "angstroms", "Angstrom", "ang")

RECIPROCAL = (("1/", ""), ("1 / ", ""), ("", "^-1"), ("", "⁻¹"))

# The units of each kind, by all their names, with the factor to the first one: metres, electronvolts,
# radians, and cycles per metre.
UNITS: Mapping[str, Mapping[str, float]] = {
    "length": {
        **dict.fromkeys(("m", "metre", "meter", "metres", "meters", "NX_LENGTH"), 1.0),
        "cm": 1e-2,
        **dict.fromkeys(("mm", "millimetre", "millimeter", "millimetres", "millimeters"), 1e-3),
        **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "mum"), 1e-6),
        **dict.fromkeys(("micrometre", "micrometer", "micrometres", "micrometers"), 1e-6),
        **dict.fromkeys(("nm", "nanometre", "nanometer", "nanometres", "nanometers"), 1e-9),
        **dict.fromkeys(ANGSTROM, 1e-10),
        "pm": 1e-12,
    },
    "energy": {
        **dict.fromkeys(("eV", "ev", "electronvolt", "electronvolts"), 1.0),
        **dict.fromkeys(("keV", "kev", "kiloelectronvolt"), 1e3),
        "MeV": 1e6,
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

# Names whose letters mean another unit in the other case.
CASE_MATTERS = ("MeV", "A", "M")

# The end of a name that tells the unit: x_um, distance (mm), lambda[nm], energy_keV.
NAMED_UNIT = re.compile(
    r"^(?P<name>.*?)(?:[\s_]*[\[(]\s*(?P<bracket>[^\])]+?)\s*[\])]|[\s_.-]+(?P<tail>[^\W_]+))$"
)

# Limits within which all beamlines and microscopes lie, in the units that the names end in.
PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "energy_eV": (1.0, 1e7),
    "wavelength_m": (1e-13, 1e-5),
    "detector_distance_m": (1e-5, 1e3),
    "source_distance_m": (1e-6, 1e4),
    "detector_pixel_size_m": (1e-8, 1e-2),
    "pixel_size_m": (1e-13, 1e-3),
    "scan_step_m": (1e-13, 1e-2),
}


def to_si(value: Any, unit: Any, kind: str, name: str) -> NDArray[np.float64]:
    """Convert numbers of a file to m, eV, rad or 1/m.

    Parameters
    ----------
    value : array_like
    unit : str or bytes
        As the file names it.
    kind : {"length", "energy", "angle", "reciprocal length"}
        The kind that the unit has to be of.
    name : str
        What the numbers are, for the message.

    Raises
    ------
    ScanError
        The unit is unknown or of another kind.
    """
    symbol = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    factor = _factor(symbol, kind)
    if factor is None:
        other = next((other for other in UNITS if _factor(symbol, other) is not None), None)
        found = "which is unknown" if other is None else f"which is a unit of {other}"
        usual = ", ".join(list(UNITS[kind])[:12])
        raise ScanError(
            f"{name} has the unit {symbol!r}, {found}; expected a unit of {kind} ({usual}): "
            "correct the file, or give the number itself as an option"
        )
    return np.asarray(value, dtype=np.float64) * factor


def _factor(symbol: str, kind: str) -> float | None:
    """The factor of a unit to the first one of a kind; None if it is of no such kind. MM is mm."""
    symbol, names = symbol.strip(), UNITS[kind]
    if symbol in names:
        return names[symbol]
    by_lower = {name.lower(): factor for name, factor in names.items() if name not in CASE_MATTERS}
    return None if symbol in CASE_MATTERS else by_lower.get(symbol.lower())


def is_unit(symbol: str, kind: str) -> bool:
    """Whether a word is a unit of a kind; pixels count as lengths."""
    return _factor(symbol, kind) is not None or (kind == "length" and is_pixels(symbol))


def unit_of(attributes: Any) -> str | None:
    """The unit among the attributes of an array, under `units` or `unit`; None if there is none."""
    for name in ("units", "unit"):
        if name not in attributes:
            continue
        found = attributes[name]
        if isinstance(found, np.ndarray):
            found = found.ravel()[0] if found.size else ""
        text = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
        if text.strip():
            return text.strip()
    return None


def split_unit(name: str, kind: str) -> tuple[str, str | None]:
    """Split a name such as ``lambda_nm`` or ``X (um)`` into what is named and its unit.

    Parameters
    ----------
    name : str
    kind : {"length", "energy", "angle", "reciprocal length"}
        The kind that the unit has to be of; pixels count as lengths.

    Returns
    -------
    (str, str or None)
        The whole name and None, if it does not end in a unit of this kind.
    """
    found = NAMED_UNIT.match(name.strip())
    unit = None if found is None else found["bracket"] or found["tail"]
    if found is None or unit is None:
        return name.strip(), None
    if not is_unit(unit, kind):
        return name.strip(), None
    return found["name"].strip(), unit


def is_pixels(unit: Any) -> bool:
    """Whether a unit counts pixels."""
    symbol = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    return symbol.strip().lower() in ("pixel", "pixels", "px", "pix")


def check_plausible(name: str, value: Any, where: str) -> None:
    """Refuse a number outside of `PLAUSIBLE`.

    Parameters
    ----------
    name : str
        A key of `PLAUSIBLE`.
    value : float or array_like
    where : str
        Where it was found, for the message.

    Raises
    ------
    ScanError
        Names the limits, and the option that gives the number instead.
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
