"""The least-squares fit of the probe, which each frame sees shifted by a fraction of a pixel.

With ``S_i`` the shift by the fraction of frame i, the change D of the probe that fits the changes ``r_i`` of
the exit waves minimises ``sum_i |psi_i . S_i D - r_i|^2``. Its normal equations are

    ``A D = sum_i S_i* (conj(psi_i) . r_i)``  with  ``A = sum_i S_i* |psi_i|^2 S_i``.

For whole pixels A is diagonal, and the fit a quotient. Shifts mix pixels: a quotient then makes a step that
is too large beside a bright pixel of the object, and diverges under momentum. Frames of similar fractions
therefore share a class c, whose fraction stands for theirs, ``A = sum_c S_c* (sum_i |psi_i|^2) S_c``. The
quotient by the diagonal of A gives the direction of the step, and A its length: that of steepest descent with
a line search. `operators` adds frames to their classes, and `probe` makes the step.

More steps, of conjugate gradients, gained nothing with the exact A, and with classes they made R2 rise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daskptycho.backend import array_module, inverse_transform, transform
from daskptycho.model.shifts import make_ramps

__all__ = ["CLASSES", "add_by_class", "step_to_shifted_fit"]

Array = Any

# Classes of fractions along each axis. With 3 or fewer, a phase object with a disc as first probe diverged.
CLASSES = 4
# Added to A, relative to the mean of its diagonal: where the object transmits hardly anything, the probe
# stays as it is.
DAMPING = np.float32(1e-2)


def add_by_class(power: Array, patches: Array, fraction: Array) -> None:
    """Add the ``|psi_i|^2`` of some frames to the sums of their classes, in place.

    Parameters
    ----------
    power : (class, N, N) float32 array
        There are `CLASSES` squared classes.
    patches : (frame, N, N) float32 array
        ``|psi_i|^2``.
    fraction : (frame, 2) array
        From -0.5 to 0.5 pixels.
    """
    along = ((fraction + 0.5) * CLASSES).astype(np.int64)
    along -= along == CLASSES
    classes = along[:, 0] * CLASSES + along[:, 1]
    if isinstance(classes, np.ndarray):
        for own, patch in zip(classes, patches, strict=True):
            power[own] += patch
        return
    # Fractions on a GPU are not read, which would wait.
    member = (classes == array_module(classes).arange(len(power))[:, None]).astype(np.float32)
    power += (member @ patches.reshape(len(patches), -1)).reshape(power.shape)


def step_to_shifted_fit(numerator: Array, power: Array) -> Array:
    """The step of the probe towards the fit of the changes of the exit waves; see this module.

    Parameters
    ----------
    numerator : (mode, N, N) complex64 array
        ``sum_i S_i* (conj(psi_i) . r_i)``.
    power : (class, N, N) float32 array
        ``sum_i |psi_i|^2`` of the frames of each class, from `add_by_class`.

    Returns
    -------
    (mode, N, N) complex64 array
    """
    ramps = _class_ramps(power)
    diagonal = _diagonal(power)
    damping = DAMPING * diagonal.mean() + np.finfo(np.float32).tiny
    direction = numerator / (diagonal + damping)
    slope = _inner(direction, numerator)
    # Nothing left to fit.
    if not slope > 0:
        return array_module(numerator).zeros_like(numerator)
    curvature = _inner(direction, _apply(power, ramps, direction) + damping * direction)
    return direction * np.float32(slope / curvature)


def _class_ramps(power: Array) -> list[tuple[Array, Array]]:
    """Fourier factors of the shift by each class's fraction, along y, (N, 1), and along x, (N,)."""
    xp = array_module(power)
    centres = _class_centres(xp)
    along_y, along_x = make_ramps(xp.stack([centres, centres], axis=1), power.shape[-2:])
    return [(y[:, None], x) for y in along_y for x in along_x]


def _class_centres(xp: Any) -> Array:
    return (xp.arange(CLASSES) + 0.5) / CLASSES - 0.5


def _apply(power: Array, ramps: list[tuple[Array, Array]], probe: Array) -> Array:
    """``A P = sum_c S_c* (power_c . S_c P)``, (mode, N, N)."""
    spectrum = transform(probe)
    total = array_module(probe).zeros_like(spectrum)
    for of_class, (along_y, along_x) in zip(power, ramps, strict=True):
        shifted = inverse_transform(spectrum * along_y * along_x)
        shifted *= of_class
        total += transform(shifted, overwrite=True) * (along_y.conj() * along_x.conj())
    return inverse_transform(total)


def _diagonal(power: Array) -> Array:
    """The diagonal of A, ``sum_c sum_x |s_c(x - r)|^2 power_c(x)``, (N, N); s_c is a shifted pixel."""
    xp = array_module(power)
    down, across = (_transform_spread(xp, size) for size in power.shape[-2:])
    total = xp.zeros(power.shape[-2:], dtype=np.complex64)
    for of_class, (of_y, of_x) in zip(power, [(y[:, None], x) for y in down for x in across], strict=True):
        total += transform(of_class.astype(np.complex64)) * of_y.conj() * of_x.conj()
    return xp.maximum(inverse_transform(total).real, 0)


def _transform_spread(xp: Any, size: int) -> Array:
    """The Fourier transform of ``|s_c|^2`` along one axis, (class, N): the autocorrelation of the ramp."""
    share, centre = xp.arange(size) / size, _class_centres(xp)[:, None]
    ahead, wrapped = xp.exp(-2j * np.pi * centre * share), xp.exp(-2j * np.pi * centre * (share - 1))
    return ((1 - share) * ahead + share * wrapped).astype(np.complex64)


def _inner(one: Array, other: Array) -> float:
    """The real part of the inner product. Not by BLAS, whose sum depends on its number of threads."""
    return float((one.real * other.real + one.imag * other.imag).sum(dtype=np.float64))
