"""A probe that differs from frame to frame, as two parameters of the model: modes, and weights of each frame.

Frame i sees the probe ``P_i = P + sum_k w_ik E_k``; of several incoherent modes the first one varies
(orthogonal probe relaxation: Odstrcil et al., Optics Express 24, 8360 (2016)). The modes E are shared by all
frames. Modes and weights are least-squares fits to the changes of the exit waves: modes from sums like those
of the probe, weights from a few numbers of each frame, which one task for all frames collects
(`sync.variation`). At first both are on trial: the probe varies once they explain
more of the misfit than noise could.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, inverse_transform, transform
from daskptycho.errors import OptionError
from daskptycho.model.momentum import extrapolate
from daskptycho.model.operators import lit_patches
from daskptycho.model.parameter import Parameter, Schedule, Sums, Variable, View
from daskptycho.model.shifted_fit import CLASSES, add_by_class, step_to_shifted_fit
from daskptycho.model.shifts import are_whole_pixels, make_ramps

__all__ = ["ProbeVariation", "ProbeWeight"]

Array = Any

# First sweep that updates modes and weights. Later, the object would have taken up what varies slowly.
FIRST_UPDATE = 2
# Added to the denominator, relative to its mean; see `probe`.
DAMPING = np.float32(1e-3)


@dataclass(frozen=True)
class ProbeVariation(Parameter):
    """The modes E_k by which the probe varies, orthogonal to the probe and to each other.

    Their value is a ``(2, variation, N, N)`` complex64 array: the modes and, for momentum, those of the sweep
    before.

    Raises
    ------
    OptionError
        A number is impossible.
    """

    modes: int = 2
    """Number of modes."""
    smooth: float | None = None
    """Width of the Gaussian over which weights are averaged in the order of acquisition, in frames: for a
    probe that varies slowly. None: each frame has its own weights."""
    start: int = FIRST_UPDATE
    """First sweep in which modes and weights are fitted. Later, the object has taken up part of what varies
    slowly."""
    fractional: bool = False
    """Whether any position has a fraction of a pixel; `reconstruct` sets it."""
    name: ClassVar[str] = "probe_variation"
    fits_reflections: ClassVar[bool] = False
    batches: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name in ("modes", "start"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(
                    f"{name} of ProbeVariation is {value!r}; expected a whole number, 1 or more"
                )
        smooth: Any = self.smooth
        if smooth is not None and not (isinstance(smooth, numbers.Real) and 0 < float(smooth) < np.inf):
            raise OptionError(f"smooth of ProbeVariation is {smooth!r}; expected frames above 0, or None")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.start)

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        chosen = cls.asked(options)
        if chosen is None:
            return None
        shape = (2, chosen.modes, scan.sizes["qy"], scan.sizes["qx"])
        fractional = bool(options.get("fractional", False))
        return replace(chosen, fractional=fractional), np.zeros(shape, dtype=np.complex64)

    def see(self, value: Array, view: View) -> View:
        # `Probe.see` applies it, before each frame's shift.
        return view._replace(variation=value[0])

    def extrapolate(self, value: Array, previous: Array | None, momentum: float) -> Array:
        return array_module(value).stack([extrapolate(value[0], value[1], momentum), value[1]])

    def describe(self, shape: Sequence[int]) -> str:
        return f"variation of the probe in {shape[1]} mode{'s' if shape[1] > 1 else ''} (recovered)"

    def new_sums(self, value: Array, image: Array) -> Sums:
        """Numerator and denominator for each mode, as those of the probe, and ``sum_i |w_ik|`` in use."""
        xp, (modes, *shape) = array_module(value), value.shape[1:]
        classes = (CLASSES**2,) if self.fractional else ()
        denominator = xp.zeros((modes, *classes, *shape), dtype=np.float32)
        return xp.zeros(value.shape[1:], dtype=np.complex64), denominator, np.zeros(modes)

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        numerator, denominator, used = sums
        assert view.weight is not None
        used += np.abs(view.weight[:, 0]).sum(axis=0, dtype=np.float64)
        wanted, power, is_transformed = _find_wanted(image, change, view)
        fitted = array_module(image).asarray(latest_weights(view.weight))
        for mode, weight in enumerate(fitted.T[..., None, None]):
            total = (weight.conj() * wanted).sum(axis=0)
            numerator[mode] += inverse_transform(total) if is_transformed else total
            light = power * (weight.real**2 + weight.imag**2)
            if self.fractional:
                add_by_class(denominator[mode], light, view.fraction)
            else:
                denominator[mode] += light.sum(axis=0)

    def update(self, value: Array, sums: Sums) -> Array:
        """The modes after a step ``sum_i conj(w_ik psi_i) (p_i - m_i) / sum_i |w_ik psi_i|^2``.

        While a mode is on trial, the waves ``m_i`` of the model do not hold it, and its step is from zero.
        """
        following = []
        for mode, of_frames, light, used in zip(value[0], *sums, strict=True):
            if not self.fractional:
                step = _divide(of_frames, light)
            elif used > 0:
                step = step_to_shifted_fit(of_frames[None], light)[0]
            else:
                step = _divide(of_frames, light.sum(axis=0))
            following.append(mode + step if used > 0 else step)
        xp = array_module(value)
        return xp.stack([xp.stack(following), value[0]]).astype(np.complex64)

    def sum_bytes(self, pixels: int, modes: int) -> int:
        return self.modes * pixels * (8 + 4 * (CLASSES**2 if self.fractional else 1))

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {cls.name: (("variation", "probe_y", "probe_x"), value[0], {})}


def _divide(numerator: Array, denominator: Array) -> Array:
    """A quotient with its damping; zero where there is no light at all."""
    return numerator / (denominator + DAMPING * denominator.mean() + np.finfo(np.float32).tiny)


def _find_wanted(image: Array, change: Array, view: View) -> tuple[Array, Array, bool]:
    """What each frame would change of the first mode of the probe, and with how much light.

    Parameters
    ----------
    image, change, view
        As of `Parameter.accumulate`.

    Returns
    -------
    wanted : (frame, N, N) complex64 array
        ``conj(g_i psi_i) chi_i``, shifted back by the sub-pixel part of each position.
    power : (frame, N, N) float32 array
        ``|g_i psi_i|^2``
    is_transformed : bool
        Whether `wanted` holds Fourier transforms, as for positions between pixels.
    """
    patch = lit_patches(image, change.shape[-2:], view.corner, view.factor)
    wanted, power = patch.conj() * change[:, 0], abs(patch) ** 2
    if are_whole_pixels(view.fraction):
        return wanted, power, False
    along_y, along_x = make_ramps(view.fraction, wanted.shape[-2:])
    return transform(wanted) * (along_y[:, :, None] * along_x[:, None, :]).conj(), power, True


def latest_weights(value: NDArray) -> NDArray[np.complex64]:
    """The weights of modes in use, and for modes on trial those on trial, (frame, variation)."""
    return np.where(value[:, 0] != 0, value[:, 0], value[:, 1])


@dataclass(frozen=True)
class ProbeWeight(Parameter):
    """The weights w_ik of the modes in each frame.

    Their value is a ``(frame, 2, variation)`` complex64 array on the host: the weights and, for momentum,
    those of the sweep before. While a mode is on trial, its weights are zeros, and the latter those on trial.

    Attributes
    ----------
    start : int
        First sweep in which they are fitted.
    modes : int
        Number of modes.
    """

    start: int
    modes: int
    name: ClassVar[str] = "probe_weight"
    fits_reflections: ClassVar[bool] = False
    per_frame: ClassVar[bool] = True
    on_host: ClassVar[bool] = True

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.start)

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray] | None:
        chosen = ProbeVariation.asked(options)
        if chosen is None:
            return None
        modes = chosen.modes
        # Random weights find the directions in which frames differ. They depend on a frame's number in the
        # scan, not on its tile.
        frames = np.arange(scan.sizes["frame"])
        number = scan["frame_number"].values if "frame_number" in scan else frames
        drawn = np.random.default_rng(0).standard_normal((number.max() + 1, modes, 2))
        first = np.zeros((len(number), 2, modes), dtype=np.complex64)
        first[:, 1] = (drawn @ (1, 1j))[number]
        return cls(chosen.start, modes), first

    def see(self, value: Array, view: View) -> View:
        return view._replace(weight=value)

    def extrapolate(self, value: Array, previous: Array | None, momentum: float) -> Array:
        weights, before = value[:, 0], value[:, 1]
        ahead = np.where(weights != 0, extrapolate(weights, before, momentum), 0)
        return np.stack([ahead, before], axis=1)

    def describe(self, shape: Sequence[int]) -> str:
        return "weights of the variation in each frame (recovered)"

    def nbytes(self, frames: int) -> int:
        # With the sums.
        return 16 * frames * self.modes * (2 + self.modes)

    def new_sums(self, value: Array, image: Array) -> Sums:
        """``b_ik = sum conj(psi_i E_k) chi_i``, (frame, variation), and the matrix of the fit.

        The latter is ``H_ikl = sum |psi_i|^2 conj(E_k) E_l``, (frame, variation, variation); both complex128.
        """
        xp, (frames, _, modes) = array_module(image), value.shape
        force = xp.zeros((frames, modes), dtype=np.complex128)
        return force, xp.zeros((frames, modes, modes), dtype=np.complex128)

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        force, matrix = (of_frames[frames] for of_frames in sums)
        modes: Any = view.variation
        wanted, power, is_transformed = _find_wanted(image, change, view)
        for row, of_row in enumerate(transform(modes) if is_transformed else modes):
            force[:, row] = (of_row.conj() * wanted).sum(axis=(1, 2), dtype=np.complex128)
            # The fraction of the position hardly changes it, and a fit to zero forces does not depend on it.
            for column, mode in enumerate(modes):
                matrix[:, row, column] = (modes[row].conj() * mode * power).sum(
                    axis=(1, 2), dtype=np.complex128
                )

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {cls.name: (("frame", "variation"), value[:, 0], {})}
