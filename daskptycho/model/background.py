"""The background as a parameter of the model: counts that do not come from the sample, known or found.

A pixel of the detector counts ``I = |Fz|^2 + b`` on average. The background b is added to the modelled
intensity: subtracted from the counts, it would leave negative ones, which have no amplitude.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, to_device_of, to_host
from daskptycho.errors import OptionError
from daskptycho.model.forward import Forward
from daskptycho.model.likelihood import Likelihood
from daskptycho.model.parameter import Parameter, Schedule, Sums, Variable, View

__all__ = ["Background"]

Array = Any

# Sweeps in which it is updated: before, what the object does not explain yet would be taken for background.
FIRST_UPDATE, EVERY = 8, 2
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Background(Parameter):
    """The background of all frames, the same in each: that of the scan, and with `recovered` found along.

    Its value is a ``(qy, qx)`` float32 array in detector order, zero where a pixel is not valid.

    Raises
    ------
    OptionError
        `smooth` is no number above zero.
    """

    smooth: float | None = None
    """Width of the Gaussian over which updates are averaged, in pixels. None: one number for all pixels. Each
    pixel by itself would take up the noise of its counts."""
    recovered: bool = True
    """Whether it is found along, beginning with that of the scan; False holds that of the scan."""
    name: ClassVar[str] = "background"
    fits_reflections: ClassVar[bool] = False
    weighs_frames: ClassVar[bool] = False

    def __post_init__(self) -> None:
        smooth: Any = self.smooth
        if smooth is not None and not (isinstance(smooth, numbers.Real) and 0 < float(smooth) < np.inf):
            raise OptionError(f"smooth of Background is {smooth!r}; expected pixels above 0, or None")

    @property
    def schedule(self) -> Schedule | None:
        return Schedule(FIRST_UPDATE, every=EVERY) if self.recovered else None

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        asked = cls.asked(options)
        if asked is None and "background" not in scan:
            return None
        first = np.zeros((scan.sizes["qy"], scan.sizes["qx"]), dtype=np.float32)
        if "background" in scan:
            first[:] = scan["background"].values
        if "valid" in scan:
            first[~scan["valid"].values.astype(bool)] = 0
        return asked or cls(recovered=False), first

    def see(self, value: Array, view: View) -> View:
        # It is part of the likelihood: see `model.TileModel.likelihood`.
        return view

    def describe(self, shape: Sequence[int]) -> str:
        kind = "one number" if self.smooth is None else f"smooth over {self.smooth:g} pixels"
        return f"background ({f'{kind}, recovered' if self.recovered else 'held'})"

    def new_sums(self, value: Array, image: Array) -> Sums:
        """Sums over frames, (qy, qx) float64 each: ``w (I - |Fz|^2 - b)`` and ``w``, zero where not valid."""
        xp = array_module(value)
        return xp.zeros(value.shape), xp.zeros(value.shape)

    def watch(self, value: Array, likelihood: Likelihood, forward: Forward, sums: Sums) -> Likelihood:
        return _Watching(likelihood, forward, forward.arrange(value), sums)

    def update(self, value: Array, sums: Sums) -> Array:
        """The next background: b and the weighted mean of what the detector counts beyond the model.

        The weights ``w = 1 / (|Fz|^2 + b + 1)`` are about the inverse variance of Poisson counts. Bright
        pixels, where little of what is missing is background, have nearly none.
        """
        excess, weight = (to_host(own) for own in sums)
        if self.smooth is None:
            step = excess.sum() / max(weight.sum(), TINY)
        else:
            # Imported where it is needed: runs that find no background begin without it.
            from scipy.ndimage import gaussian_filter

            blur = {"sigma": float(self.smooth), "mode": "constant"}
            step = gaussian_filter(excess, **blur) / np.maximum(gaussian_filter(weight, **blur), TINY)
        following = np.where(weight > 0, np.maximum(to_host(value) + step, 0), 0)
        return to_device_of(following.astype(np.float32), value)

    def sum_bytes(self, pixels: int, modes: int) -> int:
        return 16 * pixels

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {"background": (("qy", "qx"), value, {})}


@dataclass(frozen=True)
class _Watching:
    """A likelihood that adds to the sums of the background what the detector counts beyond ``|Fz|^2``."""

    likelihood: Likelihood
    forward: Forward
    background: Array
    """(N, N) float32 b, in the pixel order of the amplitudes."""
    sums: Sums

    def project(self, detected: Array, amplitude: Array, scale: float) -> Any:
        expected = (detected.real**2 + detected.imag**2).sum(axis=1) * np.float32(scale)
        expected += self.background
        weight = (amplitude >= 0) / (expected + np.float32(1))
        beyond = weight * (amplitude**2 - expected)
        excess, weights = self.sums
        excess += self.forward.restore(beyond.sum(axis=0, dtype=np.float64))
        weights += self.forward.restore(weight.sum(axis=0, dtype=np.float64))
        return self.likelihood.project(detected, amplitude, scale)

    def above(self, background: Array) -> Likelihood:
        return replace(self, likelihood=self.likelihood.above(background), background=background)
