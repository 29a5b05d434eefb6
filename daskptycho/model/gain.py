"""The gain of the beam at each frame, for example from a beam monitor: a parameter that is held fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.model.parameter import Parameter, Variable, View

__all__ = ["Gain"]

Array = Any


@dataclass(frozen=True)
class Gain(Parameter):
    """The gain g of each frame: frame i sees the probe ``g_i P``, so that ``I_i = g_i^2 |F(P . psi_i)|^2``.

    It is read from the scan's variable ``gain (frame)``, a factor of amplitudes of arbitrary scale, and
    divided by its geometric mean.
    """

    name: ClassVar[str] = "gain"
    per_frame: ClassVar[bool] = True

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        if "gain" not in scan:
            return None
        gain = np.asarray(scan["gain"].values, dtype=float)
        frames = scan.sizes["frame"]
        if gain.shape != (frames,):
            raise ScanError(f"gain has shape {gain.shape}; expected one number for each of {frames} frames")
        if not (np.isfinite(gain) & (gain > 0)).all():
            frame = int(np.flatnonzero(~(np.isfinite(gain) & (gain > 0)))[0])
            raise ScanError(f"gain of frame {frame} is {gain[frame]}; expected a number above 0")
        return cls(), (gain / np.exp(np.log(gain).mean())).astype(np.float32)

    def see(self, value: Array, view: View) -> View:
        return view._replace(factor=value if view.factor is None else view.factor * value)

    def describe(self, shape: Sequence[int]) -> str:
        return "gain of each frame (held)"

    def nbytes(self, frames: int) -> int:
        return 4 * frames

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {"gain": (("frame",), value, {})}
