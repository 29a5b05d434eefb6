"""The scale of a scan: energy, distances, pixel sizes, and positions in object pixels.

What is not known is absent, and never invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.scan.optics import (
    FAR_FIELD,
    NEAR_FIELD,
    PHOTON,
    RADIATIONS,
    energy_to_wavelength,
    fresnel_numbers,
    is_near_field,
    object_pixel_size,
    wavelength_to_energy,
)

__all__ = [
    "GEOMETRY_NUMBERS",
    "check_geometry",
    "geometry_attributes",
    "pixel_size",
    "position_in_pixels",
    "scan_period",
]

# Relative difference up to which energy and wavelength agree: they are often rounded to four digits.
ROUNDING = 1e-3

# Attributes of the geometry that are positive numbers, or pairs of them.
GEOMETRY_NUMBERS = (
    "energy_eV",
    "wavelength_m",
    "detector_distance_m",
    "detector_pixel_size_m",
    "source_distance_m",
    "pixel_size_m",
)

# What determines the pixel size; one of each group is enough.
PIXEL_SIZE_INPUTS = (("energy_eV", "wavelength_m"), ("detector_distance_m",), ("detector_pixel_size_m",))


def geometry_attributes(
    frame_shape: tuple[int, int],
    *,
    energy_eV: float | None = None,
    wavelength_m: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_size_m: float | tuple[float, float] | None = None,
    source_distance_m: float | None = None,
    pixel_size_m: float | tuple[float, float] | None = None,
    propagation: str = FAR_FIELD,
    radiation: str = PHOTON,
) -> dict[str, Any]:
    """Attributes of a scan for the geometry that is known; what is not known is absent.

    Energy and wavelength follow from each other, the pixel size of the object from the geometry.

    Parameters
    ----------
    frame_shape : (int, int)
    energy_eV, wavelength_m, detector_distance_m : float, optional
    detector_pixel_size_m, pixel_size_m : float or (float, float), optional
        One length, or two for y and x.
    source_distance_m : float, optional
        From the point source of a near field to the sample; without it the beam is parallel.
    propagation : {"far-field", "near-field"}
    radiation : {"photon", "electron"}

    Raises
    ------
    ScanError
        A value is not positive, two values contradict each other, or a near field lacks part of its geometry.
    """
    given = {
        "energy_eV": energy_eV,
        "wavelength_m": wavelength_m,
        "detector_distance_m": detector_distance_m,
        "detector_pixel_size_m": detector_pixel_size_m,
        "source_distance_m": source_distance_m,
        "pixel_size_m": pixel_size_m,
    }
    attributes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    attributes["propagation"] = propagation
    if radiation != PHOTON:
        attributes["radiation"] = radiation
    check_geometry(attributes)
    for name, value in attributes.items():
        if not isinstance(value, str):
            attributes[name] = float(value) if isinstance(value, Real) else list(_to_pair(value, name))
    if energy_eV is None and wavelength_m is not None:
        attributes["energy_eV"] = wavelength_to_energy(float(wavelength_m), radiation)
    if wavelength_m is None and energy_eV is not None:
        attributes["wavelength_m"] = energy_to_wavelength(float(energy_eV), radiation)
    computed = _compute_pixel_size(attributes, frame_shape)
    if pixel_size_m is not None:
        attributes["pixel_size_m"] = list(_to_pair(pixel_size_m, "pixel_size_m"))
        if computed is not None and not np.allclose(computed, attributes["pixel_size_m"], rtol=1e-2):
            raise ScanError(
                f"pixel_size_m is {attributes['pixel_size_m']} and {list(computed)} follows from wavelength, "
                "distance and detector pixels: give one of the two"
            )
    elif computed is not None:
        attributes["pixel_size_m"] = list(computed)
    if propagation == NEAR_FIELD:
        _check_near_field(attributes, frame_shape)
    return attributes


def check_geometry(attributes: Mapping[str, Any]) -> None:
    """Check that the lengths and energies among these attributes are positive and agree.

    Raises
    ------
    ScanError
        Names the attribute, what was found and what was expected.
    """
    for name in GEOMETRY_NUMBERS:
        if name in attributes:
            value = attributes[name]
            lengths = _to_pair(value, name) if "pixel_size" in name else (value,)
            if not all(isinstance(n, Real) and 0 < float(n) < np.inf for n in lengths):
                raise ScanError(f"{name} is {value!r}; expected a positive number")
    is_near_field(attributes)
    radiation = attributes.get("radiation", PHOTON)
    if radiation not in RADIATIONS:
        raise ScanError(f"radiation is {radiation!r}; expected one of {', '.join(RADIATIONS)}")
    if "energy_eV" in attributes and "wavelength_m" in attributes:
        energy, wavelength = float(attributes["energy_eV"]), float(attributes["wavelength_m"])
        expected = energy_to_wavelength(energy, radiation)
        if abs(wavelength - expected) > ROUNDING * expected:
            raise ScanError(
                f"wavelength_m is {wavelength:.6g} and energy_eV is {energy:.6g}; at that energy the "
                f"{radiation} has a wavelength of {expected:.6g} m: give one of the two"
            )


def pixel_size(ds: xr.Dataset) -> tuple[float, float] | None:
    """Size of an object pixel in metres, [y, x], or None where the geometry is not known.

    It is the attribute `pixel_size_m`, or else computed by `optics.object_pixel_size`.
    """
    if "pixel_size_m" in ds.attrs:
        return _to_pair(ds.attrs["pixel_size_m"], "pixel_size_m")
    return _compute_pixel_size(ds.attrs, (ds.sizes["qy"], ds.sizes["qx"]))


def position_in_pixels(ds: xr.Dataset) -> NDArray[np.float64]:
    """Scan positions in object pixels.

    Returns
    -------
    (frame, 2) float64 array
        [y, x] of the first pixel of each frame.

    Raises
    ------
    ScanError
        The unit is neither "m" nor "pixel", or the positions are in metres and the pixel size is unknown.
    """
    position = np.asarray(ds["position"].values, dtype=np.float64)
    unit = ds["position"].attrs.get("units")
    if unit == "pixel":
        return position
    if unit != "m":
        raise ScanError(f"position has the unit {unit!r}; expected 'm' or 'pixel'")
    size = pixel_size(ds)
    if size is None:
        raise ScanError(
            f"position is in metres, without {_name_missing(ds.attrs)}; expected energy_eV or "
            "wavelength_m, detector_distance_m and detector_pixel_size_m, from which the pixel size of the "
            "object follows, or positions in pixels (position_unit='pixel')"
        )
    return position / size


def scan_period(ds: xr.Dataset) -> tuple[int, int] | None:
    """Period of the canvas in pixels, [y, x], or None for a canvas that does not wrap round.

    Raises
    ------
    ScanError
        The period is not two whole numbers.
    """
    if "period" not in ds.attrs:
        return None
    found = ds.attrs["period"]
    try:
        y, x = (int(size) for size in found)
        if [y, x] != [float(size) for size in found]:
            raise ValueError
    except (TypeError, ValueError):
        raise ScanError(f"period is {found!r}; expected two whole numbers of pixels, (y, x)") from None
    return y, x


def _compute_pixel_size(
    attributes: Mapping[str, Any], frame_shape: tuple[int, int]
) -> tuple[float, float] | None:
    if not all(any(name in attributes for name in group) for group in PIXEL_SIZE_INPUTS):
        return None
    pixel = _to_pair(attributes["detector_pixel_size_m"], "detector_pixel_size_m")
    known = {**attributes, "detector_pixel_size_m": pixel}
    if "wavelength_m" not in known:
        known["wavelength_m"] = energy_to_wavelength(
            float(known["energy_eV"]), known.get("radiation", PHOTON)
        )
    return object_pixel_size(known, frame_shape)


def _check_near_field(attributes: Mapping[str, Any], frame_shape: tuple[int, int]) -> None:
    if "pixel_size_m" not in attributes or "detector_distance_m" not in attributes:
        raise ScanError(
            f"propagation is 'near-field', without {_name_missing(attributes)}; expected energy_eV or "
            "wavelength_m, detector_distance_m and detector_pixel_size_m, and source_distance_m unless the "
            "beam is parallel"
        )
    numbers = fresnel_numbers(attributes)
    for axis, number, size in zip("yx", numbers, frame_shape, strict=True):
        # Between neighbouring frequencies the phase of the kernel changes by pi / (N F) at most.
        if size * number < 1:
            raise ScanError(
                f"propagation is 'near-field', but along {axis} the {size} pixels times the Fresnel number "
                f"of a pixel are {size * number:.3g}; expected 1 or more: the detector is too far for this "
                "frame, or a distance or the wavelength is wrong"
            )


def _name_missing(attributes: Mapping[str, Any]) -> str:
    """What the geometry lacks, for an error."""
    return " and ".join(
        " or ".join(group) for group in PIXEL_SIZE_INPUTS if not any(name in attributes for name in group)
    )


def _to_pair(value: Any, name: str) -> tuple[float, float]:
    """A length along [y, x] from one number or two."""
    try:
        y, x = np.broadcast_to(np.asarray(value, dtype=float), (2,)).tolist()
    except (TypeError, ValueError):
        raise ScanError(f"{name} is {value!r}; expected one length in metres, or two for y and x") from None
    return y, x
