"""The likelihood: compares waves at the detector with measured amplitudes, and projects them onto these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from daskptycho.backend import array_module, kernels

__all__ = ["Amplitude", "Likelihood", "Poisson", "Stabilised"]

Array = Any

# Added to |Fz|^2: where the wave is zero, which has no phase, the result stays finite.
TINY = np.float32(1e-30)
# Added to counts and to their means in a polish, in counts.
SHIFT = 0.1


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

    def above(self, background: Array) -> Likelihood:
        """The same with a background b of mean counts: a pixel counts ``|Fz|^2 + b``.

        Parameters
        ----------
        background : (N, N) float32 array
            In the pixel order of the amplitudes.
        """


@dataclass(frozen=True)
class Amplitude:
    """The misfit ``sum (|Fz| - a)^2`` of amplitudes.

    The square root stabilises the variance of Poisson counts. With several modes, ``|Fz|^2`` is summed over
    them. With a background b it is ``sum (sqrt(|Fz|^2 + b) - a)^2``.
    """

    background: Array | None = None
    """(N, N) float32 b, in the pixel order of the amplitudes; None for none."""

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        shift = TINY if self.background is None else self.background + TINY
        return kernels(detected).project_modulus(detected, amplitude, scale, shift)

    def above(self, background: Array) -> Amplitude:
        return replace(self, background=background)


@dataclass(frozen=True)
class Stabilised:
    """The misfit ``sum (sqrt(|Fz|^2 + c) - sqrt(I + c))^2`` of Poisson counts I, with a shift c.

    The shift makes the variance of small counts steadier (Anscombe, Biometrika 35, 246 (1948), for c = 3/8),
    and keeps pixels without counts from pulling at the object. In place of the data projection, ``Fz`` is
    multiplied by ``sqrt((I + c) / (|Fz|^2 + c))``.
    """

    shift: float = SHIFT
    background: Array | None = None
    """As of `Amplitude`: b is added to ``|Fz|^2``."""

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        xp, shift = array_module(detected), np.float32(self.shift)
        expected = _expect_counts(detected, scale, self.background)
        misfit = _measure_misfit(expected, amplitude)
        shifted = xp.where(amplitude >= 0, xp.sqrt(amplitude**2 + shift), np.float32(-1))
        added = self.shift if self.background is None else self.background + shift
        objective = kernels(detected).project_modulus(detected, shifted, scale, added)
        return xp.stack([misfit, xp.asarray(objective)])

    def above(self, background: Array) -> Stabilised:
        return replace(self, background=background)


@dataclass(frozen=True)
class Poisson:
    """Half the negative log-likelihood of Poisson counts I, each with a shift c added to it and to its mean.

    With ``n = I + c`` and the mean ``m = |Fz|^2 + c`` it is ``sum (m - n - n log(m / n)) / 2``: zero where
    both agree, and near to the misfit of `Amplitude` for many counts. Its gradient is ``Fz`` times
    ``(1 - n / m) / 2``, whose mean over counts is zero at the true wave, whatever c is. Without the shift,
    the gradient would have no bound where ``|Fz|^2`` is small; a large shift gives dark pixels too little
    weight (Yavuz and Fessler, Med. Image Anal. 2, 369 (1998), with the shift for noise of another kind).
    """

    shift: float = SHIFT
    background: Array | None = None
    """As of `Amplitude`: b is added to ``|Fz|^2``."""

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        xp, shift, valid = array_module(detected), np.float32(self.shift), amplitude >= 0
        mean = _expect_counts(detected, scale, self.background)
        misfit = _measure_misfit(mean, amplitude)
        mean += shift
        counts = amplitude**2 + shift
        ratio = counts / mean
        # log1p, since both are nearly the same where there are many counts.
        beyond = (mean - counts) / counts
        objective = (valid * counts * (beyond - xp.log1p(beyond))).sum(dtype=np.float64) / 2
        target = xp.where(valid, xp.sqrt(mean) * ((1 + ratio) / 2), np.float32(-1))
        added = self.shift if self.background is None else self.background + shift
        kernels(detected).project_modulus(detected, target, scale, added)
        return xp.stack([misfit, objective])

    def above(self, background: Array) -> Poisson:
        return replace(self, background=background)


def _expect_counts(detected: Array, scale: float, background: Array | None) -> Array:
    """``|Fz|^2 + b``, summed over modes: (frame, N, N) float32."""
    expected = (detected.real**2 + detected.imag**2).sum(axis=1) * np.float32(scale)
    if background is not None:
        expected += background
    return expected


def _measure_misfit(expected: Array, amplitude: Array) -> Array:
    """The misfit of `Amplitude`, from counts that are expected."""
    difference = (array_module(expected).sqrt(expected) - amplitude) * (amplitude >= 0)
    return (difference**2).sum(dtype=np.float64)
