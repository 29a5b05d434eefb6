"""Counts on their way into a scan: dead pixels are masked, codes are refused, sums of frames are kept.

`frames` passes every tile through `Intake` before it is stored. Whatever is masked or left out is said in
`findings`; nothing is changed in silence.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.scan.dead_pixels import (
    FEWEST_FRAMES,
    PixelStatistics,
    find_dead_pixels,
    refuse_wrapped_counts,
)
from daskptycho.scan.validation import check_counts

__all__ = ["Intake"]

# Equal frames are one that was read out twice where the chance for it is below exp(-60): even among all pairs
# of a million frames none is expected.
SURE_COPY = 60.0
# So many counts of a tile have their common divisor taken. It means something for so many different ones.
SAMPLE, FEWEST_DIFFERENT = 4096, 8


class Intake:
    """What is known of the counts that have come in.

    The pixels that do not count are looked for once enough frames have come, and again after the last one. If
    more are found than were known when the first tile went out, it is `stale`, and all tiles have to come in
    again.

    Parameters
    ----------
    shape : (int, int, int)
        Frames, and pixels along qy and qx.
    dtype : numpy.dtype
        Type of the counts.
    valid : (qy, qx) bool array or None
    mask_value : float or sequence of float
        Pixels that hold one of these numbers in any frame are not valid.
    clip_negative : bool
        Set counts below zero to zero, also those of unsigned types that have wrapped round.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        valid: NDArray[np.bool_] | None = None,
        mask_value: float | Sequence[float] = (),
        clip_negative: bool = False,
    ) -> None:
        self._frames, self._given = shape[0], valid
        self.valid = np.ones(shape[1:], dtype=bool) if valid is None else valid.copy()
        self._codes = _check_codes(mask_value)
        self._clips = bool(clip_negative)
        self._dtype = np.dtype(dtype)
        self.statistics = PixelStatistics(shape[1:], self._dtype)
        self.totals = np.zeros(shape[0])
        self.lost = np.zeros(shape[0], dtype=bool)
        self.whole = True
        # The largest number that divides all counts that were looked at, and some of these.
        self._divisor, self._different = 0, np.zeros(0, dtype=np.int64)
        self.findings: list[str] = []
        self.stale = False
        self._prints: dict[tuple[int, float], int] = {}
        self.repeated: list[tuple[int, int]] = []
        self._coded = np.zeros(shape[1:], dtype=bool)
        self._clipped = 0
        self._looked = self._complete = False
        self._held: ScanError | None = None

    @property
    def masks(self) -> bool:
        """Whether pixels have been masked that were not known to be invalid."""
        return not np.array_equal(
            self.valid, np.ones_like(self.valid) if self._given is None else self._given
        )

    def begin_again(self) -> None:
        """Take all tiles in again, with the pixels that are known now."""
        self.stale, self._clipped, self.whole = False, 0, True
        self._divisor, self._different = 0, self._different[:0]
        if not self._complete:
            self.statistics = PixelStatistics(self.statistics.shape, self._dtype)
            self._prints.clear()
            self.repeated.clear()

    def admit(self, tile: NDArray[Any], number: NDArray[np.int64]) -> NDArray[Any]:
        """The counts of a tile as they are to be stored: zero where they are not valid.

        Parameters
        ----------
        tile : (frame, qy, qx) array
        number : (frame,) int array
            Number of each frame in the input.

        Raises
        ------
        ScanError
            Counts are impossible: see `validation.check_counts` and `dead_pixels`.
        """
        lost = self._blank_lost(tile, number)
        if lost.any():
            tile = np.where(lost[:, None, None], tile.dtype.type(0), tile)
        if not self._complete:
            self._collect(tile, number, lost)
        tile = self._clean(tile)
        try:
            check_counts(tile, self.valid, number)
        except ScanError as error:
            if self._looked:
                raise
            # Whether the pixels are dead is not known yet.
            self._held = self._held or error
            tile = np.where(np.isfinite(tile) & (tile >= 0), tile, tile.dtype.type(0))
        if not self.valid.all():
            tile = np.where(self.valid, tile, tile.dtype.type(0))
        self.totals[number] = tile.sum(axis=(1, 2), dtype=np.float64)
        self.whole = self.whole and (tile.dtype.kind != "f" or bool((tile == np.rint(tile)).all()))
        if self.whole and self._divisor != 1:
            self._divide(tile)
        return tile

    def _divide(self, tile: NDArray[Any]) -> None:
        """Keep what divides the counts of a tile, too."""
        lit = tile[tile > 0]
        counts = np.unique(lit[:: max(1, lit.size // SAMPLE)].astype(np.float64)).astype(np.int64)
        self._divisor = int(np.gcd.reduce(counts, initial=self._divisor))
        self._different = np.unique(np.concatenate([self._different, counts]))[:FEWEST_DIFFERENT]

    def _blank_lost(self, tile: NDArray[Any], number: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which frames have no finite count on any valid pixel."""
        lost = np.zeros(len(tile), dtype=bool)
        if tile.dtype.kind == "f":
            suspect = np.flatnonzero(~np.isfinite(tile.reshape(len(tile), -1)).any(axis=1))
            lost[suspect] = True
            self.lost[number] = lost
        return lost

    def _collect(self, tile: NDArray[Any], number: NDArray[np.int64], lost: NDArray[np.bool_]) -> None:
        """Add a tile to what is known of the pixels, and look for dead ones if it is time."""
        self.statistics.add(tile[~lost] if lost.any() else tile)
        for code in self._codes:
            equal = np.isnan(tile) if np.isnan(code) else tile == code
            self._coded |= equal.any(axis=0)
        self._find_repeated(tile, number)
        seen = self.statistics.frames + int(self.lost.sum())
        self._complete = seen >= self._frames
        if self._complete or (not self._looked and seen >= FEWEST_FRAMES):
            self._look(first=seen == len(tile))

    def _look(self, *, first: bool) -> None:
        """Look for pixels that do not count."""
        before = self.valid.copy()
        self.valid &= ~self._coded
        dead, findings = find_dead_pixels(self.statistics, self.valid, clip_negative=self._clips)
        self.valid &= ~dead
        self.findings += findings
        if not self.valid.any():
            raise ScanError("no pixel is left that counts; expected counts, or another mask_value")
        self._looked = True
        grown = not np.array_equal(before, self.valid)
        if grown and not first:
            self.stale = True
        elif self._held is not None:
            raise self._held
        if grown:
            self._held = None
        if not self._clips:
            refuse_wrapped_counts(self.statistics, self.valid)

    def _clean(self, tile: NDArray[Any]) -> NDArray[Any]:
        """The tile with its negative counts clipped, if that was asked for."""
        if not self._clips or tile.dtype.kind == "b":
            return tile
        if tile.dtype.kind == "u":
            below = self._wrapped(tile)
        else:
            below = (tile < 0) & self.valid
        number = int(below.sum())
        if not number:
            return tile
        self._clipped += number
        return np.where(below, tile.dtype.type(0), tile)

    def _wrapped(self, tile: NDArray[Any]) -> NDArray[np.bool_]:
        """Where counts of an unsigned type are below zero, and have wrapped round."""
        half = (np.iinfo(tile.dtype).max // 2) + 1
        below: NDArray[np.bool_] = (tile >= half) & self.valid
        if below.any() and (tile[below] < half + half // 2).any():
            between = int(tile[below].min())
            raise ScanError(
                f"clip_negative cannot tell which counts of {tile.dtype} are below zero: there are counts of "
                f"{between:,}; expected none from {half:,} to {half + half // 2:,}"
            )
        return below

    def _find_repeated(self, tile: NDArray[Any], number: NDArray[np.int64]) -> None:
        """Note frames that hold exactly the counts of an earlier one."""
        for counts, own in zip(tile, number, strict=True):
            total = float(counts.sum(dtype=np.float64))
            if not total > 0:
                continue
            earlier = self._prints.setdefault(
                (zlib.crc32(np.ascontiguousarray(counts).data), total), int(own)
            )
            first, second = sorted((earlier, int(own)))
            if first != second and self._is_no_chance(counts, second - first):
                self.repeated.append((first, second))

    def _is_no_chance(self, counts: NDArray[Any], apart: int) -> bool:
        """Whether two frames that hold these counts, taken so many frames apart, must be one read out twice.

        Photons do not fall twice in the same way: two draws of Poisson's law with the mean n agree with a
        probability of about ``1 / sqrt(4 pi n)``. Without noise, places of a specimen that repeats look
        alike; frames are then doubted only if one directly follows the other.
        """
        if counts.dtype.kind == "f" and not (counts == np.rint(counts)).all():
            return apart == 1
        seen = counts[self.valid & (counts > 0)].astype(np.float64)
        return bool(np.log(4 * np.pi * seen).sum() / 2 > SURE_COPY)

    def report(self) -> list[str]:
        """What was masked and clipped, one sentence each, once all frames have come in."""
        said = []
        if self.findings:
            said.append(
                f"{'; '.join(self.findings)}: taken as not valid (to give a mask yourself: valid, "
                "--valid-key)"
            )
        if self._codes:
            number = int(self._coded.sum())
            codes = ", ".join(f"{code:.15g}" for code in self._codes)
            said.append(f"mask_value {codes}: {number:,} pixel{'' if number == 1 else 's'} masked")
        if self._clips:
            said.append(f"clip_negative: {self._clipped:,} counts were below zero and are set to 0")
        unexplained = self._saturated()
        if unexplained:
            said.append(unexplained)
        if self.whole and self._divisor > 1 and len(self._different) == FEWEST_DIFFERENT:
            said.append(
                f"the counts are multiples of {self._divisor:,}: units of a detector, or photons times that. "
                "Their noise is larger than that of so many photons, and what follows from it (the expected "
                f"R2, the polish at low dose) is not valid; expected photons: divide by {self._divisor:,}"
            )
        return said

    def _saturated(self) -> str | None:
        """A sentence on counts at the end of their type in too few frames to be a dead pixel."""
        if self._dtype.kind not in "iu":
            return None
        end = float(np.iinfo(self._dtype).max)
        at_end = self.statistics.at_end.get(end)
        number = 0 if at_end is None else int(at_end[self.valid].sum())
        if not number or (self._clips and self._dtype.kind == "u"):
            return None
        return (
            f"{number:,} counts are {end:.0f}, the largest of {self._dtype}, and are believed: they may be "
            f"saturated, or codes (mask_value={end:.0f}, --mask-value {end:.0f}, masks their pixels)"
        )


def _check_codes(mask_value: float | Sequence[float]) -> tuple[float, ...]:
    try:
        return tuple(float(code) for code in np.atleast_1d(np.asarray(mask_value, dtype=float)))
    except (TypeError, ValueError):
        raise OptionError(f"mask_value is {mask_value!r}; expected a number, or several") from None
