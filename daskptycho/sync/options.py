"""How frames are synchronised, and how often that pays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from daskptycho.errors import OptionError

__all__ = ["SIGNIFICANT", "Cadence", "Normalisation", "Sync", "Synchronisation"]

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
class Synchronisation:
    """What one sweep does about phases."""

    sync: Sync
    normalisation: Normalisation | None
    """Which matrix; None: this sweep does not synchronise."""

    @property
    def only_significant(self) -> bool:
        """Whether phases that the misfit does not bear out are left alone (see `phases.keep_significant`)."""
        return self.sync.every == "auto" and self.normalisation == "degree"


@dataclass(frozen=True)
class Cadence:
    """When to synchronise, and on which matrix; `begin` makes the first one.

    The interval doubles each time the phases that gathered in it are not significant, and halves where
    they are twice as large: where frames already agree as well as the noise lets them, the
    synchronisations thin out and cost nothing.

    Attributes
    ----------
    sync : Sync
    growing : bool
        A random start is still growing its first consistent region.
    interval : int
        Sweeps from one synchronisation to the next.
    due_in : int
        Sweeps to the next one; it is due at one.
    """

    sync: Sync
    growing: bool
    interval: int
    due_in: int

    @staticmethod
    def begin(sync: Sync, *, growing: bool) -> Cadence:
        """The cadence of the first sweep."""
        settling = 0 if growing or sync.every != "auto" else SETTLING_SWEEPS
        return Cadence(sync, growing, interval=1, due_in=1 + settling)

    @property
    def normalisation(self) -> Normalisation:
        """The matrix of a synchronisation."""
        if self.sync.normalisation != "auto":
            return self.sync.normalisation
        return "frame" if self.growing else "degree"

    def due(self) -> bool:
        """Whether the coming sweep synchronises."""
        return self.sync.method is not None and self.due_in <= 1

    def coming(self) -> Synchronisation:
        """What the coming sweep does."""
        return Synchronisation(self.sync, self.normalisation if self.due() else None)

    def after(self, residual: float, spread: float, localisation: float) -> Cadence:
        """The cadence after a sweep: its R2, and what its synchronisation found, NaN where it had none."""
        if math.isnan(spread):
            return replace(self, due_in=self.due_in - 1)
        growing = self.growing and not (localisation < GROWN and spread < SETTLED)
        interval = self.interval
        if self.sync.every != "auto":
            interval = self.sync.every
        elif growing:
            interval = 1
        elif spread < SIGNIFICANT * residual:
            interval *= 2
        elif spread > 2 * SIGNIFICANT * residual:
            interval = max(1, interval // 2)
        return replace(self, growing=growing, interval=interval, due_in=interval)
