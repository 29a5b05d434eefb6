"""The likelihood: compares waves at the detector with measured amplitudes, and projects them onto these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from daskptycho.backend import array_module, kernels

__all__ = ["Amplitude", "Likelihood", "Stabilised"]

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
        float, or array without axes or of two numbers
            The misfit before the projection, and what the likelihood makes small if that is something else.
            For waves on a GPU it is an array on the GPU.
        """


@dataclass(frozen=True)
class Amplitude:
    """The misfit ``sum (|Fz| - a)^2`` of amplitudes.

    The square root stabilises the variance of Poisson counts. With several modes, ``|Fz|^2`` is summed over
    them.
    """

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        return kernels(detected).project_modulus(detected, amplitude, scale)


@dataclass(frozen=True)
class Stabilised:
    """The misfit ``sum (sqrt(|Fz|^2 + 3/8) - sqrt(I + 3/8))^2`` of Poisson counts I.

    The shift stabilises the variance of small counts too (Anscombe, Biometrika 35, 246 (1948)), and keeps
    pixels without counts from pulling at the object. In place of the data projection, ``Fz`` is multiplied by
    ``sqrt((I + 3/8) / (|Fz|^2 + 3/8))``.
    """

    shift: float = 0.375

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        xp, shift = array_module(detected), np.float32(self.shift)
        valid = amplitude >= 0
        power = (detected.real**2 + detected.imag**2).sum(axis=1)
        difference = (xp.sqrt(power * np.float32(scale)) - amplitude) * valid
        misfit = (difference**2).sum(dtype=np.float64)
        shifted = xp.where(valid, xp.sqrt(amplitude**2 + shift), np.float32(-1))
        objective = kernels(detected).project_modulus(detected, shifted, scale, self.shift)
        return xp.stack([misfit, xp.asarray(objective)])
