"""What a run has found of the beam's gain: in a sentence, and as a curve in the order of acquisition.

The command line and `plotting` call this module, for results whose gains were refined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.views.run_options import read_refined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["describe_gain", "draw_gain"]

# A change over the whole scan is named if it has this share of the variance, frames if they have less light
# than this share of the median's.
MOST_OF_IT = 0.5
DIM = 0.5


def _intensities(result: xr.Dataset) -> tuple[NDArray, NDArray[np.float64]]:
    """Numbers of the frames that were used, in the order of acquisition, and the beam's power at each."""
    used = result.isel(frame=np.isfinite(result["gain"].values)).sortby("frame_number")
    power: NDArray[np.float64] = used["gain"].values.astype(float) ** 2
    return used["frame_number"].values, power


def describe_gain(result: xr.Dataset) -> str:
    """A sentence on the refined gain: a change over the scan, and what single frames do beside it.

    Parameters
    ----------
    result : Dataset
        With ``gain`` and ``gain_changed``.
    """
    if not (result["gain_changed"].values > 0).any():
        return "Beam: no change that is significant."
    number, power = _intensities(result)
    logarithm, time = np.log(power), number / max(1, int(number.max()))
    dim = power < DIM * np.median(power)
    slope, start = np.polyfit(time[~dim], logarithm[~dim], 1)
    rest = (logarithm - start - slope * time)[~dim]
    change = float(np.expm1(slope * np.ptp(time)))
    words = f"varies by {_per_cent(logarithm[~dim].std())} rms"
    if rest.var() < (1 - MOST_OF_IT) * logarithm[~dim].var():
        verb = "decays" if change < 0 else "grows"
        words = f"{verb} by {_per_cent(abs(change))} over the scan, {_per_cent(rest.std())} rms beside"
    if dim.any():
        frames = "1 frame has" if dim.sum() == 1 else f"{dim.sum()} frames have"
        words += f"; {frames} less than half of the light"
    if (read_refined(result, "gain") or {}).get("holds_slope"):
        words += "; a slope over the sample cannot be told from the probe, and was left as given"
    return f"Beam: {words}."


def _per_cent(share: float) -> str:
    return f"{100 * share:.2g} %"


def draw_gain(axes: Axes, result: xr.Dataset) -> None:
    """Draw the power of the beam, relative to its geometric mean, in the order of acquisition."""
    number, power = _intensities(result)
    axes.plot(number, power, ".", markersize=2)
    axes.set_xlabel("frame")
    axes.set_ylabel("power / mean")
    axes.set_title("beam")
