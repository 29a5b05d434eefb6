"""The probe of a run: at its start from the scan or the user, at its end in orthogonal modes.

`run` and `result` call this module; it calls nothing but `errors`.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError

__all__ = ["initial_probe", "orthogonal_modes"]

# Power of a mode that the first guess does not have, as a share of the first mode's.
NEW_MODE_POWER = 0.05


def initial_probe(scan: xr.Dataset, given: ArrayLike | None, modes: Any) -> NDArray[np.complex64]:
    """The probe that a run starts from, (mode, y, x).

    Parameters
    ----------
    scan : xarray.Dataset
    given : (y, x) or (mode, y, x) array, optional
        In place of the scan's.
    modes : int, optional
        How many; those that the guess does not have are made from its first mode times the
        coordinates, weak and orthogonal.

    Raises
    ------
    OptionError
        No probe, a probe of another size than the frames, or fewer than one mode.
    """
    frame_shape = (scan.sizes["qy"], scan.sizes["qx"])
    if given is None and "probe" not in scan:
        raise OptionError(
            "the scan has no probe; expected a first guess as the option probe or in the scan "
            "(daskptycho import has --guess-probe and --probe-key)"
        )
    probe = np.array(scan["probe"].values if given is None else given, dtype=np.complex64, order="C")
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
    """Modes like the next Hermite functions: the first mode times monomials about its centre."""
    first = probe[0].astype(np.complex128)
    intensity = np.abs(first) ** 2
    axes = [np.arange(size, dtype=float) for size in first.shape]
    y, x = np.meshgrid(*axes, indexing="ij")
    y -= np.average(y, weights=intensity)
    x -= np.average(x, weights=intensity)
    width = np.sqrt(np.average(y**2 + x**2, weights=intensity)) or 1.0
    basis = [mode.astype(np.complex128).ravel() for mode in probe]
    found: list[NDArray] = []
    degree = 1
    while len(found) < count:
        if degree > 2 * count:
            raise OptionError(
                f"the probe is too small for {count} further modes; give fewer, or a probe that has them"
            )
        for power in range(degree + 1):
            mode = (first * (y / width) ** (degree - power) * (x / width) ** power).ravel()
            for other in [*basis, *found]:
                mode = mode - other * (np.vdot(other, mode) / np.vdot(other, other))
            norm = np.linalg.norm(mode)
            if len(found) < count and norm > 1e-6 * np.linalg.norm(first):
                found.append(mode * (np.linalg.norm(first) * np.sqrt(NEW_MODE_POWER) / norm))
        degree += 1
    return np.stack(found).reshape(count, *first.shape).astype(np.complex64)


def orthogonal_modes(probe: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The same incoherent illumination as orthogonal modes of falling power.

    Modes are only defined up to a unitary mixture; this one is the mixture that is unique.
    """
    if len(probe) == 1:
        return probe
    flat = probe.reshape(len(probe), -1)
    _, mixture = np.linalg.eigh(flat.conj() @ flat.T)
    return (mixture[:, ::-1].T @ flat).reshape(probe.shape).astype(np.complex64)
