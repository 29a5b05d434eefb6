"""What frames tell about themselves: where their zero frequency lies, and whether they hold amplitudes.

`arrange` calls this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.lazy_frames import sample_frames
from daskptycho.scan.optics import NEAR_FIELD

__all__ = [
    "apply_to_frames",
    "bright_in",
    "interpret_frames",
    "logarithm_of_counts",
    "squares_are_counts",
    "values_are_counts",
]

# Frames that are looked at.
SAMPLED_FRAMES = 6

# The zero frequency lies elsewhere if this share of the counts near both candidates is near the other one...
DECISIVE_SHARE = 0.8
# ... and their centre of mass, if it does, is this near to it, as a share of the frame.
NEAR = 0.15

# Squares of up to this many counts are whole within the rounding of float32, which is well below `ROUNDING`.
LARGEST_SQUARE = 1e4
ROUNDING = 0.02
# Share of the values that have to be whole, and number of them that it takes to tell.
NEARLY_ALL = 0.995
ENOUGH = 50


def bright_in(intensity: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> str | None:
    """Where the intensity of a frame or of a probe lies: round the "centre", in the "corner", or None.

    Parameters
    ----------
    intensity : (y, x) array
    valid : (y, x) bool array, optional
        Pixels that count.
    """
    mean = np.nan_to_num(np.asarray(intensity, dtype=float), posinf=0, neginf=0)
    mean = np.maximum(mean if valid is None or valid.shape != mean.shape else mean * valid, 0)
    middle = tuple(slice(n // 4, n // 4 + (n + 1) // 2) for n in mean.shape)
    rolled = np.fft.fftshift(mean)
    centre, corner = float(mean[middle].sum()), float(rolled[middle].sum())
    for name, own, image in (("centre", centre, mean), ("corner", corner, rolled)):
        if own > DECISIVE_SHARE * (centre + corner) > 0 and _lies_in_the_middle(image):
            return name
    return None


def _lies_in_the_middle(image: NDArray[np.float64]) -> bool:
    """Whether the bright part of an image is balanced round its middle."""
    bright = np.minimum(image, np.percentile(image, 99))
    total = bright.sum()
    if not total > 0:
        return False
    for axis, n in enumerate(image.shape):
        along = bright.sum(axis=1 - axis)
        if abs(float((along * (np.arange(n) - n // 2)).sum() / total)) > NEAR * n:
            return False
    return True


def values_are_counts(frames: NDArray[Any]) -> bool:
    """Whether nearly all values of frames above zero are whole numbers, and some above one."""
    values = _positive(frames)
    return values.size >= ENOUGH and bool(values.max() > 1) and _are_whole(values)


def squares_are_counts(frames: NDArray[Any]) -> bool:
    """Whether the values of frames are fractions whose squares are whole numbers: square roots of counts."""
    values = _positive(frames)
    values = values[values**2 <= LARGEST_SQUARE]
    # The roots of 1, 4 and 9 are whole themselves, and tell nothing.
    fractions = values[np.abs(values - np.rint(values)) > ROUNDING]
    return (
        fractions.size >= max(ENOUGH, values.size // 10)
        and bool(fractions.min() > 0.5)
        and np.unique(np.rint(fractions**2)).size > 1
        and _are_whole(fractions**2)
    )


def logarithm_of_counts(frames: NDArray[Any]) -> str | None:
    """The logarithm that makes whole numbers of all values of frames once it is undone; None if none does."""
    values = _positive(frames)
    for name, undo in (("log(1 + counts)", np.expm1), ("log10(1 + counts)", lambda v: 10.0**v - 1)):
        # Float32 holds the logarithm of so many counts well enough.
        counts = undo(values[values < np.log1p(LARGEST_SQUARE)])
        counts = counts[counts <= LARGEST_SQUARE]
        fractions = np.abs(values - np.rint(values)) > ROUNDING
        if (
            counts.size >= max(ENOUGH, values.size // 2)
            and fractions.mean() > 0.5
            and np.unique(np.rint(counts)).size > 2
            and _are_whole(counts)
        ):
            return name
    return None


def _positive(frames: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(frames, dtype=np.float64)
    return values[np.isfinite(values) & (values > 0)]


def _are_whole(values: NDArray[np.float64]) -> bool:
    return bool((np.abs(values - np.rint(values)) <= ROUNDING).mean() >= NEARLY_ALL) if values.size else False


def interpret_frames(
    scan: dict[str, Any],
    source: str,
    *,
    holds: str | None = None,
    zero_frequency: str | None = None,
    find_zero: bool = True,
) -> None:
    """Square amplitudes, and bring the zero frequency and the probe to N//2, in place; say what was found.

    Parameters
    ----------
    scan : dict
        What a reader found, with `amplitudes` if the name of the frames tells so.
    source : str
        Name of the file.
    holds : {"counts", "amplitudes"}, optional
        What the frames hold, if the user knows.
    zero_frequency : {"centre", "corner"}, optional
        Where the zero frequency lies, if the user knows.
    find_zero : bool
        Whether to look where it lies: not in the near field, nor where its pixel is known.

    Raises
    ------
    ScanError
        The name of the frames contradicts their values.
    """
    named = scan.get("amplitudes", False)
    sample = sample_frames(scan["intensity"], SAMPLED_FRAMES)
    few = sample[::3]
    if holds is None and named and values_are_counts(few):
        raise ScanError(
            f"the frames of {source} are called amplitudes, but are whole numbers as counts are; "
            "expected one of the two: give frames_hold (--frames-hold counts or --frames-hold amplitudes)"
        )
    logarithm = logarithm_of_counts(few)
    if holds is None and logarithm is not None:
        raise ScanError(
            f"the frames of {source} hold {logarithm}; expected counts: undo the logarithm in the file, or "
            "give frames_hold (--frames-hold counts) if these are counts all the same"
        )
    rooted = squares_are_counts(few)
    if holds is None and (named or rooted):
        holds = "amplitudes"
        why = "their squares are whole numbers" if rooted else "by their name"
        warn_caller(
            f"the frames of {source} are amplitudes, {why}: they are squared "
            "(--frames-hold counts keeps them)"
        )
    if holds == "amplitudes":
        apply_to_frames(scan, _square_whole if rooted else _square, None, ("intensity",))
        sample = sample**2
    if find_zero:
        _find_zero_frequency(scan, zero_frequency, sample, source)
    elif zero_frequency == "corner":
        _roll_frames(scan)
    probe = None if "probe" not in scan else np.asarray(scan["probe"])
    if probe is not None and probe.ndim >= 2 and probe.dtype.kind in "iufc":
        power = (np.abs(probe) ** 2).reshape(-1, *probe.shape[-2:]).sum(axis=0)
        if bright_in(power) == "corner":
            warn_caller(
                f"the probe of {source} is brightest round the corner: its centre is moved from there to N//2"
            )
            scan["probe"] = np.fft.fftshift(probe, axes=(-2, -1))


def _find_zero_frequency(
    scan: dict[str, Any], claimed: str | None, sample: NDArray[np.float64], source: str
) -> None:
    """Move the zero frequency from the corner to N//2, if the user says or the counts show it to be there."""
    valid = scan.get("valid")
    found = bright_in(sample.mean(axis=0), None if valid is None else np.asarray(valid, dtype=bool))
    # A claim that the frames contradict is doubted once all of them have been read.
    if claimed is None and found == "corner":
        warn_caller(
            f"the frames of {source} are brightest round the corner: the zero frequency is taken to lie "
            "there (--zero-frequency centre if it does not)"
        )
    if (claimed or found) == "corner":
        _roll_frames(scan)


