"""The likelihood: compares waves at the detector with measured amplitudes, and projects them onto these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from daskptycho.backend import kernels

__all__ = ["Amplitude", "Likelihood"]

Array = Any


class Likelihood(Protocol):
    """The interface of a likelihood."""

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        """Replace waves at the detector, in place, by the nearest ones that agree with the measurement.

        Parameters
        ----------
        detected : (frame, mode, N, N) complex64 array
            ``Fz / sqrt(scale)`` from `Forward.propagate`. It is overwritten with the projection times
            ``sqrt(scale)``, as `Forward.propagate_back` expects it.
        amplitude : (frame, N, N) float32 array
            -1 where a pixel is not valid. There the waves ``Fz`` keep their value.
        scale : float
            From `Forward.scale`.

        Returns
        -------
        float, or array without axes
            The misfit before the projection. For waves on a GPU it is an array on the GPU.
        """


@dataclass(frozen=True)
class Amplitude:
    """The misfit ``sum (|Fz| - a)^2`` of amplitudes.

    The square root stabilises the variance of Poisson counts. With several modes, ``|Fz|^2`` is summed over
    them.
    """

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        return kernels(detected).project_modulus(detected, amplitude, scale)
