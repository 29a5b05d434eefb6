"""What a run has found of a probe that varies: in a sentence, and as modes with their weights.

The command line and `plotting` call this module, for results whose probe may vary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

__all__ = ["describe_variation", "draw_variation"]

# Modes whose pictures are drawn, at most.
MOST_MODES = 4


def _shares(result: xr.Dataset) -> NDArray[np.float64]:
    """The power of each mode, averaged over frames, as a share of the power of the probe that varies."""
    weights, probe = result["probe_weight"].values, result["probe"].values[0]
    power = (np.abs(result["probe_variation"].values) ** 2).sum(axis=(1, 2)) / (np.abs(probe) ** 2).sum()
    relative = power * np.nanmean(np.abs(weights) ** 2, axis=0)
    shares: NDArray[np.float64] = relative / (1 + relative.sum())
    return shares


def describe_variation(result: xr.Dataset) -> str:
    """A sentence on how much the probe varies.

    Parameters
    ----------
    result : Dataset
        With ``probe_weight`` and ``probe_variation``.
    """
    shares = _shares(result)
    count = int((shares > 0).sum())
    if not count:
        return "Probe: does not vary significantly."
    return (
        f"Probe: varies, {100 * shares.sum():.2g} % of the power in {count} mode{'s' if count > 1 else ''}."
    )


def draw_variation(figure: FigureBase, result: xr.Dataset) -> None:
    """Draw the modes of the variation, and below them their weights in the order of acquisition."""
    # Matplotlib is not imported by a run that only describes what it has found.
    from daskptycho.views.drawing import NORMAL, complex_to_rgb

    shares = _shares(result)
    shown = min(len(shares), MOST_MODES)
    grid = figure.add_gridspec(2, shown, height_ratios=[1, 1.4])
    curve = figure.add_subplot(grid[1, :])
    used = result.isel(frame=np.isfinite(result["probe_weight"].values).all(axis=1)).sortby("frame_number")
    for mode in range(shown):
        axes = figure.add_subplot(grid[0, mode])
        axes.imshow(complex_to_rgb(result["probe_variation"].values[mode]))
        axes.set_title(f"{mode + 1}: {100 * shares[mode]:.2g} %", fontsize=NORMAL)
        axes.set_axis_off()
        weight = used["probe_weight"].values[:, mode].real
        curve.plot(used["frame_number"].values, weight, ".", markersize=2, label=str(mode + 1))
    curve.set_xlabel("frame")
    curve.set_ylabel("weight (real part)")
    curve.legend(title="mode", markerscale=4, fontsize=NORMAL - 2)
    figure.suptitle("variation of the probe", fontsize=NORMAL)