def _roll_frames(scan: dict[str, Any]) -> None:
    apply_to_frames(scan, lambda frames: np.fft.fftshift(frames, axes=(-2, -1)), None)


def _square(frames: NDArray[Any]) -> NDArray[np.float64]:
    """Counts from amplitudes. Amplitudes below zero become counts below zero, which are refused."""
    frames = frames.astype(np.float64)
    return frames * np.abs(frames)


def _square_whole(frames: NDArray[Any]) -> NDArray[np.float64]:
    return np.rint(_square(frames))


def apply_to_frames(
    scan: dict[str, Any],
    function: Callable[..., Any],
    frame_shape: tuple[int, int] | None,
    names: Sequence[str] = ("intensity", "valid", "background"),
) -> None:
    """Apply a function to the frames, `valid` and `background`; it may change the shape of the frames."""
    scan["intensity"] = scan["intensity"].map(function, frame_shape)
    for name in names[1:]:
        if scan.get(name) is not None:
            scan[name] = function(np.asarray(scan[name]))
    if "probe" in scan and frame_shape is not None and scan.get("propagation") == NEAR_FIELD:
        scan["probe"] = function(np.asarray(scan["probe"]))
    elif "probe" in scan and frame_shape is not None:
        del scan["probe"]
        warn_caller(
            "the probe of the file is left out: frames of another size have another pixel on the sample"
        )
