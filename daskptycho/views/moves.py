"""What a run has found of the positions: in a sentence, and as arrows on the scan.

The command line and `plotting` call this module, for results whose positions were refined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.views.run_options import read_refined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["describe_moves", "draw_moves", "find_moves_in_pixels"]

# A smooth part of the moves is named if it has this share of their power.
MOST_OF_IT = 0.5
# Frames whose moves are drawn: more arrows would hide each other.
MOST_ARROWS = 900
# Length of the longest arrow, in steps of the scan.
LONGEST = 1.5


def find_moves_in_pixels(result: xr.Dataset) -> NDArray[np.float64]:
    """How far each frame has moved from its given position, (frame, 2), in pixels; without the mean."""
    moved = _in_pixels(result, result["position"] - result["position_given"])
    moves: NDArray[np.float64] = moved - moved.mean(axis=0)
    return moves


def _keep_used(result: xr.Dataset) -> xr.Dataset:
    """The result without the frames that were left out, which have not moved."""
    return result.isel(frame=result["frame_used"].values) if "frame_used" in result else result


def _in_pixels(result: xr.Dataset, lengths: xr.DataArray) -> NDArray[np.float64]:
    in_metres = result["position"].attrs.get("units") == "m"
    size = result.attrs["pixel_size_m"] if in_metres else [1.0, 1.0]
    pixels: NDArray[np.float64] = lengths.values / np.array(size)
    return pixels


def describe_moves(result: xr.Dataset) -> str:
    """A sentence on the refined positions: a drift, a change of scale and angle, or moves of single frames.

    Parameters
    ----------
    result : Dataset
        With ``position_given``.
    """
    result = _keep_used(result)
    moves = find_moves_in_pixels(result)
    if not moves.any():
        return "Positions: the given ones fit, and were kept."
    time = result["frame_number"].values / max(1, int(result["frame_number"].max()))
    given = _in_pixels(result, result["position_given"])
    centred = (given - given.mean(axis=0)) / max(float(np.abs(given - given.mean(axis=0)).max()), 1e-300)
    one = np.ones(len(moves))
    drift = _fit(np.column_stack([one, time, time**2, time**3]), moves)
    affine = _fit(np.column_stack([one, centred]), moves)
    total = float((moves**2).sum())
    smooth, said = max(
        [(drift, _describe_drift(drift)), (affine, _describe_affine(affine, result))],
        key=lambda part: -float(((moves - part[0]) ** 2).sum()),
    )
    rest = float(((moves - smooth) ** 2).sum())
    words = f"moved by {_rms(moves):.2g} px rms along an axis"
    if rest < (1 - MOST_OF_IT) * total:
        words = f"{said}, {_rms(moves - smooth):.2g} px rms beside"
    return f"Positions: {words}.{_warn_of_limit(result, moves)}"


def _fit(basis: NDArray, moves: NDArray) -> NDArray[np.float64]:
    """The part of the moves in a basis."""
    part: NDArray[np.float64] = basis @ np.linalg.lstsq(basis, moves, rcond=None)[0]
    return part


def _describe_drift(part: NDArray) -> str:
    lengths = np.ptp(part, axis=0)
    axis = int(np.argmax(lengths))
    return f"drift of {lengths[axis]:.2g} px along {'yx'[axis]}"


def _describe_affine(part: NDArray, result: xr.Dataset) -> str:
    given = _in_pixels(result, result["position_given"])
    matrix = np.linalg.lstsq(given - given.mean(axis=0), part - part.mean(axis=0), rcond=None)[0].T
    scale = 1 + np.trace(matrix) / 2
    angle = np.rad2deg((matrix[1, 0] - matrix[0, 1]) / 2)
    return f"scaled by {scale:.4g} and turned by {angle:.2g} degrees"


def _rms(moves: NDArray) -> float:
    return float(np.sqrt((moves**2).mean()))


def _warn_of_limit(result: xr.Dataset, moves: NDArray) -> str:
    """How many frames are as far from their given position as they may move, if any."""
    options = read_refined(result, "positions") or {}
    limit = options.get("limit") or max(1, min(result["probe"].shape[-2:]) // 4)
    stopped = int((np.abs(moves).max(axis=1) >= limit - 0.5).sum())
    if not stopped:
        return ""
    frames = "1 frame has" if stopped == 1 else f"{stopped} frames have"
    return f" {frames} moved by {limit} px, as far as allowed: a larger limit may find more."


def draw_moves(axes: Axes, result: xr.Dataset) -> None:
    """Draw the moves of the frames as arrows on the given positions, longer than they are."""
    result = _keep_used(result)
    moves = find_moves_in_pixels(result)
    given = _in_pixels(result, result["position_given"])
    shown = slice(None, None, -(-len(moves) // MOST_ARROWS))
    extent = np.ptp(given, axis=0)
    step = float(np.sqrt(max(extent.prod(), 1.0) / len(given)))
    longest = float(np.hypot(*moves.T).max())
    times = LONGEST * step / longest if longest > 0 else 1.0
    times = float(f"{times:.1g}")
    y, x = given[shown].T
    dy, dx = times * moves[shown].T
    axes.quiver(x, y, dx, dy, angles="xy", scale_units="xy", scale=1, width=0.004, color="tab:red")
    axes.plot(x, y, ".", markersize=2, color="0.6", zorder=0)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("x (pixel)")
    axes.set_ylabel("y (pixel)")
    axes.set_title("moves of the frames" + (f",\n{times:g} times as long" if times != 1 else ""))
