"""The gain of the beam at each frame: from a beam monitor, or found along through the overlaps of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module
from daskptycho.errors import ScanError
from daskptycho.model.operators import split, unsplit
from daskptycho.model.parameter import Parameter, Sums, Variable, View

__all__ = ["Gain", "GainDerivatives"]

Array = Any


class GainDerivatives(NamedTuple):
    """Derivatives of a tile's misfit by ``log g`` of its frames, with the image held fixed."""

    force: Array
    """(frame,) float64 ``b0_i = Re sum conj(m_i) chi_i``, with the model's waves ``m_i = g_i P_i y``."""
    curvature: Array
    """(frame,) float64 ``H_i = sum |m_i|^2``."""
    change: Array
    """(y, x) complex64 ``sum_i g_i conj(P_i) chi_i`` on the tile's window."""
    image: Array
    """(y, x) complex64 y, the image that the sweep started from, with its momentum."""

    def with_images(self, convert: Any) -> GainDerivatives:
        """The same derivatives with `convert` applied to each (y, x) array."""
        return self._replace(change=convert(self.change), image=convert(self.image))


@dataclass(frozen=True)
class Gain(Parameter):
    """The gain g of each frame: frame i sees the probe ``g_i P``, so that ``I_i = g_i^2 |F(P . psi_i)|^2``.

    Its first value is read from the scan's variable ``gain (frame)``, a factor of amplitudes of arbitrary
    scale, and divided by its geometric mean; without that variable it is 1.

    Attributes
    ----------
    refined : bool
        Whether it is found along, for all frames together (`sync.gains`); otherwise it is held fixed.
    holds_slope : bool
        Whether the part of ``log g`` that is linear in the position stays as given. While the probe is
        recovered it can be told from nothing: a gain ``exp(a.x)`` is the same as none with the probe
        ``P exp(-a.r)`` and the object ``psi exp(a.r)``.
    """

    refined: bool = False
    holds_slope: bool = False
    name: ClassVar[str] = "gain"
    per_frame: ClassVar[bool] = True

    @property
    def between_sweeps(self) -> bool:
        return self.refined

    def resolve(self, *, update_probe: bool) -> Gain:
        """The same for a probe that is recovered, or held fixed."""
        return Gain(self.refined, holds_slope=update_probe)

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        refined = cls.asked(options)
        frames = scan.sizes["frame"]
        if "gain" not in scan:
            return None if refined is None else (refined, np.ones(frames, dtype=np.float32))
        gain = np.asarray(scan["gain"].values, dtype=float)
        if gain.shape != (frames,):
            raise ScanError(f"gain has shape {gain.shape}; expected one number for each of {frames} frames")
        if not (np.isfinite(gain) & (gain > 0)).all():
            frame = int(np.flatnonzero(~(np.isfinite(gain) & (gain > 0)))[0])
            raise ScanError(f"gain of frame {frame} is {gain[frame]}; expected a number above 0")
        return refined or cls(), (gain / np.exp(np.log(gain).mean())).astype(np.float32)

    def see(self, value: Array, view: View) -> View:
        return view._replace(factor=value if view.factor is None else view.factor * value)

    def describe(self, shape: Sequence[int]) -> str:
        return f"gain of each frame ({'refined' if self.refined else 'held'})"

    def nbytes(self, frames: int) -> int:
        return 4 * frames

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {"gain": (("frame",), value, {})}

    def new_sums(self, value: Array, image: Array) -> Sums:
        xp, frames = array_module(image), len(value)
        return GainDerivatives(xp.zeros(frames), xp.zeros(frames), xp.zeros_like(image), image)

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        force, curvature, total, _ = sums
        waves = split(image, view.probe, view.corner)
        axes = (1, 2, 3)
        force[frames] = (waves.real * change.real + waves.imag * change.imag).sum(axes, dtype=np.float64)
        curvature[frames] = (waves.real**2 + waves.imag**2).sum(axes, dtype=np.float64)
        unsplit(change, view.probe, view.corner, total)
