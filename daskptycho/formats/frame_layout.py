"""Frames turned, flipped and binned, with all that belongs to them.

`arrange` calls this module once the zero frequency lies at N//2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, warn_caller
from daskptycho.formats.frame_contents import apply_to_frames
from daskptycho.scan.optics import NEAR_FIELD

__all__ = ["bin_frames", "turn_frames"]

# What grows with the size of a detector pixel.
ONE_FOR_EACH_AXIS = ("detector_pixel_size_m", "angle_per_pixel", "frequency_per_pixel")


def turn_frames(scan: dict[str, Any], *, transpose: bool, flip: str) -> None:
    """Exchange the axes of frames, mask, background and probe, and then reverse them, in place.

    Parameters
    ----------
    scan : dict
    transpose : bool
    flip : str
        Axes to reverse: "y", "x" or "yx".
    """
    axes = [{"y": -2, "x": -1}[letter] for letter in sorted(set(flip))]
    if not transpose and not axes:
        return

    def turn(frames: NDArray[Any]) -> NDArray[Any]:
        frames = np.swapaxes(frames, -2, -1) if transpose else frames
        for axis in axes:
            # The pixel N//2 stays where it is.
            frames = np.roll(np.flip(frames, axis), 1 - frames.shape[axis] % 2, axis)
        return frames

    probe = scan.pop("probe", None)
    height, width = scan["intensity"].shape[1:]
    apply_to_frames(scan, turn, (width, height) if transpose else (height, width))
    if probe is not None:
        scan["probe"] = turn(np.asarray(probe))
    if transpose:
        for name in ONE_FOR_EACH_AXIS:
            if name in scan and np.size(scan[name]) == 2:
                scan[name] = tuple(scan[name])[::-1]


def bin_frames(scan: dict[str, Any], size: int) -> None:
    """Sum counts over squares of `size` pixels, in place; a pixel is valid if all that it is made of are.

    The zero frequency is the first pixel of the square that has it. Rows and columns at the edges that do not
    fill a square are left out, and so is the probe: it had another frame.

    Raises
    ------
    OptionError
        Fewer than two squares are left.
    """
    if size == 1:
        return
    height, width = (_count_squares(int(n), size) for n in scan["intensity"].shape[1:])

    if min(height, width) < 2:
        shape = tuple(int(n) for n in scan["intensity"].shape[1:])
        raise OptionError(f"bin is {size} for frames of {shape} pixels; expected two squares or more a side")

    def squares(frames: NDArray[Any]) -> NDArray[Any]:
        cut: list[slice] = []
        for n, binned in zip(frames.shape[-2:], (height, width), strict=True):
            start = n // 2 - size * (binned // 2)
            cut.append(slice(start, start + size * binned))
        frames = frames[..., cut[0], cut[1]]
        return frames.reshape(*frames.shape[:-2], height, size, width, size)

    if scan.pop("probe", None) is not None:
        warn_caller("the probe of the file is left out: binned frames have another")
    valid = scan.pop("valid", None)
    apply_to_frames(scan, lambda frames: squares(frames).sum(axis=(-3, -1)), (height, width))
    if valid is not None:
        scan["valid"] = squares(np.asarray(valid)).all(axis=(-3, -1))
    grown: tuple[str, ...] = ONE_FOR_EACH_AXIS
    if scan.get("propagation") == NEAR_FIELD:
        grown += ("pixel_size_m",)
    for name in grown:
        if name in scan:
            value = np.asarray(scan[name], dtype=float) * size
            scan[name] = float(value) if value.ndim == 0 else tuple(value.tolist())


def _count_squares(n: int, size: int) -> int:
    """How many squares fit along an axis of n pixels if one of them begins at the zero frequency."""
    before, after = n // 2 // size, (n - n // 2) // size
    return before + min(after, before + 1)
