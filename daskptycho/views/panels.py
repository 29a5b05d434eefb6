"""Panels beside the images: probe modes, convergence and Fourier ring correlation.

`plotting` and the dashboard call this module; it builds on `drawing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter
from numpy.typing import NDArray

from daskptycho.analysis.metrics import FRC
from daskptycho.views.drawing import NORMAL, SMALL, add_scale_bar, complex_to_rgb
from daskptycho.views.quantities import length_unit

__all__ = ["FIRST", "SECOND", "draw_convergence", "draw_frc", "draw_probe", "style_axes", "sweep_series"]

# Colours of a first curve, of a second curve, and of lines and labels in the background.
FIRST, SECOND, GREY = "#1f4e79", "#c8553d", "#6b7280"
MOST_MODES, MOST_COLUMNS = 6, 3


def sweep_series(result: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Values of a quantity sweep by sweep; empty if the result does not have it."""
    return np.asarray(result[name].values, dtype=float) if name in result else np.zeros(0)


def draw_probe(figure: FigureBase, probe: NDArray, pixel_size_m: Sequence[float] | None = None) -> None:
    """Draw each mode as a colour image with its share of the power, and a wheel that explains the colours.

    Parameters
    ----------
    figure : FigureBase
    probe : (mode, y, x) complex array
    pixel_size_m : (float, float), optional
        Size of a pixel along y and x. Without it the scale bar counts pixels.
    """
    size = None if pixel_size_m is None else (float(pixel_size_m[0]), float(pixel_size_m[1]))
    height, width = probe.shape[1:]
    power = np.sum(np.abs(probe) ** 2, axis=(-2, -1))
    shares = power / power.sum() if power.sum() > 0 else power
    shown = min(len(probe), MOST_MODES)
    columns = shown if shown <= MOST_COLUMNS else -(-shown // 2)
    # Empty space beside a few modes; otherwise they would dwarf the curve beside them.
    space = MOST_COLUMNS - columns if shown > 1 else 0.5
    widths = [1.0] * columns + [0.5] + [space] * (space > 0)
    grid = figure.add_gridspec(-(-shown // columns), len(widths), width_ratios=widths)
    for mode in range(shown):
        axes = figure.add_subplot(grid[divmod(mode, columns)])
        # A pixel is one unit wide, and as high as it is in metres.
        axes.imshow(complex_to_rgb(probe[mode]), aspect=1.0 if size is None else size[0] / size[1])
        if mode == shown - 1 - (shown - 1) % columns:  # the first one of the last row
            add_scale_bar(axes, width, height, 0.0 if size is None else 1 / size[1], below=True)
        # Short enough for the narrow panels of six modes.
        name = "probe" if len(probe) == 1 else f"{mode + 1}: {100 * shares[mode]:.1f} %"
        axes.set_title(name, fontsize=NORMAL)
        axes.set_axis_off()
    wheel = figure.add_subplot(grid[:, columns])
    _draw_wheel(wheel)
    if len(probe) > 1:
        count = f"{shown} of {len(probe)}" if shown < len(probe) else f"{shown}"
        wheel.set_title(f"{count}\nmodes", fontsize=NORMAL)


def _draw_wheel(axes: Axes) -> None:
    """Draw the colours of all phases on a disc, with amplitude as radius."""
    y, x = np.mgrid[1:-1:101j, -1:1:101j]
    radius = np.hypot(x, y)
    disc = complex_to_rgb(np.where(radius <= 1, x + 1j * y, 0), vmax=1.0)
    axes.imshow(np.dstack([disc, radius <= 1]), extent=(-1, 1, -1, 1))
    labels = (("0", 0, "left", "center"), ("π/2", 1, "center", "bottom"), ("π", 2, "right", "center"))
    for label, quarter, side, edge in (*labels, (r"$-$π/2", 3, "center", "top")):
        point = 1.15 * np.exp(0.5j * np.pi * quarter)
        axes.text(point.real, point.imag, label, fontsize=SMALL, ha=side, va=edge, color=GREY)
    axes.set(xlim=(-1.9, 1.9), ylim=(-1.7, 1.7))
    axes.set_axis_off()


def draw_convergence(axes: Axes, result: xr.Dataset) -> None:
    """Draw the residual against the sweeps and, if frames were synchronised, their disagreement."""
    residual, disagreement = sweep_series(result, "residual"), sweep_series(result, "disagreement")
    sweep = result["sweep"].values if "sweep" in result.coords else np.arange(1, residual.size + 1)
    style = "-" if residual.size > 10 else "-o"
    axes.plot(sweep, residual, style, color=FIRST, linewidth=2.2, markersize=4, label="residual")
    axes.set_xlabel("sweep", fontsize=NORMAL)
    axes.set_ylabel("residual $R^2$", fontsize=NORMAL, color=FIRST)
    _set_log_scale(axes, residual)
    axes.set_xscale("log")
    first = sweep[0] if residual.size else 1
    axes.set_xlim(first, max(first + 1, first + residual.size - 1))
    _set_few_ticks(axes.xaxis)
    style_axes(axes)
    ran = np.isfinite(disagreement) & (disagreement > 0)
    if not ran.any():
        return
    other = axes.twinx()
    style = "-o" if ran.all() else "o"
    other.plot(
        sweep[ran], disagreement[ran], style, color=SECOND, markersize=4, linewidth=1.2, label="disagreement"
    )
    other.set_ylabel(r"disagreement $1-\lambda$", fontsize=NORMAL, color=SECOND)
    _set_log_scale(other, disagreement[ran])
    style_axes(other)
    other.grid(visible=False)
    other.spines["right"].set_visible(True)


def _set_log_scale(axes: Axes, values: NDArray) -> None:
    """Make the y axis logarithmic over at least one decade, if any value can be shown on it."""
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    axes.set_yscale("log")
    low, high = float(values.min()), float(values.max())
    if high < 10 * low:
        middle = np.sqrt(low * high)
        axes.set_ylim(middle / 3.5, middle * 3.5)
    if high < 100 * low:
        _set_few_ticks(axes.yaxis)


def _set_few_ticks(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade only, as plain numbers if these are short."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if axis.get_view_interval()[0] >= 1e-3:
        axis.set_major_formatter("{x:g}")
    else:
        axis.set_major_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    axis.set_minor_formatter(NullFormatter())


def draw_frc(axes: Axes, frc: FRC, reference: xr.DataArray) -> None:
    """Draw the correlation, the half-bit threshold and the frequency at which they cross."""
    step = abs(float(reference["y"][1] - reference["y"][0])) if reference.sizes["y"] > 1 else 1.0
    # The images may have been compared in pixels although the coordinates are in metres.
    metres = reference["y"].attrs.get("units") == "m" and 0.4 < frc.frequency[-1] * step < 0.6
    size, name = length_unit(1 / frc.frequency[-1]) if metres else (1.0, "pixel")
    axes.plot(frc.frequency * size, frc.correlation, color=FIRST, linewidth=2.0, label="correlation")
    axes.plot(
        frc.frequency * size, frc.threshold, "--", color=GREY, linewidth=1.3, label="half-bit threshold"
    )
    if frc.crossing is not None and frc.resolution is not None:
        axes.axvline(frc.crossing * size, color=SECOND, linewidth=1.5)
        number, unit = (frc.resolution, "pixels")
        if metres:
            fit, unit = length_unit(frc.resolution)
            number = frc.resolution / fit
        axes.plot([], [], color=SECOND, linewidth=1.5, label=f"crossing: {number:.3g} {unit}")
    axes.set_title("Fourier ring correlation", fontsize=NORMAL + 1)
    axes.set_xlabel(f"spatial frequency (1/{name})", fontsize=NORMAL)
    axes.set(xlim=(0, frc.frequency[-1] * size), ylim=(min(-0.05, float(frc.correlation.min())), 1.05))
    axes.legend(fontsize=SMALL, frameon=False, loc="best")
    style_axes(axes)


def style_axes(axes: Axes) -> None:
    """Draw light grid lines behind the curves and no box around them."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
