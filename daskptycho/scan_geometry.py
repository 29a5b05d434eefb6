"""The scale of a scan: energy, distance, pixel sizes, and positions in object pixels.

What is not known is absent and never invented. `scan_check` and `scan` call this module, and
`scan` shows its names to the rest; it calls `errors` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError

__all__ = ["check_geometry", "geometry_attributes", "pixel_size", "position_in_pixels", "scan_period"]

# Photon energy times wavelength, h c in eV m (CODATA 2018).
PLANCK_LIGHT = 1.23984198e-6

# Energy and wavelength are often given rounded to four digits.
ROUNDING = 1e-3

POSITIVE = ("energy_eV", "wavelength_m", "detector_distance_m", "detector_pixel_size_m", "pixel_size_m")

# What the pixel size of a far-field scan follows from; one of each group is enough.
NEEDED = (("energy_eV", "wavelength_m"), ("detector_distance_m",), ("detector_pixel_size_m",))


def geometry_attributes(
    frame_shape: tuple[int, int],
    *,
    energy_eV: float | None = None,
    wavelength_m: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_size_m: float | tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Attributes of the geometry that is known; what is not known is absent.

    Energy and wavelength follow from each other (h c = 1.23984198e-6 eV m), the object's pixel
    size from all of them.

    Parameters
    ----------
    frame_shape : (int, int)
    energy_eV, wavelength_m, detector_distance_m : float, optional
    detector_pixel_size_m : float or (float, float), optional
        One length, or two for y and x.

    Raises
    ------
    ScanError
        A value that is not positive, or an energy and a wavelength that disagree.
    """
    given = {
        "energy_eV": energy_eV,
        "wavelength_m": wavelength_m,
        "detector_distance_m": detector_distance_m,
        "detector_pixel_size_m": detector_pixel_size_m,
    }
    attributes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    check_geometry(attributes)
    for name, value in attributes.items():
        attributes[name] = float(value) if isinstance(value, Real) else list(_pair(value, name))
    if energy_eV is None and wavelength_m is not None:
        attributes["energy_eV"] = PLANCK_LIGHT / float(wavelength_m)
    if wavelength_m is None and energy_eV is not None:
        attributes["wavelength_m"] = PLANCK_LIGHT / float(energy_eV)
    size = _far_field_pixel(attributes, frame_shape)
    if size is not None:
        attributes["pixel_size_m"] = list(size)
    return attributes


def check_geometry(attributes: Mapping[str, Any]) -> None:
    """Check that the lengths and energies among these attributes are positive and agree.

    Raises
    ------
    ScanError
        Names the attribute, what was found and what was expected.
    """
    for name in POSITIVE:
        if name in attributes:
            value = attributes[name]
            lengths = _pair(value, name) if "pixel_size" in name else (value,)
            if not all(isinstance(n, Real) and 0 < float(n) < np.inf for n in lengths):
                raise ScanError(f"{name} is {value!r}; expected a positive number")
    if "energy_eV" in attributes and "wavelength_m" in attributes:
        energy, wavelength = float(attributes["energy_eV"]), float(attributes["wavelength_m"])
        expected = PLANCK_LIGHT / energy
        if abs(wavelength - expected) > ROUNDING * expected:
            raise ScanError(
                f"wavelength_m is {wavelength:.6g} and energy_eV is {energy:.6g}; a photon of that "
                f"energy has a wavelength of {expected:.6g} m: give one of the two"
            )


def pixel_size(ds: xr.Dataset) -> tuple[float, float] | None:
    """Size of an object pixel in metres, [y, x], or None where the geometry is not known.

    Taken from the attribute `pixel_size_m`, or else computed for a far-field scan as
    wavelength * distance / (N * detector pixel), with N pixels along that axis.
    """
    if "pixel_size_m" in ds.attrs:
        return _pair(ds.attrs["pixel_size_m"], "pixel_size_m")
    return _far_field_pixel(ds.attrs, (ds.sizes["qy"], ds.sizes["qx"]))


def position_in_pixels(ds: xr.Dataset) -> NDArray[np.float64]:
    """Scan positions in object pixels.

    Returns
    -------
    (frame, 2) float64 array
        [y, x] of each frame's first pixel.

    Raises
    ------
    ScanError
        A unit that is neither "m" nor "pixel", or positions in metres and no pixel size.
    """
    position = np.asarray(ds["position"].values, dtype=np.float64)
    unit = ds["position"].attrs.get("units")
    if unit == "pixel":
        return position
    if unit != "m":
        raise ScanError(f"position has the unit {unit!r}; expected 'm' or 'pixel'")
    size = pixel_size(ds)
    if size is None:
        missing = [" or ".join(group) for group in NEEDED if not any(name in ds.attrs for name in group)]
        raise ScanError(
            f"position is in metres, without {' and '.join(missing)}; expected energy_eV or "
            "wavelength_m, detector_distance_m and detector_pixel_size_m, from which the "
            "object's pixel size follows, or positions in pixels (position_unit='pixel')"
        )
    return position / size


def scan_period(ds: xr.Dataset) -> tuple[int, int] | None:
    """Period of the canvas in pixels, [y, x], or None where it does not wrap round.

    Raises
    ------
    ScanError
        A period that is not two whole numbers.
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


def _far_field_pixel(
    attributes: Mapping[str, Any], frame_shape: tuple[int, int]
) -> tuple[float, float] | None:
    if not all(any(name in attributes for name in group) for group in NEEDED):
        return None
    if "wavelength_m" in attributes:
        wavelength = float(attributes["wavelength_m"])
    else:
        wavelength = PLANCK_LIGHT / float(attributes["energy_eV"])
    reach = wavelength * float(attributes["detector_distance_m"])
    detector = _pair(attributes["detector_pixel_size_m"], "detector_pixel_size_m")
    return reach / (frame_shape[0] * detector[0]), reach / (frame_shape[1] * detector[1])


def _pair(value: Any, name: str) -> tuple[float, float]:
    """A length along [y, x] from one number or two."""
    try:
        y, x = np.broadcast_to(np.asarray(value, dtype=float), (2,)).tolist()
    except (TypeError, ValueError):
        raise ScanError(f"{name} is {value!r}; expected one length in metres, or two for y and x") from None
    return y, x
