"""The pictures and curves of a view as one matplotlib figure. `live_cell` calls this module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from daskptycho.dashboard.view import ImagePicture, View
from daskptycho.views.drawing import NORMAL, PHASE_TICKS, RIM_COLOUR, SMALL
from daskptycho.views.panels import draw_convergence

__all__ = ["draw_live_figure"]


def draw_live_figure(view: View) -> Figure:
    """Draw amplitude and phase, and to their right the probe above the curves of residual and disagreement.

    Parameters
    ----------
    view : View
        It must have an image.
    """
    image, probe = view.image, view.probe
    assert image is not None
    figure = Figure(figsize=(13, 4.1), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 3, width_ratios=[1.2, 1.2, 1])
    amplitude, phase = (figure.add_subplot(grid[:, column]) for column in (0, 1))
    _draw_image(amplitude, image, image.amplitude, image.amplitude_limits, "gray", "amplitude")
    bar = _draw_image(
        phase, image, image.phase, (-image.phase_limit, image.phase_limit), "twilight", "phase (rad)"
    )
    if math.isclose(image.phase_limit, math.pi):
        bar.set_ticks(np.linspace(-np.pi, np.pi, 5), labels=PHASE_TICKS)
    for axes in (amplitude, phase):
        axes.set_xlabel(f"x ({view.scale.unit})", fontsize=NORMAL)
    amplitude.set_ylabel(f"y ({view.scale.unit})", fontsize=NORMAL)
    if probe is not None:
        axes = figure.add_subplot(grid[0, 2])
        axes.imshow(np.hstack(list(probe.modes[:3])))
        axes.set_title("probe" if len(probe.modes) == 1 else "strongest probe modes", fontsize=NORMAL)
        axes.set_axis_off()
    history = {"residual": ("sweep", list(view.residual)), "disagreement": ("sweep", list(view.disagreement))}
    draw_convergence(figure.add_subplot(grid[1, 2]), xr.Dataset(history, {"sweep": list(view.sweep)}))
    return figure


def _draw_image(
    axes: Axes, image: ImagePicture, values: Any, limits: tuple[float, float], cmap: str, title: str
) -> Any:
    """Draw one part of the image, and return its colour bar."""
    left, right, top, bottom = image.extent
    shown = axes.imshow(
        np.ma.masked_invalid(values),
        extent=(left, right, bottom, top),
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        interpolation_stage="rgba",
    )
    shown.set_cmap(shown.get_cmap().with_extremes(bad=RIM_COLOUR))
    axes.set_title(f"{title} after sweep {image.sweep}", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    figure = axes.get_figure()
    assert figure is not None
    return figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02)
