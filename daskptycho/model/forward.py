"""Forward propagation: exit waves from the sample to the detector, and back.

In the far field this is a Fourier transform, in the near field a convolution with a Fresnel kernel. Both
are unitary, so that the inverse is also the adjoint.

The beam is fixed on the detector, and the sample moves. Exit waves lie on the pixels of the object: where a
position has a fraction of a pixel, the wave is shifted by it, beam and all. The near field takes this shift
back on the way to the detector. In the far field it is a factor of modulus one, which no detector sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from daskptycho.backend import Device, array_module, inverse_transform, kernels, to_device, transform
from daskptycho.model.shifts import are_whole_pixels, make_ramps

__all__ = ["FarField", "Forward", "NearField", "Propagation", "choose_forward"]

Array = Any


class Propagation(Protocol):
    """The interface of the propagation F of some frames. Waves are (frame, ..., N, N) complex64 arrays."""

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


class Forward(Protocol):
    """The interface of the forward propagation of a scan."""

    def arrange(self, frames: Array) -> Array:
        """Copy (..., qy, qx) frames from detector order to the pixel order of `Propagation.propagate`."""

    def restore(self, frames: Array) -> Array:
        """The inverse of `arrange`, for (..., N, N) arrays."""

    def at(self, fraction: Array) -> Propagation:
        """The propagation of frames whose positions have these fractions of a pixel, (frame, 2)."""

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

    def restore(self, frames: Array) -> Array:
        return array_module(frames).fft.fftshift(frames, axes=(-2, -1))

    def at(self, fraction: Array) -> FarField:
        """The same for all frames: the shift of a wave changes its phase at the detector only."""
        return self

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
        The kernel K in Fourier space, of modulus one, with the zero frequency in the corner
        (`scan.optics.fresnel_kernel`).
    """

    kernel: Array

    def arrange(self, frames: Array) -> Array:
        return frames.copy()

    def restore(self, frames: Array) -> Array:
        return frames.copy()

    def at(self, fraction: Array) -> Propagation:
        """The propagation with ``K_i(q) = K(q) exp(2 pi i q . fraction_i)`` in place of K for each frame."""
        if are_whole_pixels(fraction):
            return _Convolution(self.kernel)
        return _Convolution(self.kernel, make_ramps(fraction, self.kernel.shape))

    def to(self, device: Device) -> NearField:
        return replace(self, kernel=to_device(self.kernel, device))


@dataclass(frozen=True)
class _Convolution:
    """The near field of some frames: each wave is convolved with the kernel, and shifted back.

    Attributes
    ----------
    kernel : (N, N) complex64 array
    ramps : pair of (frame, N) complex64 arrays, optional
        Factors along y and x that shift by the fraction of each position; None for whole pixels.
    """

    kernel: Array
    ramps: tuple[Array, Array] | None = None

    def scale(self, shape: tuple[int, ...]) -> float:
        return 1.0

    def propagate(self, waves: Array, out: Array | None = None) -> Array:
        source, overwrite = _choose_input(waves, out)
        spectrum = transform(source, overwrite=overwrite)
        self._filter(spectrum, self.kernel, back=True)
        return inverse_transform(spectrum)

    def propagate_back(self, waves: Array) -> Array:
        spectrum = transform(waves, overwrite=True)
        self._filter(spectrum, self.kernel.conj(), back=False)
        return inverse_transform(spectrum)

    def _filter(self, spectrum: Array, kernel: Array, *, back: bool) -> None:
        """Multiply spectra by a kernel, in place, and shift them by the fractions, or back."""
        if self.ramps is None:
            spectrum *= kernel
            return
        ramps = [ramp.conj() for ramp in self.ramps] if back else self.ramps
        modes = spectrum.reshape(len(spectrum), math.prod(spectrum.shape[1:-2]), *spectrum.shape[-2:])
        kernels(spectrum).filter_spectra(modes, kernel, *ramps)


def choose_forward(kernel: Array | None) -> Forward:
    """Choose the near field if there is a Fresnel kernel, and the far field otherwise."""
    return FarField() if kernel is None else NearField(kernel)
