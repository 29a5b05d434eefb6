"""Measured amplitudes of a tile, kept as counts and computed block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daskptycho.backend import Device, array_module, kernels, to_device
from daskptycho.model.forward import FarField, Forward

__all__ = ["Amplitudes", "Detector", "join_amplitudes", "prepare_amplitudes", "take_amplitudes"]

Array = Any


@dataclass(frozen=True)
class Amplitudes:
    """Measured amplitudes of a tile, kept as its counts.

    Indexed with a slice of frames, it gives their amplitudes: a ``(frame, N, N)`` float32 array in the pixel
    order of the forward propagation (for the far field with the zero frequency in the corner), -1 where a
    pixel is not valid. The square root is computed for each block of frames in every sweep. That adds a few
    per cent to the time of a sweep, and counts of 16 bits need half the memory of their amplitudes.

    Attributes
    ----------
    counts : (frame, N, N) uint8, uint16 or float32 array
        In the pixel order of the forward propagation, zero where a pixel is not valid.
    invalid : (N, N) bool array or None
        True where a pixel is not valid; None where all are.
    """

    counts: Array
    invalid: Array | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, frames: slice) -> Array:
        return self.take(frames)

    def take(self, frames: slice, out: Array | None = None) -> Array:
        """The same as ``self[frames]``, written into the (frame, N, N) float32 array `out` if given."""
        counts = self.counts[frames]
        if out is None:
            out = array_module(counts).empty(counts.shape, dtype=np.float32)
        kernels(counts).take_amplitudes(counts, self.invalid, out)
        return out

    def __sizeof__(self) -> int:
        return self.counts.nbytes

    def total(self) -> float:
        """Sum of the counts, ``sum a^2`` over the valid pixels; NaN if any of them is negative."""
        if self.counts.dtype == np.float32 and (self.counts < 0).any():
            return np.nan
        return float(self.counts.sum(dtype=np.float64))


def prepare_amplitudes(
    intensity: Array,
    valid: Array | None = None,
    forward: Forward | None = None,
) -> Amplitudes:
    """Prepare amplitudes from counts: arrange pixels in the order of the forward.

    A background stays in: it is part of the model (see `background`).

    Parameters
    ----------
    intensity : (frame, qy, qx) array
        Counts in detector order (zero frequency at N//2).
    valid : (qy, qx) bool array, optional
        True where a pixel is valid; all pixels are valid by default.
    forward : Forward, optional
        The far field by default.
    """
    xp = array_module(intensity)
    forward = FarField() if forward is None else forward
    small = intensity.dtype in (np.uint8, np.uint16)
    # Kernels run over the pixels of whole frames; arrays in memory may have any order of their axes.
    counts = xp.ascontiguousarray(forward.arrange(intensity if small else intensity.astype(np.float32)))
    invalid = None
    if valid is not None:
        invalid = forward.arrange(~xp.asarray(valid, dtype=bool))
        # Invalid pixels may hold any value, NaN included.
        xp.copyto(counts, counts.dtype.type(0), where=invalid)
    return Amplitudes(counts, invalid)


@dataclass(frozen=True)
class Detector:
    """Everything that is needed to turn counts into amplitudes; see `prepare_amplitudes`.

    Attributes
    ----------
    valid : (qy, qx) bool array or None
    forward : Forward
    device : "cpu" or "gpu"
        Where the amplitudes are kept.
    """

    valid: Array | None = None
    forward: Forward = field(default_factory=FarField)
    device: Device = "cpu"

    def prepare(self, frames: Array) -> Amplitudes:
        """Prepare the amplitudes of (frame, qy, qx) counts on the device."""
        valid = None if self.valid is None else to_device(self.valid, self.device)
        return prepare_amplitudes(to_device(frames, self.device), valid, self.forward)


def join_amplitudes(parts: Iterable[Amplitudes], frames: int) -> Amplitudes:
    """Join the amplitudes of consecutive frames.

    Parameters
    ----------
    parts : iterable of Amplitudes
        At least one; each is copied, and dropped, before the next one is asked for.
    frames : int
        Number of frames of all parts.
    """
    counts: Array | None = None
    invalid, start = None, 0
    for part in parts:
        if len(part) == frames:
            return part
        if counts is None:
            counts = array_module(part.counts).empty((frames, *part.counts.shape[1:]), part.counts.dtype)
        counts[start : start + len(part)] = part.counts
        invalid, start = part.invalid, start + len(part)
    return Amplitudes(counts, invalid)


def take_amplitudes(amplitude: Array, frames: slice, out: Array) -> Array:
    """Measured amplitudes of some frames; written into `out` where they are kept as counts."""
    return amplitude.take(frames, out) if isinstance(amplitude, Amplitudes) else amplitude[frames]
