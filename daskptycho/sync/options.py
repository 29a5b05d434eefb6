"""The options of phase synchronisation, and the cadence that decides which sweeps synchronise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from daskptycho.errors import OptionError

__all__ = [
    "SIGNIFICANT",
    "SMALL",
    "Cadence",
    "Normalisation",
    "Sync",
    "Synchronisation",
    "check_normalisation",
]

Normalisation = Literal["frame", "degree"]

# The first consistent region of a random start has grown once the localisation of the eigenvector is below
# the first of these, about half of the scan covered evenly, and the spread of the phases below the second
# (radians).
GROWN = 2.0
SETTLED = 0.02
# Noise may keep the eigenvector a little more localised than that. The region has grown too once the
# localisation is below the first of these, and the spread below this multiple of R2, which noise alone
# causes, and below the last, since a clean scan has such a spread too while R2 is still high.
GROWN_IN_NOISE = 4.0
NOISE, SETTLED_IN_NOISE = 0.2, 0.04
# Phases are not applied if their spread in radians is below this multiple of R2. Noise causes phases of 0.1
# to 0.2 R2, long-range errors of a clean scan cause R2 and more (benchmarks/noise.py, raster.py). Phases of
# noise would introduce long-range errors into a good start, which no frame can correct.
SIGNIFICANT = 0.5
# Phases below this, root mean square in radians, may come from a coarse grid (`coarse`).
SMALL = 0.2
# That holds to first order in what a sweep changes, which is not little where R2 is above this.
FITTED = 0.25

# Sweeps before the first synchronisation unless the start is random: until then phases reflect the start, not
# the sample.
SETTLING_SWEEPS = 2


@dataclass(frozen=True)
class Sync:
    """Options of phase synchronisation: a phase for each frame from the leading eigenvector of the Gramian.

    The Gramian ``H_ij = sum_r conj(u_i(r - x_i)) u_j(r - x_j) / N(r)`` of the weighted frames and its use
    follow Marchesini et al., Inverse Problems 29, 115009 (2013).

    Raises
    ------
    OptionError
        A field has a value that is not allowed, or `inner` is above one without ``"two-level"``.
    """

    method: Literal["two-level", "full"] | None = "two-level"
    """``"two-level"``: phases of frames from the H of each tile, then one phase for each tile, from the
    strips that tiles exchange anyway. ``"full"``: phases from the exact H over all frames, which do not
    depend on the tiles. None: no synchronisation."""
    inner: int = 1
    """Sweeps inside a tile between two rounds of communication; above one only with ``"two-level"``."""
    eigensolver: Literal["lanczos", "lobpcg", "power"] = "lanczos"
    """Solver for the leading eigenvector. With ``"full"``, power iteration runs on the Dask blocks of H, and
    the other two on the assembled H; if H is too large for one worker, LOBPCG on its blocks replaces them."""
    iterations: Literal["auto"] | int = "auto"
    """Steps of the eigensolver in one synchronisation; ``"auto"``: see `steps`. What one synchronisation does
    not reach is left to the next."""
    every: Literal["auto"] | int = "auto"
    """Sweeps from one synchronisation to the next; ``"auto"`` follows the spread of the phases found."""
    normalisation: Literal["auto", "frame", "degree"] = "auto"
    """Normalisation of H: ``"frame"``, ``H_ij / (|z_i| |z_j|)``, or ``"degree"``, ``H_ij / sqrt(d_i d_j)``
    with ``d_i = sum_j |H_ij|``. ``"auto"`` uses the first while a random start grows its first consistent
    region, and the second otherwise."""

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

    def steps(self, frames: int) -> int:
        """Number of steps of the eigensolver for this number of frames.

        The spectral gap of the normalised Gramian of a square scan is about 3.65 / frames. The number of
        steps is therefore proportional to the number of frames for power iteration, and to its square root
        for Lanczos and LOBPCG.
        """
        if self.iterations != "auto":
            return self.iterations
        if self.eigensolver == "power":
            return max(50, frames // 4)
        return math.ceil(max(24, math.sqrt(frames) / 2))

    def steps_of_tiles(self, tiles: int) -> int:
        """Number of steps of the eigensolver for the matrix of this number of tiles.

        The first eigenvectors of a random start are concentrated on a few tiles, and after few steps their
        phases far away are meaningless in a large scan. The matrix is small, so that more steps cost little.
        For 256x256 frames in 1024 tiles, a random start took 33 rounds with 24 steps, as `steps` gives, and
        24 rounds with 300 steps.
        """
        if self.iterations != "auto" or self.eigensolver == "power":
            return self.steps(tiles)
        return math.ceil(max(self.steps(tiles), 8 * math.sqrt(tiles)))


def check_normalisation(normalisation: str) -> None:
    """Refuse what is neither of the two normalisations.

    Raises
    ------
    OptionError
    """
    if normalisation not in ("degree", "frame"):
        raise OptionError(f"normalisation is {normalisation!r}; expected 'degree' or 'frame'")


@dataclass(frozen=True)
class Synchronisation:
    """Whether and how one sweep synchronises."""

    sync: Sync
    normalisation: Normalisation | None
    """Normalisation of H; None if the sweep does not synchronise."""
    near_pairs: bool = False
    """Whether the pairs of near neighbours are enough within a tile."""
    in_parts: bool = False
    """Whether the frames of the scan or of a tile fall into parts. Thin tiles are then to be expected, whose
    phases have to gain more than noise would (see `phases.keep_gained`)."""
    coarse: bool = False
    """Whether phases may be so small that a coarse grid in place of H will do (see `coarse`)."""

    @property
    def only_significant(self) -> bool:
        """Whether phases are applied only if they are significant (see `phases.keep_significant`)."""
        return self.sync.every == "auto" and self.normalisation == "degree"


@dataclass(frozen=True)
class Cadence:
    """Decides when to synchronise, and with which normalisation; `begin` makes the first one of a run.

    With ``every="auto"`` the interval doubles after a synchronisation whose phases are not significant, and
    halves if their spread is more than twice the limit. Above that limit near neighbours determine the next
    phases well enough, and H is computed for their pairs only. Once frames agree as well as noise allows,
    synchronisations become rare and take hardly any time.

    Attributes
    ----------
    sync : Sync
    growing : bool
        Whether a random start is still growing its first consistent region.
    interval : int
        Sweeps from one synchronisation to the next.
    due_in : int
        Sweeps until the next synchronisation; one or less if the coming sweep synchronises.
    near_pairs : bool
        Whether the last phases stood out from the noise so far that near neighbours determine the next ones.
    coarse : bool
        Whether the next phases may come from a coarse grid: unless a random start is growing, or the last
        ones were large.
    """

    sync: Sync
    growing: bool
    interval: int
    due_in: int
    near_pairs: bool = False
    coarse: bool = False

    @staticmethod
    def begin(sync: Sync, *, growing: bool) -> Cadence:
        """The cadence of the first sweep."""
        settling = 0 if growing or sync.every != "auto" else SETTLING_SWEEPS
        begun = Cadence(sync, growing, interval=1, due_in=1 + settling)
        return replace(begun, coarse=not growing and begun._may_be_coarse())

    @property
    def normalisation(self) -> Normalisation:
        """The normalisation of H in the next synchronisation."""
        if self.sync.normalisation != "auto":
            return self.sync.normalisation
        return "frame" if self.growing else "degree"

    def due(self) -> bool:
        """Whether the coming sweep synchronises."""
        return self.sync.method is not None and self.due_in <= 1

    def coming(self) -> Synchronisation:
        """Whether and how the coming sweep synchronises."""
        normalisation = self.normalisation if self.due() else None
        return Synchronisation(self.sync, normalisation, self.near_pairs, coarse=self.coarse)

    def after(self, residual: float, spread: float, localisation: float) -> Cadence:
        """The cadence after a sweep, from its R2 and the spread and localisation of its phases.

        Both are NaN if the sweep did not synchronise.
        """
        if math.isnan(spread):
            return replace(self, due_in=self.due_in - 1)
        grown = (localisation < GROWN and spread < SETTLED) or (
            GROWN <= localisation < GROWN_IN_NOISE and spread < min(NOISE * residual, SETTLED_IN_NOISE)
        )
        growing = self.growing and not grown
        interval = self.interval
        if self.sync.every != "auto":
            interval = self.sync.every
        elif growing:
            interval = 1
        elif spread < SIGNIFICANT * residual:
            interval *= 2
        elif spread > 2 * SIGNIFICANT * residual:
            interval = max(1, interval // 2)
        near_pairs = not growing and self.sync.every == "auto" and spread > 2 * SIGNIFICANT * residual
        following = replace(self, growing=growing, interval=interval, due_in=interval)
        coarse = not growing and spread < SMALL and residual < FITTED and self._may_be_coarse()
        return replace(following, near_pairs=near_pairs, coarse=coarse)

    def _may_be_coarse(self) -> bool:
        """Whether nothing is asked of the eigensolver."""
        sync = self.sync
        asked = sync.iterations != "auto" or sync.eigensolver != "lanczos" or sync.normalisation == "frame"
        return sync.method == "two-level" and not asked
