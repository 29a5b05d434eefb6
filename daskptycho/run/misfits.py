"""Frames that fit badly, or that no other confirms: named in the result, and in a warning at the end."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import warn_caller
from daskptycho.scan.dataset import list_numbers

__all__ = ["find_alone", "find_misfits", "name_misfits", "warn_of_misfits"]

# How far above the others a misfit is: in units of their spread, and as a ratio to their median.
SPREADS, TIMES = 6.0, 4.0
# Less than this is no sign of a wrong frame: half a pixel of displacement leaves more, and at the edge of a
# scan frames that are right come down later than the others.
LEAST_MISFIT = 1e-3
# A frame is alone if it shares less than this part of its light, in a scan where most share this much.
LEAST_SHARED, USUALLY_SHARED = 0.3, 0.6
# Fewest frames that tell what the others are like.
FEWEST = 8
MISFITS, ALONE = "frames_that_fit_badly", "frames_alone"


def find_misfits(residual: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the frames whose residual is far above that of the others.

    Parameters
    ----------
    residual : (frame,) array
        R2 of each frame, NaN where a frame was left out.

    Returns
    -------
    (n,) int64 array
        The worst first.
    """
    known = np.flatnonzero(np.isfinite(residual) & (residual > 0))
    if len(known) < FEWEST:
        return np.empty(0, dtype=np.int64)
    level = np.log(residual[known])
    middle = np.median(level)
    # Residuals vary by factors from frame to frame; the median deviation does not see the few that are wrong.
    spread = 1.4826 * np.median(np.abs(level - middle))
    far = level - middle > max(np.log(TIMES), SPREADS * spread)
    wrong = known[far & (residual[known] > LEAST_MISFIT)]
    found = np.concatenate([np.flatnonzero(np.isposinf(residual)), wrong])
    return found[np.argsort(-residual[found], kind="stable")]


def find_alone(overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the frames that share little of their light with others, in a scan where most share much.

    Parameters
    ----------
    overlap : (frame,) array
        Share of the light of each frame, NaN where a frame was left out.
    """
    known = overlap[np.isfinite(overlap)]
    if len(known) < FEWEST or np.median(known) < USUALLY_SHARED:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(overlap < LEAST_SHARED)


def name_misfits(result: xr.Dataset) -> dict[str, list[int]]:
    """The attributes of a result that name the frames that fit badly, the worst first, and those alone."""
    number = result["frame_number"].values
    found = {
        MISFITS: find_misfits(result["frame_residual"].values),
        ALONE: find_alone(result["frame_overlap"].values),
    }
    return {name: number[frames].tolist() for name, frames in found.items() if frames.size}


def warn_of_misfits(result: xr.Dataset) -> None:
    """Warn of the frames of a result that fit far worse than the others, or that no other confirms."""
    for sentence in _describe(result):
        warn_caller(sentence)


def _describe(result: xr.Dataset) -> list[str]:
    said = []
    numbers = result.attrs.get(MISFITS, [])
    if numbers:
        own = np.isin(result["frame_number"].values, numbers)
        residual = result["frame_residual"].values
        worst, best = residual[own].max(), residual[own].min()
        between = f"{best:.2g}" if len(numbers) == 1 else f"{best:.2g} to {worst:.2g}"
        said.append(
            f"{list_numbers(numbers)} fit{'s' if len(numbers) == 1 else ''} far worse than the others "
            f"(R2 {between}; the median is {np.nanmedian(residual[~own]):.2g}): {_their(numbers)} or counts "
            f"are probably wrong {_advice(numbers)}"
        )
    numbers = result.attrs.get(ALONE, [])
    if numbers:
        said.append(
            f"{list_numbers(numbers)} share{'s' if len(numbers) == 1 else ''} hardly any light with other "
            f"frames, so that nothing confirms {_their(numbers)} {_advice(numbers)}"
        )
    return said


def _their(numbers: list[int]) -> str:
    return "its position" if len(numbers) == 1 else "their positions"


def _advice(numbers: list[int]) -> str:
    return f"(to leave out: leave_out, --leave-out {','.join(map(str, sorted(numbers)))})"
