"""The forward: how exit waves get from the sample to the detector, and back.

In the far field that is one Fourier transform, in the near field a convolution with a Fresnel kernel. Both
are unitary, so that the way back is the inverse and the adjoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from daskptycho.backend import Device, array_module, inverse_transform, to_device, transform

__all__ = ["FarField", "Forward", "NearField", "choose_forward"]

Array = Any


class Forward(Protocol):
    """What a forward has to offer; waves are (..., N, N) complex64 arrays."""

    def arrange(self, frames: Array) -> Array:
        """Copy of (..., qy, qx) frames in detector order, in the order of `propagate`."""

    def scale(self, shape: tuple[int, ...]) -> float:
        """The factor, squared, that `propagate` leaves out for waves of this shape.

        A far field's ``1 / pixels`` is applied together with what is done at the detector: fewer passes over
        the waves.
        """

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        """Exit waves at the detector, ``Fz / sqrt(scale)``; `waves` stay as they are unless `out` is `waves`.

        `out` may be overwritten on the way.
        """

    def propagate_back(self, waves: Array) -> Array:
        """Exit waves from waves at the detector, times ``sqrt(scale)``; `waves` may be overwritten.

        With that factor it is the inverse, and the adjoint, of `propagate`.
        """

    def to(self, device: Device) -> Forward:
        """The same forward with its arrays on a device."""


def _prepare(waves: Array, out: Array | None) -> tuple[Array, bool]:
    """What to transform, and whether it may be overwritten."""
    if out is not None and out is not waves:
        array_module(waves).copyto(out, waves)
    return (waves, False) if out is None else (out, True)


@dataclass(frozen=True)
class FarField:
    """A detector in the far field: the Fourier transform of the exit wave, zero frequency in the corner."""

    def arrange(self, frames: Array) -> Array:
        return array_module(frames).fft.ifftshift(frames, axes=(-2, -1))

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1 / math.prod(shape)

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        given, overwrite = _prepare(waves, out)
        return transform(given, unitary=False, overwrite=overwrite)

    def propagate_back(self, waves: Array) -> Array:
        return inverse_transform(waves, unitary=False)

    def to(self, device: Device) -> FarField:
        return self


@dataclass(frozen=True)
class NearField:
    """A detector in the near field: the exit wave convolved with a Fresnel kernel; frames are images.

    Attributes
    ----------
    kernel : (N, N) complex64 array
        In Fourier space, of modulus one, zero frequency in the corner (`scan.optics.fresnel_kernel`).
    """

    kernel: Array

    def arrange(self, frames: Array) -> Array:
        return frames.copy()

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1.0

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        given, overwrite = _prepare(waves, out)
        spectrum = transform(given, overwrite=overwrite)
        spectrum *= self.kernel
        return inverse_transform(spectrum)

    def propagate_back(self, waves: Array) -> Array:
        spectrum = transform(waves, overwrite=True)
        spectrum *= self.kernel.conj()
        return inverse_transform(spectrum)

    def to(self, device: Device) -> NearField:
        return replace(self, kernel=to_device(self.kernel, device))


def choose_forward(kernel: Array | None) -> Forward:
    """The near field with a Fresnel kernel, the far field without one."""
    return FarField() if kernel is None else NearField(kernel)
