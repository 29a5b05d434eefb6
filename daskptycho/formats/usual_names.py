"""Names that arrays and numbers usually have in files that follow no convention."""

from __future__ import annotations

import re
from collections.abc import Mapping

from daskptycho.formats.units import split_unit

__all__ = [
    "LOOSE_NAMES",
    "NEVER_GUESSED",
    "PTYLAB",
    "PTYLAB_NAMES",
    "USUAL_NAMES",
    "are_amplitudes",
    "bare_name",
    "last_part",
]

# Usual names: the last part of a path in lower case, without a unit. A plus joins two columns of positions.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "intensity": (
        *("intensity", "intensities", "diffraction", "frames", "dp", "ptychogram", "diffamp"),
        *("amplitude", "amplitudes", "data", "array"),
    ),
    "position": (
        *("position", "positions", "probe_positions", "encoder", "translation", "scan", "points"),
        *("probe_position_y+probe_position_x", "position_y+position_x", "pos_y+pos_x", "y+x"),
        *("samy+samx", "sy+sx"),
    ),
    "probe": ("probe", "probe_guess", "probe_initial"),
    "valid": ("valid", "mask", "pixel_mask", "bad_pixels"),
    "background": ("background", "dark", "data_dark"),
}

# A mask is True where pixels are valid in some files, and where they are bad in others; and counts may be
# without their background already.
NEVER_GUESSED = ("valid", "background")

# Usual names of numbers, which count only with a unit: without one the number may be anything.
LOOSE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("energy", "photon_energy", "incident_energy", "beam_energy"), "energy_eV"),
    **dict.fromkeys(("wavelength", "lambda", "incident_wavelength"), "wavelength_m"),
    **dict.fromkeys(("distance", "detector_distance", "det_distance"), "detector_distance_m"),
    **dict.fromkeys(("pixel_size", "detector_pixel_size", "det_pixel_size"), "detector_pixel_size_m"),
    **dict.fromkeys(("ccd_pixel", "detector_pixel"), "detector_pixel_size_m"),
}

# PtyLab's files have no units: everything is in metres.
PTYLAB = {"ptychogram", "encoder"}
PTYLAB_NAMES = {"wavelength": "wavelength_m", "zo": "detector_distance_m", "dxd": "detector_pixel_size_m"}

# Names of the square roots of counts.
AMPLITUDES = re.compile(r"(^|_)(diff)?amp(l|litudes?)?($|_)|(^|_)(sqrt|modulus|magnitudes?)($|_)")


def are_amplitudes(where: str) -> bool:
    """Whether the name of an array says that it holds the square roots of counts."""
    return AMPLITUDES.search(bare_name(where, "length")) is not None


def bare_name(path: str, kind: str) -> str:
    """The name of an array without its groups in lower case, without a unit of this kind."""
    return split_unit(last_part(path), kind)[0].lower()


def last_part(path: str) -> str:
    """The name of an array without its groups."""
    return path.rsplit("/", 1)[-1]
