"""From the Gramian to one phase for each frame.

Nothing here depends on how H was computed; where H lies, its phases are found, and only scalars leave a GPU.

Two normalisations of H, both with largest eigenvalue one when all frames agree:

``frame``
    K = H_ij / (|z_i| |z_j|). From random phases its leading eigenvector sits on the few frames that
    agree best, and grows a consistent region from that seed; under noise it does the same and
    scrambles the rest.
``degree``
    L = H_ij / sqrt(d_i d_j) with d_i = sum_j |H_ij|, the connection Laplacian. It weighs all frames and
    stays fair under noise; from random phases it freezes their vortices.

So a random start begins with ``frame`` until its eigenvector has spread over the scan, which the inverse
participation ratio shows; anything else uses ``degree``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from daskptycho.backend import array_module
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
    """H with both sides divided by the consensus vector, which is where an eigensolver starts."""

    matrix: Any
    consensus: Array


def normalise(h: Any, power_of_frame: Array, normalisation: Normalisation) -> Normalised:
    """K or L from H.

    Parameters
    ----------
    h : (frame, frame) sparse Hermitian array
    power_of_frame : (frame,) array
        ``|z_i|^2``.
    normalisation : "frame" or "degree"
    """
    xp = array_module(power_of_frame)
    squared = power_of_frame if normalisation == "frame" else abs(h) @ xp.ones(h.shape[0])
    consensus = xp.sqrt(squared)
    inverse = invert_consensus(consensus)
    # The entries are scaled where they lie: two sparse products would cost a dozen steps of the eigensolver.
    scaled = h.data * (inverse[h.tocoo().row] * inverse[h.indices])
    return Normalised(type(h)((scaled, h.indices, h.indptr), shape=h.shape), consensus)


def invert_consensus(consensus: Array) -> Array:
    """One divided by the consensus vector; zero for frames without a count, which have no phase."""
    xp = array_module(consensus)
    return xp.where(consensus > 0, 1 / xp.where(consensus > 0, consensus, 1), 0)


def solve(normalised: Normalised, sync: Sync, steps: int | None = None) -> Eigenpair:
    """Leading eigenpair, started from the consensus vector; in `Sync.steps` unless `steps` are given."""
    if not normalised.consensus.any():
        # Frames without a count, all of them: no phase is better than another.
        alike = normalised.consensus.astype(np.complex128) + len(normalised.consensus) ** -0.5
        return Eigenpair(0.0, alike, 0.0)
    solver = {"lanczos": lanczos, "lobpcg": lobpcg, "power": power}[sync.eigensolver]
    steps = sync.steps(len(normalised.consensus)) if steps is None else steps
    return solver(normalised.matrix, normalised.consensus.astype(np.complex128), steps)


def localisation(vector: Array) -> float:
    """Inverse participation ratio ``k sum |v|^4 / (sum |v|^2)^2``: from 1, all take part, to k, one does."""
    share = abs(vector) ** 2
    return float(len(share) * (share**2).sum() / share.sum() ** 2)


@dataclass(frozen=True)
class Phases:
    """What a synchronisation found.

    Attributes
    ----------
    phase : (frame,) complex64 array
        omega, of unit modulus: to be multiplied onto the frames.
    consensus : float
        1 - lambda: zero where all frames agree.
    spread : float
        Root mean square of the angles of omega, weighted by the frames' power, in radians.
    localisation : float
    """

    phase: Array
    consensus: float
    spread: float
    localisation: float


def _to_unit_modulus(number: Array, xp: Any) -> Array:
    """Numbers of modulus one and the same phase; ones for zeros."""
    modulus = xp.abs(number)
    return xp.where(modulus > 0, number / xp.where(modulus > 0, modulus, 1), 1)


def extract_phases(pair: Eigenpair, power_of_frame: Array) -> Phases:
    """Unit-modulus phases of an eigenvector, their weighted mean removed."""
    xp = array_module(pair.vector)
    phase = _to_unit_modulus(pair.vector, xp)
    phase = phase * _to_unit_modulus((phase * power_of_frame).sum(), xp).conj()
    weight = power_of_frame / xp.maximum(power_of_frame.sum(), np.finfo(float).tiny)
    spread = float(xp.sqrt((weight * xp.angle(phase) ** 2).sum()))
    return Phases(phase.astype(np.complex64), 1 - pair.value, spread, localisation(pair.vector))


def keep_significant(found: Phases, residual: float) -> Phases:
    """The phases, or ones where the misfit does not bear them out (see `SIGNIFICANT`)."""
    if found.spread >= SIGNIFICANT * residual:
        return found
    return replace(found, phase=array_module(found.phase).ones_like(found.phase))
