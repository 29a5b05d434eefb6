"""Phase synchronisation: from the Gramian to one phase for each frame, and how often that pays.

The graphs, `blockwise` and `two_level` call this module, and `loop` and `run` for the cadence; it calls
`eigensolvers` and `backend`. Nothing here depends on how H was computed; where H lies, its phases are
found, and scalars alone leave a GPU.

Two normalisations of H, both with largest eigenvalue one when all frames agree:

``frame``
    K = H_ij / (|z_i| |z_j|). From random phases its leading eigenvector sits on the few frames that
    agree best, and grows a consistent region from that seed; under noise it does the same and
    scrambles the rest.
``degree``
    L = H_ij / sqrt(d_i d_j) with d_i = sum_j |H_ij|, the connection Laplacian. It weighs all frames and
    stays fair under noise; from random phases it freezes their vortices.

So a random start begins with ``frame`` until its eigenvector has spread over the scan, which the inverse
participation ratio tells; anything else uses ``degree``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from daskptycho.backend import array_module
from daskptycho.errors import OptionError
from daskptycho.sync.eigensolvers import Eigenpair, lanczos, lobpcg, power

__all__ = [
    "Cadence",
    "Normalised",
    "Phases",
    "Sync",
    "frame_phases",
    "localisation",
    "normalise",
    "significant",
    "solve",
]

Array = Any
Normalisation = Literal["frame", "degree"]

# A random start's seed region counts as grown once the eigenvector covers about half of the scan evenly
# and the phases that it still finds (radians) are small.
GROWN = 2.0
SETTLED = 0.02
# Phases whose spread (radians) is below this share of R2 are left alone. Noise alone makes phases of 0.1 to
# 0.2 R2, long-range errors of a clean scan phases of R2 and more (benchmarks/noise.py, raster.py).
# Applied, the noise's phases would spoil a fair start's long range, and no frame could put it right.
SIGNIFICANT = 0.5

# A start that is not random is let settle: the first frames say more about it than about the sample.
SETTLING_SWEEPS = 2


@dataclass(frozen=True)
class Sync:
    """How frames are synchronised: phases from the leading eigenvector of their Gramian.

    The Gramian after Marchesini et al., Inverse Problems 29, 115009 (2013).

    Raises
    ------
    OptionError
        A value that none of the fields has.
    """

    method: Literal["two-level", "full"] | None = "two-level"
    """``"two-level"``: each tile's own H, then one phase for each tile, from the strips that tiles exchange
    anyway. ``"full"``: the exact H over all tiles, the same whatever the tiles. None: no synchronisation."""
    inner: int = 1
    """Sweeps inside a tile between two rounds of communication; above one with ``"two-level"`` alone."""
    eigensolver: Literal["lanczos", "lobpcg", "power"] = "lanczos"
    """Lanczos or LOBPCG on the assembled matrix, or power iteration on its Dask blocks. A matrix over all
    tiles that no worker should hold takes LOBPCG on its blocks in place of the first two."""
    iterations: Literal["auto"] | int = "auto"
    """Steps of the eigensolver in one synchronisation; ``"auto"`` grows with the scan's side, and the
    frames carry what one synchronisation leaves over to the next."""
    every: Literal["auto"] | int = "auto"
    """Sweeps from one synchronisation to the next; ``"auto"`` follows the spread of the phases found."""
    normalisation: Literal["auto", "frame", "degree"] = "auto"
    """Which matrix; ``"auto"`` measures whether a random start is still growing its first region."""

    def __post_init__(self) -> None:
        if self.method not in ("two-level", "full", None):
            raise OptionError(f"sync method is {self.method!r}; expected 'two-level', 'full' or None")
        if isinstance(self.inner, bool) or not isinstance(self.inner, int) or self.inner < 1:
            raise OptionError(f"sync inner is {self.inner!r}; expected a whole number of sweeps")
        if self.inner > 1 and self.method != "two-level":
            raise OptionError(
                f"sync inner is {self.inner} with method {self.method!r}; expected 1, or method 'two-level'"
            )
        if self.eigensolver not in ("lanczos", "lobpcg", "power"):
            raise OptionError(f"eigensolver is {self.eigensolver!r}; expected 'lanczos', 'lobpcg' or 'power'")
        if self.iterations != "auto" and (not isinstance(self.iterations, int) or self.iterations < 1):
            raise OptionError(f"sync iterations is {self.iterations!r}; expected 'auto', or a whole number")
        if self.every != "auto" and (not isinstance(self.every, int) or self.every < 1):
            raise OptionError(f"sync every is {self.every!r}; expected 'auto' or a whole number of sweeps")
        if self.normalisation not in ("auto", "frame", "degree"):
            raise OptionError(
                f"normalisation is {self.normalisation!r}; expected 'auto', 'frame' or 'degree'"
            )

    def only_significant(self, normalisation: Normalisation) -> bool:
        """Whether phases that the misfit does not bear out are left alone (see `significant`)."""
        return self.every == "auto" and normalisation == "degree"

    def steps(self, frames: int) -> int:
        """Steps of the eigensolver for so many frames.

        The gap of a square scan's matrix is about 3.65 / frames: power iteration needs steps in
        proportion to the frames, Lanczos and LOBPCG to their square root.
        """
        if self.iterations != "auto":
            return self.iterations
        if self.eigensolver == "power":
            return max(50, frames // 4)
        return math.ceil(max(24, math.sqrt(frames) / 2))

    def steps_of_tiles(self, tiles: int) -> int:
        """Steps of the eigensolver for the matrix of so many tiles.

        The first vectors of a random start sit on a few tiles, and what few steps leave of them on the far
        side of a large scan is no phase. The matrix is small: it is solved as far as it goes. 256x256 frames
        in 1024 tiles took 33 rounds with the 24 of `steps`, 24 with 300.
        """
        if self.iterations != "auto" or self.eigensolver == "power":
            return self.steps(tiles)
        return math.ceil(max(self.steps(tiles), 8 * math.sqrt(tiles)))


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
    # A frame without a count has no phase to agree on.
    inverse = xp.where(consensus > 0, 1 / xp.where(consensus > 0, consensus, 1), 0)
    # The entries are scaled where they lie: two sparse products would cost a dozen steps of the eigensolver.
    scaled = h.data * (inverse[h.tocoo().row] * inverse[h.indices])
    return Normalised(type(h)((scaled, h.indices, h.indptr), shape=h.shape), consensus)


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


def _unit(number: Array, xp: Any) -> Array:
    """Numbers of modulus one and the same phase; ones for zeros."""
    modulus = xp.abs(number)
    return xp.where(modulus > 0, number / xp.where(modulus > 0, modulus, 1), 1)


def frame_phases(pair: Eigenpair, power_of_frame: Array) -> Phases:
    """Unit-modulus phases of an eigenvector, their weighted mean removed."""
    xp = array_module(pair.vector)
    phase = _unit(pair.vector, xp)
    phase = phase * _unit((phase * power_of_frame).sum(), xp).conj()
    weight = power_of_frame / xp.maximum(power_of_frame.sum(), np.finfo(float).tiny)
    spread = float(xp.sqrt((weight * xp.angle(phase) ** 2).sum()))
    return Phases(phase.astype(np.complex64), 1 - pair.value, spread, localisation(pair.vector))


def significant(found: Phases, residual: float) -> Phases:
    """The phases, or ones where the misfit does not bear them out (see `SIGNIFICANT`)."""
    if found.spread >= SIGNIFICANT * residual:
        return found
    return replace(found, phase=array_module(found.phase).ones_like(found.phase))


@dataclass
class Cadence:
    """When to synchronise, and on which matrix.

    The interval doubles each time the phases that gathered in it are not significant, and halves where
    they are twice as large: where frames already agree as well as the noise lets them, the
    synchronisations thin out and cost nothing.
    """

    sync: Sync
    growing: bool
    """A random start is still growing its first consistent region."""
    interval: int = 1
    due_in: int = 1

    def __post_init__(self) -> None:
        if self.sync.every == "auto" and not self.growing:
            self.due_in = 1 + SETTLING_SWEEPS

    @property
    def normalisation(self) -> Normalisation:
        if self.sync.normalisation != "auto":
            return self.sync.normalisation
        return "frame" if self.growing else "degree"

    def due(self) -> bool:
        """Whether the coming sweep synchronises."""
        return self.sync.method is not None and self.due_in <= 1

    def swept(self, residual: float, spread: float, localisation: float) -> None:
        """Take note of a sweep: its R2, and what its synchronisation found, NaN where it had none."""
        if math.isnan(spread):
            self.due_in -= 1
            return
        if self.growing and localisation < GROWN and spread < SETTLED:
            self.growing = False
        if self.sync.every != "auto":
            self.interval = self.sync.every
        elif self.growing:
            self.interval = 1
        elif spread < SIGNIFICANT * residual:
            self.interval *= 2
        elif spread > 2 * SIGNIFICANT * residual:
            self.interval = max(1, self.interval // 2)
        self.due_in = self.interval
