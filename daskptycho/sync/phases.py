"""One phase for each frame from the Gramian H.

The functions need H or its blocks, however they were computed. For H on a GPU the vectors stay there too:
only scalars are copied to the host. There are two normalisations of H. Both have the largest eigenvalue one
when all frames agree:

``frame``
    K_ij = H_ij / (|z_i| |z_j|). From random phases, its leading eigenvector is concentrated on the few frames
    that agree best, and a consistent region grows from that seed. Under noise the same happens, and the
    phases of all other frames are lost.
``degree``
    L_ij = H_ij / sqrt(d_i d_j) with d_i = sum_j |H_ij|, which belongs to the connection Laplacian. All frames
    contribute, also under noise. From random phases, it preserves their vortices.

A random start therefore begins with ``frame`` until the eigenvector has spread over the scan, as measured by
the inverse participation ratio. Everything else uses ``degree``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskptycho.backend import array_module, kernels
from daskptycho.sync.eigensolvers import Eigenpair, lanczos, lobpcg, power
from daskptycho.sync.options import SIGNIFICANT, Normalisation, Sync

__all__ = [
    "Normalised",
    "Phases",
    "extract_phases",
    "invert_consensus",
    "keep_significant",
    "localisation",
    "normalise",
    "solve",
]

Array = Any


@dataclass(frozen=True)
class Normalised:
    """A normalised Gramian and its consensus vector, from which an eigensolver starts."""

    matrix: Any
    """(frame, frame) sparse array: ``H_ij / (c_i c_j)``."""
    consensus: Array
    """(frame,) c, the leading eigenvector of the matrix if all frames agree: ``|z_i|`` or ``sqrt(d_i)``."""


def normalise(h: Any, power_of_frame: Array, normalisation: Normalisation) -> Normalised:
    """Normalise H: K or L.

    Parameters
    ----------
    h : (frame, frame) sparse Hermitian array
    power_of_frame : (frame,) array
        ``|z_i|^2``.
    normalisation : "frame" or "degree"
    """
    xp = array_module(power_of_frame)
    squared = power_of_frame
    if normalisation == "degree":
        squared = xp.empty(h.shape[0])
        kernels(squared).sum_moduli(h.indptr, h.data, squared)
    consensus = xp.sqrt(squared)
    scaled = xp.empty_like(h.data)
    kernels(scaled).scale_matrix(h.indptr, h.indices, h.data, invert_consensus(consensus), scaled)
    return Normalised(type(h)((scaled, h.indices, h.indptr), shape=h.shape), consensus)


def invert_consensus(consensus: Array) -> Array:
    """One divided by the consensus vector; zero for frames without any counts, which have no phase."""
    xp = array_module(consensus)
    return xp.where(consensus > 0, 1 / xp.where(consensus > 0, consensus, 1), 0)


def solve(normalised: Normalised, sync: Sync, steps: int | None = None) -> Eigenpair:
    """Solve for the leading eigenpair, starting from the consensus vector.

    The number of steps is that of `Sync.steps` by default.
    """
    if not normalised.consensus.any():
        # No frame has any counts: all phases are equally good.
        constant = normalised.consensus.astype(np.complex128) + len(normalised.consensus) ** -0.5
        return Eigenpair(0.0, constant, 0.0)
    solver = {"lanczos": lanczos, "lobpcg": lobpcg, "power": power}[sync.eigensolver]
    steps = sync.steps(len(normalised.consensus)) if steps is None else steps
    return solver(normalised.matrix, normalised.consensus.astype(np.complex128), steps)


def localisation(vector: Array) -> float:
    """Inverse participation ratio ``k sum |v|^4 / (sum |v|^2)^2`` of a vector of k elements.

    It is 1 if all elements have the same modulus, and k if only one of them is not zero.
    """
    share = abs(vector) ** 2
    return float(len(share) * (share**2).sum() / share.sum() ** 2)


@dataclass(frozen=True)
class Phases:
    """The phases that a synchronisation found.

    Attributes
    ----------
    phase : (frame,) complex64 array
        omega_i, of unit modulus, by which each frame is to be multiplied.
    disagreement : float
        1 - lambda, where lambda is the largest eigenvalue: zero if all frames agree.
    spread : float
        Root mean square of the angles of omega, weighted by the power of the frames, in radians.
    localisation : float
        Inverse participation ratio of the eigenvector; see `localisation`.
    """

    phase: Array
    disagreement: float
    spread: float
    localisation: float


def _to_unit_modulus(number: Array, xp: Any) -> Array:
    """Numbers divided by their modulus; one in place of zero."""
    modulus = xp.abs(number)
    return xp.where(modulus > 0, number / xp.where(modulus > 0, modulus, 1), 1)


def extract_phases(pair: Eigenpair, power_of_frame: Array) -> Phases:
    """Phases of an eigenvector, of unit modulus, without their mean weighted by the power of the frames."""
    xp = array_module(pair.vector)
    phase = _to_unit_modulus(pair.vector, xp)
    phase = phase * _to_unit_modulus((phase * power_of_frame).sum(), xp).conj()
    weight = power_of_frame / xp.maximum(power_of_frame.sum(), np.finfo(float).tiny)
    spread = float(xp.sqrt((weight * xp.angle(phase) ** 2).sum()))
    return Phases(phase.astype(np.complex64), 1 - pair.value, spread, localisation(pair.vector))


def keep_significant(found: Phases, residual: float) -> Phases:
    """The phases, or ones if their spread is too small compared with the residual R2 (see `SIGNIFICANT`)."""
    if found.spread >= SIGNIFICANT * residual:
        return found
    return replace(found, phase=array_module(found.phase).ones_like(found.phase))
