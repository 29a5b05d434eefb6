"""From what a file holds to the arguments of `create_scan`: axes, centre, crop, geometry, first probe.

A reader returns what it finds in the file's own order and units of length. Here that is combined with what
the user gives and assumes, and brought into the order of a scan.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.first_probe import first_probe
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.units import PLAUSIBLE, check_plausible
from daskptycho.scan.optics import NEAR_FIELD, PHOTON, energy_to_wavelength, wavelength_to_energy

__all__ = ["ASSUMABLE", "Arrangement", "arranged", "turned"]

# What a file may lack and a user may assume; the first two stand for each other.
ASSUMABLE = (
    "energy_eV",
    "wavelength_m",
    "detector_distance_m",
    "detector_pixel_size_m",
    "source_distance_m",
    "pixel_size_m",
    "scan_step_m",
    "scan_shape",
    "propagation",
    "radiation",
    "position_unit",
)
SAME = {"energy_eV": "wavelength_m", "wavelength_m": "energy_eV"}

# Readers say these in place of a pixel size; they are no arguments of a scan.
CALIBRATIONS = ("angle_per_pixel", "frequency_per_pixel")

# Distance of the centre from N//2, in pixels, from which frames are cut anew.
OFF_CENTRE = 1.0


@dataclass(frozen=True)
class Arrangement:
    """What a user may say of any file.

    Attributes
    ----------
    zero_frequency : {"centre", "corner"}
        Where the zero frequency lies in the frames.
    centre : (float, float), optional
        [y, x] of the zero frequency in pixels of the file's frames, in place of the file's own.
    crop : int or (int, int), optional
        Pixels of a frame to keep round the zero frequency.
    position_axes : str
        How the positions that were read become [y, x]: "yx", "xy", each letter with a minus where the sign
        turns, as "-yx" or "x-y".
    rotation_deg : float
        Angle by which positions are turned from the first axis to the second.
    scan_shape : (int, int), optional
        Rows and columns of a raster, where the file has no positions.
    scan_step_m : float or (float, float), optional
        Step of that raster.
    guess_probe : bool
        Make a first guess of the probe where the file has none.
    probe_diameter : float, optional
        Of that guess, a disc, in pixels; as the frames tell unless given.
    probe_defocus_m : float
        Distance from the focus by which that guess is defocused.
    """

    zero_frequency: str = "centre"
    centre: tuple[float, float] | None = None
    crop: int | tuple[int, int] | None = None
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
        turned(np.zeros((1, 2)), self.position_axes)
        if (self.probe_defocus_m or self.probe_diameter) and not self.guess_probe:
            raise OptionError(
                "probe_diameter and probe_defocus_m are of a guess; expected guess_probe (--guess-probe) too"
            )
        if self.probe_diameter is not None and not self.probe_diameter > 0:
            raise OptionError(f"probe_diameter is {self.probe_diameter}; expected pixels, above 0")


def turned(position: ArrayLike, axes: str) -> NDArray[np.float64]:
    """Positions of two columns as [y, x].

    Parameters
    ----------
    position : (frame, 2) array
    axes : str
        What the columns are: "yx" or "xy", a minus before a letter where that axis points the other way.

    Raises
    ------
    OptionError
        Axes of another form.
    ScanError
        Positions of another form.
    """
    found = re.fullmatch(r"(-?)([yx])(-?)([yx])", axes)
    if found is None or found[2] == found[4]:
        raise OptionError(
            f"position_axes is {axes!r}; expected 'yx' or 'xy', with a minus before a letter whose sign turns"
        )
    columns = np.asarray(position, dtype=np.float64)
    if columns.ndim != 2 or columns.shape[1] != 2:
        raise ScanError(f"position has the shape {columns.shape}; expected (frame, 2), as [y, x]")
    columns = columns * [-1.0 if sign else 1.0 for sign in (found[1], found[3])]
    return columns if found[2] == "y" else columns[:, ::-1]


def arranged(
    found: Mapping[str, Any], order: Arrangement, given: Mapping[str, Any], assume: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of `create_scan`.

    Parameters
    ----------
    found : mapping
        From a reader: arguments of `create_scan` in the file's order, and where there are any `centre`,
        `scan_shape`, `scan_step_m`, `angle_per_pixel` (rad) and `frequency_per_pixel` (1/m).
    order : Arrangement
    given : mapping
        Arguments that go before what the file says; a contradiction is told.
    assume : mapping
        Arguments for what the file lacks.

    Warns
    -----
    UserWarning
        The file says another number than was given, or had one that was assumed.

    Raises
    ------
    ScanError
        Numbers that cannot be, or positions that are missing.
    OptionError
        An assumption that nobody can make, or an unknown order of the axes.
    """
    scan = dict(found)
    source = scan.get("source", "the file")
    for name, value in assume.items():
        _assume(scan, name, value, source)
    _give(scan, given, source)
    # What a user gives is checked by `create_scan`, and believed where it is a number above zero.
    for name in PLAUSIBLE:
        if name in scan and name not in given and name not in assume:
            check_plausible(name, scan[name], source)
    scan["position"] = _positions(scan, order, source)
    _cut(scan, order)
    _calibrate(scan)
    if "probe" not in scan and order.guess_probe:
        scan["probe"] = first_probe(scan, order.probe_diameter, order.probe_defocus_m)
    for name in ("centre", "scan_shape", "scan_step_m", *CALIBRATIONS):
        scan.pop(name, None)
    return scan


