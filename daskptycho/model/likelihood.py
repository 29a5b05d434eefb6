"""The likelihood: how waves at the detector are compared with what was measured, and moved towards it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from daskptycho.backend import kernels

__all__ = ["Amplitude", "Likelihood"]

Array = Any


class Likelihood(Protocol):
    """What a likelihood has to offer."""

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        """Move waves at the detector, in place, to the nearest ones that agree with the measurement.

        Parameters
        ----------
        detected : (frame, mode, N, N) complex64 array
            From `Forward.propagate`, which left out ``sqrt(scale)``.
        amplitude : (frame, N, N) float32 array
            -1 where a pixel is not valid; such pixels stay as they are.
        scale : float

        Returns
        -------
        float, or an array without axes
            The misfit before the move; where the waves are on a GPU it stays there.
        """


@dataclass(frozen=True)
class Amplitude:
    """The misfit ``sum (|Fz| - a)^2``: Poisson counts with their variance stabilised by the root.

    With several modes ``|Fz|^2`` is summed over them.
    """

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        return kernels(detected).project_modulus(detected, amplitude, scale)
