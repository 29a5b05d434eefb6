"""The probe as a parameter of the model, in one or more incoherent modes, recovered or held fixed.

Its value is a ``(mode, N, N)`` complex64 array, shared by all frames. Each frame sees it shifted by the
sub-pixel part of its position.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.backend import array_module, kernels
from daskptycho.errors import OptionError
from daskptycho.model.operators import add_probe_terms, shift_probe, split
from daskptycho.model.parameter import Parameter, Schedule, Sums, Variable, View
from daskptycho.model.shifted_fit import CLASSES, step_to_shifted_fit
from daskptycho.model.shifts import are_whole_pixels

__all__ = ["Probe", "orthogonalise_modes", "prepare_probe"]

Array = Any

# Power of each mode that is added to the first guess, relative to the first mode's.
NEW_MODE_POWER = 0.05

# Sweep in which the probe is first updated. Before that the object's first guess would spoil a good probe.
FIRST_UPDATE = 2

# Added to the denominator, relative to its mean: where the object transmits hardly anything, the probe stays
# as it is.
DAMPING = np.float32(1e-3)


@dataclass(frozen=True)
class Probe(Parameter):
    """The probe of all frames.

    Attributes
    ----------
    recovered : bool
        Whether it is updated; otherwise it is held fixed.
    fractional : bool
        Whether any position has a fraction of a pixel.
    """

    recovered: bool = True
    fractional: bool = False
    name: ClassVar[str] = "probe"
    has_momentum: ClassVar[bool] = True
    takes_projection: ClassVar[bool] = True

    @property
    def schedule(self) -> Schedule | None:
        return Schedule(FIRST_UPDATE) if self.recovered else None

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Self, NDArray]:
        first = prepare_probe(scan, options.get("probe"), options.get("modes"))
        return cls(bool(options.get("update_probe", True)), bool(options.get("fractional", False))), first

    def begin(self, first: NDArray, counts: float, frames: int) -> NDArray:
        if not self.recovered:
            return first
        # The scale of the first guess is arbitrary: the frames' mean counts give the probe's power.
        # In double precision: the squares of a probe in any unit may lie beyond float32.
        whole = first.astype(np.complex128)
        return (whole * (np.sqrt(counts / frames) / np.linalg.norm(whole))).astype(first.dtype)

    def see(self, value: Array, view: View) -> View:
        weight = None if view.weight is None else view.weight[:, 0]
        if weight is None or not weight.any():
            probe = shift_probe(value, view.fraction)
        else:
            probe = shift_probe(value, view.fraction, (view.variation, weight))
        if view.factor is not None:
            probe = probe * view.factor[:, None, None, None]
        return view._replace(probe=probe)

    def new_sums(self, value: Array, image: Array) -> Sums:
        """Numerator, (mode, N, N), and denominator of the update.

        The denominator is (N, N), or (class, N, N) where positions are fractional.
        """
        xp = array_module(value)
        classes = (CLASSES**2,) if self.fractional else ()
        return (
            xp.zeros(value.shape, dtype=np.complex64),
            xp.zeros((*classes, *value.shape[-2:]), dtype=np.float32),
        )

    def accumulate(self, sums: Sums, frames: slice, image: Array, change: Array, view: View) -> None:
        projected, (numerator, denominator) = change, sums
        if view.factor is None and denominator.ndim == 2 and are_whole_pixels(view.fraction):
            add = kernels(image).accumulate_probe_step
            add(image, projected, view.probe, view.corner, numerator, denominator)
            return
        waves = split(image, view.probe, view.corner)
        change = array_module(waves).subtract(projected, waves, out=waves)
        add_probe_terms(image, change, view.corner, view.fraction, sums, view.factor)

    def update(self, value: Array, sums: Sums) -> Array:
        """Probe update ``P + sum_i conj(psi_i) (p_i - m_i) / sum_i |psi_i|^2``.

        ``p_i`` is the data projection of frame i and ``m_i = P . psi_i`` its exit wave in the model. For
        whole-pixel positions this is the least-squares fit ``sum_i conj(psi_i) p_i / sum_i |psi_i|^2``. For
        fractional positions the shifts mix the probe's pixels, and `shifted_fit` makes a step towards the
        fit. In both cases the step vanishes once all frames agree with the model.
        """
        numerator, denominator = sums
        if denominator.ndim == 3:
            return (value + step_to_shifted_fit(numerator, denominator)).astype(np.complex64)
        return (value + numerator / (denominator + DAMPING * denominator.mean())).astype(np.complex64)

    def sum_bytes(self, pixels: int, modes: int) -> int:
        classes = CLASSES**2 if self.fractional else 1
        return pixels * (8 * modes + 4 * classes)

    def describe(self, shape: Sequence[int]) -> str:
        modes = f"{shape[0]} modes, " if shape[0] > 1 else ""
        return f"probe ({modes}{'recovered' if self.recovered else 'held'})"

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {"probe": (("mode", "probe_y", "probe_x"), orthogonalise_modes(value), {})}


def prepare_probe(scan: Any, guess: ArrayLike | None, modes: Any) -> NDArray[np.complex64]:
    """The probe that a run starts from.

    Parameters
    ----------
    scan : xarray.Dataset
    guess : (y, x) or (mode, y, x) array, optional
        A first guess in place of the scan's probe.
    modes : int, optional
        Number of modes; that of the first guess by default. Missing modes are weak and orthogonal: the first
        mode times powers of the coordinates.

    Returns
    -------
    (mode, y, x) complex64 array

    Raises
    ------
    OptionError
        There is no probe; it is zero, not finite or of another shape than the frames; or `modes` is not a
        whole number above zero, or more than a probe of this size can have.
    """
    frame_shape = (scan.sizes["qy"], scan.sizes["qx"])
    if guess is None and "probe" not in scan:
        raise OptionError(
            "the scan has no probe, and none is given; expected the known one as the option probe "
            "(--probe FILE), or one to be guessed and recovered"
        )
    probe = np.array(scan["probe"].values if guess is None else guess, dtype=np.complex64, order="C")
    if probe.ndim == 2:
        probe = probe[None]
    if probe.ndim != 3 or probe.shape[1:] != frame_shape:
        raise OptionError(
            f"probe has shape {probe.shape}; expected (mode, y, x) with frames of {frame_shape}"
        )
    if not np.isfinite(probe).all() or not probe.any():
        found = "no light at all" if np.isfinite(probe).all() else "NaN or infinity"
        raise OptionError(f"probe holds {found}; expected a first guess of the illumination")
    if modes is None:
        return probe
    if not isinstance(modes, numbers.Integral) or int(modes) < 1:
        raise OptionError(f"modes is {modes!r}; expected a whole number, 1 or more")
    modes = int(modes)
    if modes > len(probe):
        probe = np.concatenate([probe, _further_modes(probe, modes - len(probe))])
    return np.ascontiguousarray(probe[:modes])


def _further_modes(probe: NDArray[np.complex64], count: int) -> NDArray[np.complex64]:
    """Modes that resemble Hermite-Gauss modes: the first mode times monomials about its centre."""
    first = probe[0].astype(np.complex128)
    intensity = np.abs(first) ** 2
    axes = [np.arange(size, dtype=float) for size in first.shape]
    y, x = np.meshgrid(*axes, indexing="ij")
    y -= np.average(y, weights=intensity)
    x -= np.average(x, weights=intensity)
    width = np.sqrt(np.average(y**2 + x**2, weights=intensity)) or 1.0
    basis = [mode.astype(np.complex128).ravel() for mode in probe]
    added: list[NDArray] = []
    degree = 1
    while len(added) < count:
        if degree > 2 * count:
            raise OptionError(
                f"the probe is too small for {count} further modes; give fewer, or a probe that has them"
            )
        for power in range(degree + 1):
            mode = (first * (y / width) ** (degree - power) * (x / width) ** power).ravel()
            for other in [*basis, *added]:
                mode = mode - other * (np.vdot(other, mode) / np.vdot(other, other))
            norm = np.linalg.norm(mode)
            if len(added) < count and norm > 1e-6 * np.linalg.norm(first):
                added.append(mode * (np.linalg.norm(first) * np.sqrt(NEW_MODE_POWER) / norm))
        degree += 1
    return np.stack(added).reshape(count, *first.shape).astype(np.complex64)


def orthogonalise_modes(probe: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Mix the modes into orthogonal ones of decreasing power, which give the same intensities.

    The data determine modes only up to a unitary mixture; orthogonal modes of decreasing power are unique
    up to their phases.
    """
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1)
    _, mixture = np.linalg.eigh(flat.conj() @ flat.T)
    return (mixture[:, ::-1].T @ flat).reshape(probe.shape).astype(np.complex64)