def _assume(scan: dict[str, Any], name: str, value: Any, source: str) -> None:
    if name not in ASSUMABLE:
        raise OptionError(f"{name} cannot be assumed; expected one of {', '.join(ASSUMABLE)}")
    there = name if name in scan else SAME.get(name)
    if there in scan:
        warnings.warn(
            f"{name} is not assumed: {source} says {there} {scan[there]}", UserWarning, stacklevel=4
        )
    else:
        scan[name] = value


def _give(scan: dict[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Put what was given before what the file says, and tell where they differ."""
    radiation = given.get("radiation", scan.get("radiation", PHOTON))
    for name, value in given.items():
        own = scan.get(name)
        other = SAME.get(name)
        # Energy and wavelength are one number: the file's other name of it goes too.
        if other is not None and other in scan and other not in given:
            convert = energy_to_wavelength if name == "wavelength_m" else wavelength_to_energy
            own = convert(float(scan.pop(other)), radiation)
        if name in PLAUSIBLE and own is not None and not np.allclose(own, value, rtol=1e-3):
            warnings.warn(f"{name} is {value} as given; {source} says {own}", UserWarning, stacklevel=4)
    scan.update(given)
    if (
        "pixel_size_m" in given
        and scan.get("propagation") != NEAR_FIELD
        and "detector_distance_m" not in given
    ):
        # A calibration goes before the distance that a camera was told.
        scan.pop("detector_distance_m", None)


def _positions(scan: dict[str, Any], order: Arrangement, source: str) -> NDArray[np.float64]:
    """[y, x] of each frame, in the unit of the scan."""
    frames = len(scan["intensity"])
    if "position" in scan:
        position = np.asarray(scan["position"], dtype=np.float64)
    else:
        position = _raster(scan, order, frames, source)
    position = turned(position, order.position_axes)
    if order.rotation_deg:
        angle = np.deg2rad(order.rotation_deg)
        cosine, sine = np.cos(angle), np.sin(angle)
        position = position @ np.array([[cosine, sine], [-sine, cosine]])
    return position


def _raster(scan: dict[str, Any], order: Arrangement, frames: int, source: str) -> NDArray[np.float64]:
    shape = order.scan_shape or scan.get("scan_shape")
    step = order.scan_step_m if order.scan_step_m is not None else scan.get("scan_step_m")
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


def _cut(scan: dict[str, Any], order: Arrangement) -> None:
    """Put the zero frequency at N//2 of frames, mask, background."""
    shape = np.array(scan["intensity"].shape[1:])
    if order.zero_frequency == "corner":
        _change(scan, lambda frames: np.fft.fftshift(frames, axes=(-2, -1)), None)
    middle = shape // 2
    centre = order.centre if order.centre is not None else scan.get("centre")
    near_field = scan.get("propagation") == NEAR_FIELD
    if centre is None or near_field:
        at = middle
    else:
        at = np.rint(np.asarray(centre, dtype=float)).astype(int)
        if (at < 1).any() or (at > shape - 1).any():
            raise ScanError(
                f"the zero frequency lies at {tuple(np.round(centre, 2).tolist())} of frames of "
                f"{tuple(shape.tolist())} pixels; expected it on the detector: give centre (--centre)"
            )
    if np.abs(at - middle).max() < OFF_CENTRE and order.crop is None:
        return
    room = 2 * np.minimum(at, shape - at)
    wanted = room if order.crop is None else np.broadcast_to(np.asarray(order.crop, dtype=int), (2,))
    if order.crop is None:
        # Frames stay square: an object pixel has one size then.
        wanted = np.minimum(room, room.min()) if shape[0] == shape[1] else room
        warnings.warn(
            f"the zero frequency lies at {tuple(at.tolist())}, off the middle {tuple(middle.tolist())}: "
            f"frames are cut to {wanted[0]} x {wanted[1]} pixels round it",
            UserWarning,
            stacklevel=4,
        )
    if (wanted < 2).any() or (at - wanted // 2 < 0).any() or (at + (wanted + 1) // 2 > shape).any():
        raise OptionError(
            f"crop is {tuple(wanted.tolist())} round {tuple(at.tolist())} of frames of "
            f"{tuple(shape.tolist())} pixels; expected at most {tuple(room.tolist())}"
        )
    start = at - wanted // 2
    rows, columns = (slice(int(a), int(a + n)) for a, n in zip(start, wanted, strict=True))
    _change(scan, lambda frames: frames[..., rows, columns], (int(wanted[0]), int(wanted[1])))


def _change(scan: dict[str, Any], change: Any, frame_shape: tuple[int, int] | None) -> None:
    frames = scan["intensity"]
    if isinstance(frames, LazyFrames):
        scan["intensity"] = frames.changed(change, frame_shape)
    else:
        scan["intensity"] = change(frames) if frame_shape else frames.map_blocks(change, dtype=frames.dtype)
    for name in ("valid", "background"):
        if scan.get(name) is not None:
            scan[name] = change(np.asarray(scan[name]))
    if "probe" in scan and frame_shape is not None:
        del scan["probe"]
        warnings.warn(
            "the file's probe is left out: frames of another size have another pixel on the sample",
            UserWarning,
            stacklevel=5,
        )


def _calibrate(scan: dict[str, Any]) -> None:
    """The pixel size from how much of reciprocal space a detector pixel sees."""
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
