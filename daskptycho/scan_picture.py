"""A picture of a scan: its mean frame and its positions. The command line calls this module."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from daskptycho.scan import frame_numbers

__all__ = ["plot_scan"]


def plot_scan(scan: xr.Dataset, mean: ArrayLike) -> Figure:
    """Draw the mean frame, its counts on a logarithmic scale, beside the positions in their order.

    Parameters
    ----------
    scan : xarray.Dataset
        From `open_scan`.
    mean : (qy, qx) array
        Mean of its frames.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    counts = np.asarray(mean, dtype=float)
    lit = counts[counts > 0]
    norm = LogNorm(max(float(lit.min()), float(lit.max()) * 1e-6), float(lit.max())) if lit.size else None
    shown = left.imshow(np.ma.masked_less_equal(counts, 0), norm=norm, cmap="magma")
    left.set(title="mean frame (counts)", xlabel="qx (pixel)", ylabel="qy (pixel)")
    left.set_facecolor("black")
    figure.colorbar(shown, ax=left, shrink=0.85)
    position = scan["position"].values
    unit = str(scan["position"].attrs.get("units", "pixel"))
    factor, name = (1e6, "µm") if unit == "m" else (1.0, unit)
    dots = right.scatter(
        factor * position[:, 1], factor * position[:, 0], c=frame_numbers(scan), s=8, cmap="viridis"
    )
    right.set(title=f"{len(position)} positions", xlabel=f"x ({name})", ylabel=f"y ({name})", aspect="equal")
    right.invert_yaxis()
    figure.colorbar(dots, ax=right, shrink=0.85, label="frame number")
    return figure
