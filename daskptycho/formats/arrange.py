"""From what a file holds to the arguments of `create_scan`: axes, centre, crop, geometry, first probe.

A reader returns what it finds in the order of the file. Here that is combined with what the user gives and
assumes, and brought into the order of a scan.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.first_probe import guess_first_probe
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.padding import pad_frames
from daskptycho.formats.units import PLAUSIBLE, check_plausible
from daskptycho.scan.calibration import GEOMETRY_NUMBERS
from daskptycho.scan.optics import NEAR_FIELD, PHOTON, energy_to_wavelength, wavelength_to_energy

__all__ = ["ASSUMABLE", "GEOMETRY_OPTIONS", "Arrangement", "arrange_scan", "orient_positions"]

# Arguments of `create_scan` that a user may give to take precedence over the file.
GEOMETRY_OPTIONS = (*GEOMETRY_NUMBERS, "propagation", "radiation", "position_unit")

# What a file may lack and a user may assume.
ASSUMABLE = (*GEOMETRY_OPTIONS, "scan_step_m", "scan_shape")

# Each follows from the other.
EQUIVALENT = {"energy_eV": "wavelength_m", "wavelength_m": "energy_eV"}

# What readers return in place of a pixel size; these are no arguments of `create_scan`.
CALIBRATIONS = ("angle_per_pixel", "frequency_per_pixel")

# Distance of the centre from N//2, in pixels, from which on frames are cropped.
OFF_CENTRE = 1.0


@dataclass(frozen=True)
class Arrangement:
    """What a user may say about the frames and positions of any file.

    Attributes
    ----------
    zero_frequency : {"centre", "corner"}
        Where the zero frequency lies in the frames.
    centre : (float, float), optional
        [y, x] of the zero frequency in pixels of the frames in the file, instead of what the file says.
    crop : int or (int, int), optional
        Size to which frames are cropped round the zero frequency, in pixels.
    pad : int
        Pixels that near-field frames get on each side, which are not valid (`padding.pad_frames`).
    position_axes : str
        What the two columns of the positions in the file are: "yx" or "xy", with a minus before each letter
        whose axis points the other way, as in "-yx" or "x-y".
    rotation_deg : float
        Angle by which positions are rotated from the first axis to the second.
    scan_shape : (int, int), optional
        Rows and columns of a raster, for a file without positions.
    scan_step_m : float or (float, float), optional
        Step of that raster in metres.
    guess_probe : bool
        Make a first guess of the probe if the file has none.
    probe_diameter : float, optional
        Diameter of that guess, a disc, in pixels. By default it is estimated from the frames.
    probe_defocus_m : float
        Distance from the focus to the sample, along the beam, by which that guess is propagated, in metres.
        Above zero the focus lies before the sample, below zero behind it.
    """

    zero_frequency: str = "centre"
    centre: tuple[float, float] | None = None
    crop: int | tuple[int, int] | None = None
    pad: int = 0
    position_axes: str = "yx"
    rotation_deg: float = 0.0
    scan_shape: tuple[int, int] | None = None
    scan_step_m: float | tuple[float, float] | None = None
    guess_probe: bool = False
    probe_diameter: float | None = None
    probe_defocus_m: float = 0.0

    def __post_init__(self) -> None:
        if self.zero_frequency not in ("centre", "corner"):
            raise OptionError(f"zero_frequency is {self.zero_frequency!r}; expected 'centre' or 'corner'")
        orient_positions(np.zeros((1, 2)), self.position_axes)
        if (self.probe_defocus_m or self.probe_diameter) and not self.guess_probe:
            raise OptionError(
                "probe_diameter and probe_defocus_m belong to a guess of the probe; expected guess_probe "
                "(--guess-probe) too"
            )
        if self.probe_diameter is not None and not self.probe_diameter > 0:
            raise OptionError(f"probe_diameter is {self.probe_diameter}; expected pixels, above 0")


def orient_positions(position: ArrayLike, axes: str) -> NDArray[np.float64]:
    """Bring the two columns of positions into the order [y, x], with their signs.

    Parameters
    ----------
    position : (frame, 2) array
    axes : str
        What the columns are: "yx" or "xy", with a minus before each letter whose axis points the other way.

    Returns
    -------
    (frame, 2) float64 array

    Raises
    ------
    OptionError
        `axes` has another form.
    ScanError
        `position` has another shape.
    """
    found = re.fullmatch(r"(-?)([yx])(-?)([yx])", axes)
    if found is None or found[2] == found[4]:
        raise OptionError(
            f"position_axes is {axes!r}; expected 'yx' or 'xy', with a minus before each letter whose sign "
            "changes"
        )
    columns = np.asarray(position, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[1] != 2:
        raise ScanError(f"position has the shape {columns.shape}; expected (frame, 2), as [y, x]")
    columns = columns * [-1.0 if sign else 1.0 for sign in (found[1], found[3])]
    return columns if found[2] == "y" else columns[:, ::-1]


def arrange_scan(
    found: Mapping[str, Any], arrangement: Arrangement, given: Mapping[str, Any], assume: Mapping[str, Any]
) -> dict[str, Any]:
    """Combine what a reader found with what the user says, as arguments of `create_scan`.

    Parameters
    ----------
    found : mapping
        From a reader: arguments of `create_scan` in the order of the file, and if it has them `centre`,
        `scan_shape`, `scan_step_m`, `angle_per_pixel` (rad) and `frequency_per_pixel` (1/m).
    arrangement : Arrangement
    given : mapping
        Arguments that take precedence over the file.
    assume : mapping
        Arguments for what the file lacks.

    Returns
    -------
    dict
        Arguments of `create_scan`.

    Warns
    -----
    UserWarning
        The file contradicts a number that was given, or has one that was assumed.

    Raises
    ------
    ScanError
        A number is impossible, or positions are missing.
    OptionError
        Something is assumed that cannot be assumed, or the order of the axes is unknown.
    """
    scan = dict(found)
    source = scan.get("source", "the file")
    for name, value in assume.items():
        _assume(scan, name, value, source)
    _override(scan, given, source)
    # The user may give any positive number, which `create_scan` checks; the file only a plausible one.
    for name in PLAUSIBLE:
        if name in scan and name not in given and name not in assume:
            check_plausible(name, scan[name], source)
    scan["position"] = _find_positions(scan, arrangement, source)
    _centre_frames(scan, arrangement)
    _derive_pixel_size(scan)
    if arrangement.pad:
        pad_frames(scan, arrangement.pad)
    if "probe" not in scan and arrangement.guess_probe:
        scan["probe"] = guess_first_probe(scan, arrangement.probe_diameter, arrangement.probe_defocus_m)
    for name in ("centre", "scan_shape", "scan_step_m", *CALIBRATIONS):
        scan.pop(name, None)
    return scan


def _assume(scan: dict[str, Any], name: str, value: Any, source: str) -> None:
    if name not in ASSUMABLE:
        raise OptionError(f"{name} cannot be assumed; expected one of {', '.join(ASSUMABLE)}")
    present = name if name in scan else EQUIVALENT.get(name)
    if present in scan:
        warnings.warn(
            f"{name} is not assumed: {source} has {present} {scan[present]}", UserWarning, stacklevel=4
        )
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
            own = convert(float(scan.pop(other)), radiation)
        if name in PLAUSIBLE and own is not None and not np.allclose(own, value, rtol=1e-3):
            warnings.warn(f"{name} is {value} as given; {source} has {own}", UserWarning, stacklevel=4)
    scan.update(given)
    if (
        "pixel_size_m" in given
        and scan.get("propagation") != NEAR_FIELD
        and "detector_distance_m" not in given
    ):
        # A calibrated pixel size is more accurate than the nominal distance of the camera.
        scan.pop("detector_distance_m", None)


def _find_positions(scan: dict[str, Any], arrangement: Arrangement, source: str) -> NDArray[np.float64]:
    """Positions [y, x] of the frames, (frame, 2), from the file or of a raster."""
    frames = len(scan["intensity"])
    if "position" in scan:
        position = np.asarray(scan["position"], dtype=np.float64)
    else:
        position = _make_raster(scan, arrangement, frames, source)
    position = orient_positions(position, arrangement.position_axes)
    if arrangement.rotation_deg:
        angle = np.deg2rad(arrangement.rotation_deg)
        cosine, sine = np.cos(angle), np.sin(angle)
        position = position @ np.array([[cosine, sine], [-sine, cosine]])
    return position


def _make_raster(
    scan: dict[str, Any], arrangement: Arrangement, frames: int, source: str
) -> NDArray[np.float64]:
    """Positions of a raster in metres, row by row."""
    shape = arrangement.scan_shape or scan.get("scan_shape")
    step = arrangement.scan_step_m if arrangement.scan_step_m is not None else scan.get("scan_step_m")
    if shape is None:
        raise ScanError(
            f"{source} has {frames} frames and no positions; expected scan_shape (--scan-shape) and "
            "scan_step_m (--scan-step-m) for a raster, or a file of positions (--position-file)"
        )
    if shape[0] * shape[1] != frames:
        raise ScanError(f"scan_shape is {tuple(shape)} for {frames} frames; expected their product")
    if step is None:
        raise ScanError(
            f"{source} does not say how far the beam moves from frame to frame; expected scan_step_m "
            "(--scan-step-m, or --assume scan_step_m=...)"
        )
    check_plausible("scan_step_m", step, source)
    scan["position_unit"] = "m"
    row, column = np.divmod(np.arange(frames), shape[1])
    return np.column_stack([row, column]) * np.broadcast_to(np.asarray(step, dtype=float), (2,))


def _centre_frames(scan: dict[str, Any], arrangement: Arrangement) -> None:
    """Bring the zero frequency to N//2 of the frames, of `valid` and of `background`, and crop them."""
    shape = np.array(scan["intensity"].shape[1:])
    if arrangement.zero_frequency == "corner":
        _apply_to_frames(scan, lambda frames: np.fft.fftshift(frames, axes=(-2, -1)), None)
    middle = shape // 2
    centre = arrangement.centre if arrangement.centre is not None else scan.get("centre")
    if centre is None or scan.get("propagation") == NEAR_FIELD:
        origin = middle
    else:
        origin = np.rint(np.asarray(centre, dtype=float)).astype(int)
        if (origin < 1).any() or (origin > shape - 1).any():
            raise ScanError(
                f"the zero frequency lies at {tuple(np.round(centre, 2).tolist())} of frames of "
                f"{tuple(shape.tolist())} pixels; expected it on the detector: give centre (--centre)"
            )
    if np.abs(origin - middle).max() < OFF_CENTRE and arrangement.crop is None:
        return
    largest = 2 * np.minimum(origin, shape - origin)
    if arrangement.crop is not None:
        size = np.broadcast_to(np.asarray(arrangement.crop, dtype=int), (2,))
    else:
        # Frames stay square, so that an object pixel is as high as it is wide.
        size = np.minimum(largest, largest.min()) if shape[0] == shape[1] else largest
        warnings.warn(
            f"the zero frequency lies at {tuple(origin.tolist())}, off the middle {tuple(middle.tolist())}: "
            f"frames are cropped to {size[0]} x {size[1]} pixels round it",
            UserWarning,
            stacklevel=4,
        )
    if (size < 2).any() or (origin - size // 2 < 0).any() or (origin + (size + 1) // 2 > shape).any():
        raise OptionError(
            f"crop is {tuple(size.tolist())} round {tuple(origin.tolist())} of frames of "
            f"{tuple(shape.tolist())} pixels; expected at most {tuple(largest.tolist())}"
        )
    start = origin - size // 2
    rows, columns = (slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
    _apply_to_frames(scan, lambda frames: frames[..., rows, columns], (int(size[0]), int(size[1])))


def _apply_to_frames(
    scan: dict[str, Any], function: Callable[..., Any], frame_shape: tuple[int, int] | None
) -> None:
    """Apply a function to the frames, `valid` and `background`; it may change the shape of the frames."""
    frames = scan["intensity"]
    if isinstance(frames, LazyFrames):
        scan["intensity"] = frames.map(function, frame_shape)
    elif frame_shape:
        scan["intensity"] = function(frames)
    else:
        scan["intensity"] = frames.map_blocks(function, dtype=frames.dtype)
    for name in ("valid", "background"):
        if scan.get(name) is not None:
            scan[name] = function(np.asarray(scan[name]))
    if "probe" in scan and frame_shape is not None and scan.get("propagation") == NEAR_FIELD:
        scan["probe"] = function(np.asarray(scan["probe"]))
    elif "probe" in scan and frame_shape is not None:
        del scan["probe"]
        warnings.warn(
            "the probe of the file is left out: frames of another size have another pixel on the sample",
            UserWarning,
            stacklevel=5,
        )


def _derive_pixel_size(scan: dict[str, Any]) -> None:
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
