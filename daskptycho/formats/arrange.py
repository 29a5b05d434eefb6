"""From what a file holds to the arguments of `create_scan`: axes, centre, crop, geometry, first probe.

A reader returns what it finds in the order of the file. Here that is combined with what the user gives and
assumes, and brought into the order of a scan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.formats.frame_contents import apply_to_frames, interpret_frames
from daskptycho.formats.frame_layout import bin_frames, turn_frames
from daskptycho.formats.geometry import CALIBRATIONS, combine_geometry, derive_pixel_size
from daskptycho.formats.offers import CALLED
from daskptycho.formats.padding import pad_frames
from daskptycho.formats.positions import Positions
from daskptycho.formats.units import check_plausible, is_pixels, to_si
from daskptycho.scan.first_probe import Beam
from daskptycho.scan.optics import NEAR_FIELD

__all__ = ["Arrangement", "arrange_scan", "orient_positions"]

# Distance of the centre from N//2, in pixels, from which on frames are cropped.
OFF_CENTRE = 1.0


@dataclass(frozen=True)
class Arrangement:
    """What a user may say about the frames and positions of any file.

    Attributes
    ----------
    zero_frequency : {"centre", "corner"}, optional
        Where the zero frequency lies in the frames. By default in the centre, unless nearly all counts lie
        round the corner.
    frames_hold : {"counts", "amplitudes"}, optional
        What the frames hold; amplitudes are the square roots of counts, and are squared. By default counts,
        unless their name or their squares tell otherwise.
    centre : (float, float), optional
        [y, x] of the zero frequency in pixels of the frames in the file, instead of what the file says.
    crop : int or (int, int), optional
        Size to which frames are cropped round the zero frequency, in pixels.
    pad : int
        Pixels that near-field frames get on each side, which are not valid (`padding.pad_frames`).
    position_axes : str, optional
        What the two columns of the positions in the file are: "yx" or "xy", with a minus before each letter
        whose axis points the other way, as in "-yx" or "x-y". By default what their names tell, or "yx".
    frames : (int or None, int or None), optional
        Number of the first frame to import, and of the one after the last.
    mrad_per_pixel, inverse_angstrom_per_pixel : float, optional
        What a pixel of the detector is in the file, as an angle or as a spatial frequency, of which the pixel
        size of the object follows. Give one of them.
    bin : int
        Number of detector pixels along each axis that are summed to one.
    transpose : bool
        Exchange the axes of the frames, after they are centred and cropped.
    flip : str
        Axes along which the frames are reversed after that: "y", "x" or "yx".
    rotation_deg : float
        Angle by which positions are rotated from the first axis to the second.
    scan_shape : (int, int), optional
        Rows and columns of a raster, for a file without positions.
    scan_step_m : float or (float, float), optional
        Step of that raster in metres.
    guess_probe : bool
        Leave out a probe that the file has: `reconstruct` guesses one, as for every scan without a probe.
    probe_diameter, probe_defocus_m, convergence_angle_mrad : float, optional
        What is known of the beam for that guess: diameter of a disc in pixels; distance in metres from the
        focus to the sample along the beam, above zero where the focus lies before the sample and below zero
        where it lies behind; semi-angle of convergence.
    """

    zero_frequency: str | None = None
    frames_hold: str | None = None
    centre: tuple[float, float] | None = None
    crop: int | tuple[int, int] | None = None
    pad: int = 0
    position_axes: str | None = None
    frames: tuple[int | None, int | None] | None = None
    mrad_per_pixel: float | None = None
    inverse_angstrom_per_pixel: float | None = None
    bin: int = 1
    transpose: bool = False
    flip: str = ""
    rotation_deg: float = 0.0
    scan_shape: tuple[int, int] | None = None
    scan_step_m: float | tuple[float, float] | None = None
    guess_probe: bool = False
    probe_diameter: float | None = None
    probe_defocus_m: float | None = None
    convergence_angle_mrad: float | None = None

    def __post_init__(self) -> None:
        if self.bin < 1 or self.bin != int(self.bin):
            raise OptionError(f"bin is {self.bin}; expected a whole number of pixels, 1 or more")
        if not set(self.flip) <= set("yx"):
            raise OptionError(f"flip is {self.flip!r}; expected 'y', 'x' or 'yx'")
        if self.zero_frequency not in (None, "centre", "corner"):
            raise OptionError(f"zero_frequency is {self.zero_frequency!r}; expected 'centre' or 'corner'")
        if self.frames_hold not in (None, "counts", "amplitudes"):
            raise OptionError(f"frames_hold is {self.frames_hold!r}; expected 'counts' or 'amplitudes'")
        orient_positions(np.zeros((1, 2)), self.position_axes or "yx")
        if self.mrad_per_pixel is not None and self.inverse_angstrom_per_pixel is not None:
            raise OptionError("mrad_per_pixel and inverse_angstrom_per_pixel are given; expected one of them")
        for name in ("mrad_per_pixel", "inverse_angstrom_per_pixel"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise OptionError(f"{name} is {value}; expected a number above 0")
        self.beam()

    def beam(self) -> dict[str, float]:
        """What is known of the beam, as `create_scan` takes it."""
        return Beam(self.probe_diameter, self.probe_defocus_m, self.convergence_angle_mrad).known()


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
    positions_from = scan.pop("position_source", source)
    order = None
    if isinstance(scan.get("position"), Positions):
        scan["position"], unit, order, _ = scan["position"]
        scan |= {} if unit is None else {"position_unit": unit}
    combine_geometry(scan, given, assume, source)
    _calibrate_detector(scan, arrangement, given)
    _express_in_scan_units(scan, given.get("position_unit"), positions_from)
    scan["position"] = _find_positions(scan, arrangement, order, source)
    _choose_frames(scan, arrangement.frames, source, positions_from)
    known = scan.get("propagation") == NEAR_FIELD or arrangement.centre is not None or "centre" in scan
    interpret_frames(
        scan,
        source,
        holds=arrangement.frames_hold,
        zero_frequency=arrangement.zero_frequency,
        find_zero=not known,
    )
    _centre_frames(scan, arrangement)
    turn_frames(scan, transpose=arrangement.transpose, flip=arrangement.flip)
    bin_frames(scan, arrangement.bin)
    derive_pixel_size(scan)
    if arrangement.pad:
        pad_frames(scan, arrangement.pad)
    _choose_probe(scan, arrangement, source)
    for name in ("account", "amplitudes", "centre", "scan_shape", "scan_step_m", *CALIBRATIONS):
        scan.pop(name, None)
    return scan


def _express_in_scan_units(scan: dict[str, Any], given: str | None, source: str) -> None:
    """Express the positions in metres or pixels, by the unit of the file or by the one that is given."""
    own = scan.pop("position_unit", None)
    if "position" not in scan or (own is None and given is None):
        return
    unit = given if own is None else own
    factor = None if is_pixels(unit) else float(to_si(1.0, unit, "length", f"position of {source}"))
    if own is not None and given is not None:
        expected = None if is_pixels(given) else float(to_si(1.0, given, "length", "position_unit"))
        if factor != expected:
            raise ScanError(
                f"the positions of {source} are in {own}, but position_unit (--position-unit) is {given}; "
                "expected one unit: leave the option out, or give the positions in a file of their own "
                "(--position-file)"
            )
    scan["position_unit"] = "pixel" if factor is None else "m"
    scan["position"] = np.asarray(scan["position"], dtype=np.float64) * (1.0 if factor is None else factor)


def _calibrate_detector(scan: dict[str, Any], arrangement: Arrangement, given: Mapping[str, Any]) -> None:
    """Take the angle or the spatial frequency of a detector pixel that the user gives."""
    calibrations = {
        "angle_per_pixel": (arrangement.mrad_per_pixel, 1e-3),
        "frequency_per_pixel": (arrangement.inverse_angstrom_per_pixel, 1e10),
    }
    known = {name: value * unit for name, (value, unit) in calibrations.items() if value is not None}
    if not known:
        return
    if "pixel_size_m" in given:
        raise OptionError("pixel_size_m and a calibration of the detector are given; expected one of them")
    if "angle_per_pixel" in known and not {"energy_eV", "wavelength_m"} & set(scan):
        raise OptionError("mrad_per_pixel is given without the energy; expected energy_eV (--energy-eV) too")
    for name in ("pixel_size_m", *CALIBRATIONS):
        scan.pop(name, None)
    if scan.get("propagation") != NEAR_FIELD:
        # A calibration is more accurate than the nominal distance of the camera.
        scan.pop("detector_distance_m", None)
    scan |= known


def _choose_probe(scan: dict[str, Any], arrangement: Arrangement, source: str) -> None:
    """Keep the probe of the file, or what is known of the beam."""
    beam = arrangement.beam()
    if arrangement.guess_probe:
        scan.pop("probe", None)
    if beam and "probe" in scan:
        raise OptionError(
            f"{source} has a probe, and {', '.join(beam)} of the beam is given for a guess of one; expected "
            "one of the two: guess_probe (--guess-probe) leaves the file's probe out"
        )
    if beam:
        scan["beam"] = beam


def _find_positions(
    scan: dict[str, Any], arrangement: Arrangement, order: str | None, source: str
) -> NDArray[np.float64]:
    """Positions [y, x] of the frames, (frame, 2), from the file or of a raster."""
    frames = len(scan["intensity"])
    if "position" in scan:
        position = np.asarray(scan["position"], dtype=np.float64)
    else:
        position = _make_raster(scan, arrangement, frames, source)
    axes = arrangement.position_axes
    if axes is not None and order is not None and axes.replace("-", "") != order:
        warn_caller(
            f"the columns of the positions are named {' and '.join(order)}; position_axes makes them {axes}"
        )
    position = orient_positions(position, axes or order or "yx")
    if arrangement.rotation_deg:
        angle = np.deg2rad(arrangement.rotation_deg)
        cosine, sine = np.cos(angle), np.sin(angle)
        position = position @ np.array([[cosine, sine], [-sine, cosine]])
    return position


def _choose_frames(
    scan: dict[str, Any],
    chosen: tuple[int | None, int | None] | None,
    source: str,
    positions_from: str,
) -> None:
    """Keep the frames that the user chooses, with their positions; there have to be as many of both."""
    frames, positions = len(scan["intensity"]), len(scan["position"])
    start, stop, _ = slice(*(chosen or (None, None))).indices(frames)
    count = stop - start
    if chosen is not None and count < 1:
        raise OptionError(f"frames is {chosen}, none of the {frames} of {source}; expected at least one")
    if positions not in (count, frames) and not (chosen is not None and positions >= stop):
        fewer = min(frames, positions)
        chosen_ones = "" if count == frames else f", of which {count} are to be imported"
        whose = "and" if positions_from == source else f"and {positions_from} has"
        raise ScanError(
            f"{source} has {frames} frames{chosen_ones}, {whose} {positions} positions; "
            f"expected one for each: if the first {fewer} of both belong together, give frames "
            f"(--frames 0:{fewer})"
        )
    if positions != count:
        scan["position"] = scan["position"][start:stop]
    if count != frames:
        scan["intensity"] = scan["intensity"].select(start, stop)
        numbers = np.asarray(scan.get("frame_number", np.arange(frames)))
        scan["frame_number"] = numbers[start:stop]


def _make_raster(
    scan: dict[str, Any], arrangement: Arrangement, frames: int, source: str
) -> NDArray[np.float64]:
    """Positions of a raster in metres, row by row."""
    shape = arrangement.scan_shape or scan.get("scan_shape")
    step = arrangement.scan_step_m if arrangement.scan_step_m is not None else scan.get("scan_step_m")
    if shape is None:
        seen = [", ".join(own.others) for own in scan.get("account", ()) if own.what == CALLED["position"]]
        there = (
            f" ({seen[0]} is there: --position-key and --position-columns take two columns)" if seen else ""
        )
        raise ScanError(
            f"{source} has {frames} frames and no positions{there}; expected scan_shape (--scan-shape) and "
            "scan_step_m (--scan-step-m) for a raster, a file of positions (--position-file), or the name of "
            "the positions in the file (--position-key)"
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
        warn_caller(
            f"the zero frequency lies at {tuple(origin.tolist())}, off the middle {tuple(middle.tolist())}: "
            f"frames are cropped to {size[0]} x {size[1]} pixels round it"
        )
    if (size < 2).any() or (origin - size // 2 < 0).any() or (origin + (size + 1) // 2 > shape).any():
        raise OptionError(
            f"crop is {tuple(size.tolist())} round {tuple(origin.tolist())} of frames of "
            f"{tuple(shape.tolist())} pixels; expected at most {tuple(largest.tolist())}"
        )
    start = origin - size // 2
    rows, columns = (slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
    apply_to_frames(scan, lambda frames: frames[..., rows, columns], (int(size[0]), int(size[1])))
