"""Forward propagation: exit waves from the sample to the detector, and back.

In the far field this is a Fourier transform, in the near field a convolution with a Fresnel kernel. Both
are unitary, so that the inverse is also the adjoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from daskptycho.backend import Device, array_module, inverse_transform, to_device, transform

__all__ = ["FarField", "Forward", "NearField", "choose_forward"]

Array = Any


class Forward(Protocol):
    """The interface of a forward propagation F. Waves are (..., N, N) complex64 arrays."""

    def arrange(self, frames: Array) -> Array:
        """Copy (..., qy, qx) frames from detector order to the pixel order of `propagate`."""

    def scale(self, shape: tuple[int, ...]) -> float:
        """The square of the factor that `propagate` leaves out for waves of this shape.

        For the far field it is ``1 / pixels``. The likelihood applies it, which saves passes over the waves.
        """

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        """Propagate exit waves z to the detector: ``Fz / sqrt(scale)``.

        The result is in `out` if given. `waves` are not changed unless `out` is `waves`.
        """

    def propagate_back(self, waves: Array) -> Array:
        """Propagate waves w at the detector back to the sample: ``sqrt(1 / scale) F* w``.

        It is the adjoint of `propagate`, and with the waves multiplied by `scale` its inverse. `waves` may
        be overwritten.
        """

    def to(self, device: Device) -> Forward:
        """The same forward with its arrays on a device."""


def _choose_input(waves: Array, out: Array | None) -> tuple[Array, bool]:
    """The array to transform, and whether it may be overwritten."""
    if out is not None and out is not waves:
        array_module(waves).copyto(out, waves)
    return (waves, False) if out is None else (out, True)


@dataclass(frozen=True)
class FarField:
    """Propagation to the far field: the Fourier transform, with the zero frequency in the corner."""

    def arrange(self, frames: Array) -> Array:
        return array_module(frames).fft.ifftshift(frames, axes=(-2, -1))

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1 / math.prod(shape)

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        source, overwrite = _choose_input(waves, out)
        return transform(source, unitary=False, overwrite=overwrite)

    def propagate_back(self, waves: Array) -> Array:
        return inverse_transform(waves, unitary=False)

    def to(self, device: Device) -> FarField:
        return self


@dataclass(frozen=True)
class NearField:
    """Propagation in the near field: the exit wave convolved with a Fresnel kernel. Frames are images.

    Attributes
    ----------
    kernel : (N, N) complex64 array
        The kernel in Fourier space, of modulus one, with the zero frequency in the corner
        (`scan.optics.fresnel_kernel`).
    """

    kernel: Array

    def arrange(self, frames: Array) -> Array:
        return frames.copy()

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1.0

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        source, overwrite = _choose_input(waves, out)
        spectrum = transform(source, overwrite=overwrite)
        spectrum *= self.kernel
        return inverse_transform(spectrum)

    def propagate_back(self, waves: Array) -> Array:
        spectrum = transform(waves, overwrite=True)
        spectrum *= self.kernel.conj()
        return inverse_transform(spectrum)

    def to(self, device: Device) -> NearField:
        return replace(self, kernel=to_device(self.kernel, device))


def choose_forward(kernel: Array | None) -> Forward:
    """Choose the near field if there is a Fresnel kernel, and the far field otherwise."""
    return FarField() if kernel is None else NearField(kernel)
