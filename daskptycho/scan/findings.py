"""What the counts and positions of a scan say once all of them have come in: variables, and sentences.

`dataset` calls it when a scan is written; ``daskptycho info`` asks the same of a scan that is there.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import warn_caller
from daskptycho.scan.calibration import position_in_pixels, scan_period
from daskptycho.scan.intake import Intake
from daskptycho.scan.left_out import FRAME_USED, frames_used, list_numbers
from daskptycho.scan.odd_frames import (
    describe_outlying,
    describe_repeated,
    doubt_distance,
    doubt_step,
    find_dark_frames,
    find_outlying,
)
from daskptycho.scan.optics import is_near_field
from daskptycho.scan.zero_frequency import doubt_zero_frequency

__all__ = [
    "describe_intake",
    "describe_positions",
    "leave_out_dark_frames",
    "valid_pixels",
    "warn_of_positions",
]

# Most of the frames that are left out without having been asked for.
MOST_LEFT_OUT = 0.5


def valid_pixels(scan: xr.Dataset) -> NDArray[np.bool_] | None:
    """The mask of a scan, (qy, qx), or None."""
    return scan["valid"].values if "valid" in scan else None


def _beam_power(scan: xr.Dataset) -> NDArray[np.float64]:
    """Power of the beam at each frame relative to the mean, from the scan's gain; ones without it."""
    ones = np.ones(scan.sizes["frame"])
    if "gain" not in scan or scan["gain"].shape != ones.shape:
        return ones
    gain = scan["gain"].values.astype(float)
    # A gain that is impossible is refused by whatever uses it.
    return gain**2 / (gain**2).mean() if (np.isfinite(gain) & (gain > 0)).all() else ones


def describe_positions(scan: xr.Dataset) -> list[str]:
    """Sentences on the positions of the frames that are used, where they are possible but hardly meant."""
    used = frames_used(scan)
    position, frame_shape = position_in_pixels(scan)[used], (scan.sizes["qy"], scan.sizes["qx"])
    number = scan["frame_number"].values[used] if "frame_number" in scan else np.flatnonzero(used)
    said = []
    if scan_period(scan) is None:
        outlying = find_outlying(position, frame_shape)
        if outlying is not None:
            said.append(describe_outlying(outlying, number, position))
    doubt = doubt_step(position, frame_shape) or doubt_distance(position, frame_shape, scan_period(scan))
    return said if doubt is None else [*said, doubt]


def warn_of_positions(scan: xr.Dataset) -> None:
    """Warn of what `describe_positions` says."""
    for sentence in describe_positions(scan):
        warn_caller(sentence)


def leave_out_dark_frames(scan: xr.Dataset) -> xr.Dataset:
    """A scan in memory without its dark frames, as `dataset.create_scan` leaves them out, with a warning.

    A scan in a store is returned as it is.
    """
    intensity, used = scan["intensity"], frames_used(scan)
    if intensity.chunks is not None:
        return scan
    mask = valid_pixels(scan)
    counts = intensity.values if mask is None else np.where(mask, intensity.values, 0)
    totals = counts.sum(axis=(1, 2), dtype=np.float64)
    number = scan["frame_number"].values if "frame_number" in scan else np.arange(len(totals))
    whole = counts.dtype.kind != "f" or bool((counts == np.rint(counts)).all())
    totals /= _beam_power(scan)
    found = find_dark_frames(totals, position_in_pixels(scan), counts.shape[1:], whole=whole)
    left, said = _choose_frames(number, used, *found)
    for sentence in said:
        warn_caller(sentence)
    if np.array_equal(left, used):
        return scan
    changed = scan.assign({FRAME_USED: ("frame", left)})
    changed.encoding = dict(scan.encoding)
    return changed


def describe_intake(header: xr.Dataset, intake: Intake) -> tuple[xr.Dataset, list[str]]:
    """What follows from the counts of a scan.

    Parameters
    ----------
    header : xarray.Dataset
        The scan, in the order of the input.
    intake : Intake
        All frames have passed through it.

    Returns
    -------
    found : xarray.Dataset
        ``valid`` and ``frame_used``, if they are others than in the header.
    said : list of str
        What a user has to know.
    """
    found, said = xr.Dataset(), intake.report()
    if intake.masks:
        found["valid"] = (("qy", "qx"), intake.valid)
    empty, odd = find_dark_frames(
        *(intake.totals / _beam_power(header), position_in_pixels(header), intake.valid.shape),
        whole=intake.whole,
    )
    used, words = _choose_frames(header["frame_number"].values, frames_used(header), empty | intake.lost, odd)
    said += words
    if not np.array_equal(used, frames_used(header)):
        found[FRAME_USED] = ("frame", used)
    said += describe_positions(header.assign({FRAME_USED: ("frame", used)}))
    repeated = describe_repeated(intake.repeated, header["frame_number"].values, position_in_pixels(header))
    if repeated is not None:
        said.append(repeated)
    if not is_near_field(header.attrs):
        doubt = doubt_zero_frequency(intake.statistics.mean(intake.valid), decisive=True)
        said += [] if doubt is None else [doubt]
    return found, said


def _choose_frames(
    number: NDArray[np.int64], used: NDArray[np.bool_], empty: NDArray[np.bool_], odd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], list[str]]:
    """The frames that are used, without those that hold no counts or far too few or many; and why."""
    said = []
    for left_out, why in (
        (empty & used, "no counts"),
        (odd & used, "far fewer or more counts than neighbours that agree"),
    ):
        count = int(left_out.sum())
        if not count:
            continue
        frames = list_numbers(sorted(number[left_out]))
        have = f"{frames} {'has' if count == 1 else 'have'} {why}"
        if count > MOST_LEFT_OUT * used.sum():
            said.append(
                f"{have}, and {'is' if count == 1 else 'are'} used all the same: most frames are such"
            )
            continue
        said.append(f"{have}, and {'is' if count == 1 else 'are'} left out")
        used = used & ~left_out
    return used, said
