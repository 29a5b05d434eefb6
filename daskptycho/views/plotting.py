"""Figures of a scan, of a result, of two images compared, and of the difference that sync makes.

The command line, the dashboard and users call this module. Every function makes a matplotlib Figure of its
own and does not touch pyplot, so that it works in notebooks, in scripts and without a display.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from daskptycho.analysis.metrics import Comparison, common_region
from daskptycho.scan.dataset import frame_numbers, pixel_size, position_in_pixels, tile_chunks
from daskptycho.storage.old_names import rename_old_variables
from daskptycho.views.drawing import (
    MOST_PIXELS,
    NORMAL,
    Picture,
    add_colour_bar,
    add_scale,
    check_colour_map,
    complex_to_rgb,
    make_picture,
    phase_limits,
    resize_figure,
    robust_limits,
    show_phase,
    show_values,
)
from daskptycho.views.found import draw_found, list_drawable
from daskptycho.views.panels import (
    FIRST,
    SECOND,
    draw_convergence,
    draw_frc,
    draw_probe,
    style_axes,
    sweep_series,
)
from daskptycho.views.quantities import length_unit
from daskptycho.views.regions import crop_flattened
from daskptycho.views.run_options import read_options

__all__ = [
    "complex_to_rgb",
    "does_remove_ramp",
    "make_result_picture",
    "plot_comparison",
    "plot_result",
    "plot_scan",
    "plot_sync_difference",
]

# What `plot_result` can draw alone.
Part = Literal["object", "amplitude", "phase", "probe"]
# Font size of a headline, in points.
LARGE = 15
# Algorithms as they are written in a headline.
ALGORITHMS = {"lbfgs": "L-BFGS", "ap": "AP", "raar": "RAAR", "dm": "difference map"}


def plot_result(
    result: xr.Dataset,
    *,
    remove_ramp: bool | None = None,
    region: tuple[slice, slice] | None = None,
    only: Part | None = None,
    colour_map: str | None = None,
    limits: tuple[float, float] | None = None,
    width: float | None = None,
) -> Figure:
    """Draw a result: amplitude, phase, probe modes, residual and disagreement, and what was refined.

    Parameters
    ----------
    result : Dataset
        Result as `reconstruct` returns it.
    remove_ramp : bool, optional
        Whether to subtract the mean slope of the phase. If it is not given, the slope is subtracted if the
        probe was recovered: the probe may then hold any part of a phase ramp, so the ramp of the object is
        not known.
    region : (slice, slice), optional
        Rows and columns of the object to draw; by default, its illuminated part.
    only : "object", "amplitude", "phase" or "probe", optional
        Draw this part alone, where "object" is amplitude and phase.
    colour_map : str, optional
        Name of a colour map of matplotlib for the phase, or for the amplitude if that is drawn alone. By
        default the map of the phase is cyclic only if its range is the full circle.
    limits : (float, float), optional
        Values at both ends of that colour map, for the phase in radians.
    width : float, optional
        Width of the figure in inches; its height, texts and lines follow.

    Returns
    -------
    matplotlib.figure.Figure
        Figure that is not registered with pyplot; ``figure.savefig`` writes it to a file.

    Raises
    ------
    OptionError
        The region holds no pixel of the object, or matplotlib has no such colour map.
    """
    check_colour_map(colour_map)
    result = rename_old_variables(result)
    picture = make_result_picture(result, remove_ramp=remove_ramp, region=region)
    aspect = float(np.clip(picture.height / picture.width, 0.3, 1.5))
    # A second row of probe modes needs some extra space.
    above, below = 5.5 * aspect + 0.5, 3.0 if len(result["probe"]) <= 3 else 3.8
    probe, size = result["probe"].values, result.attrs.get("pixel_size_m")
    if only == "probe":
        figure = _new_figure(6.5, below)
        draw_probe(figure, probe, size)
        return figure if width is None else resize_figure(figure, width)
    parts = ("amplitude", "phase") if only in (None, "object") else (str(only),)
    if only is not None:
        figure = _new_figure(6.5 * len(parts), above)
        panels = figure.subplots(1, len(parts), squeeze=False)[0]
    else:
        figure = _new_figure(13, above + below + 0.5)
        figure.suptitle(_headline(result, read_options(result)), fontsize=LARGE)
        top, bottom = figure.subfigures(2, 1, height_ratios=[above, below], squeeze=False)[:, 0]
        panels = top.subplots(1, 2)
        found = list_drawable(result)
        widths = [1.15 if len(probe) > 1 else 0.7, *[0.8] * len(found), 1.0]
        modes, *between, curve = bottom.subfigures(1, len(widths), width_ratios=widths)
        draw_probe(modes, probe, size)
        for panel, name in zip(between, found, strict=True):
            draw_found(panel, result, name)
        draw_convergence(curve.subplots(), result)
    for number, (axes, part) in enumerate(zip(panels, parts, strict=True)):
        own_map, own_limits = (colour_map, limits) if part == parts[-1] else (None, None)
        if part == "amplitude":
            amplitude = np.abs(picture.values)
            own_limits = own_limits or robust_limits(np.abs(picture.bright))
            shown, label = show_values(axes, picture, amplitude, own_limits, own_map or "gray"), part
        else:
            shown = show_phase(axes, picture, own_limits or phase_limits(picture), own_map)
            label = "phase (rad)"
            if does_remove_ramp(result, remove_ramp):
                label += ", mean slope subtracted"
        axes.set_title(part, fontsize=NORMAL + 1)
        add_colour_bar(axes, shown, label)
        add_scale(axes, picture, bar=number == 0, vertical=number == 0)
    return figure if width is None else resize_figure(figure, width)


def does_remove_ramp(result: xr.Dataset, remove_ramp: bool | None) -> bool:
    """Whether the mean slope of the phase is subtracted: as asked, or if the probe was recovered."""
    return bool(read_options(result).get("update_probe", False)) if remove_ramp is None else remove_ramp


def make_result_picture(
    result: xr.Dataset,
    *,
    remove_ramp: bool | None = None,
    region: tuple[slice, slice] | None = None,
    most: int = MOST_PIXELS,
) -> Picture:
    """Prepare the object of a result for drawing: crop it to its illuminated part, subtract its mean phase.

    Parameters
    ----------
    result : Dataset
    remove_ramp, region : optional
        As for `plot_result`. Mean phase and slope are those of the whole object, also for a region.
    most : int
        Largest number of pixels per side; a larger image is averaged over blocks of pixels.

    Raises
    ------
    OptionError
        The region holds no pixel of the object.
    """
    remove_ramp = does_remove_ramp(result, remove_ramp)
    image, light = result["object"], result.get("illumination")
    if region is None:
        return make_picture(image, light, remove_ramp=remove_ramp, most=most)
    return crop_flattened(image, light, region, remove_ramp=remove_ramp, most=most)


def plot_scan(scan: xr.Dataset, mean: NDArray | None = None) -> Figure:
    """Draw a scan: its mean frame, and its scan positions coloured by frame number.

    Parameters
    ----------
    scan : Dataset
        Scan as `open_scan` returns it.
    mean : (qy, qx) array, optional
        Mean of the frames; if it is not given, the mean of the frames of the first tile.
    """
    title = "mean frame"
    if mean is None:
        first = scan["intensity"].isel(frame=slice(0, tile_chunks(scan)[0]))
        mean = first.mean("frame", dtype=np.float64).values
        title = f"mean of {len(first)} of {scan.sizes['frame']} frames"
    position, unit = position_in_pixels(scan), "pixel"
    size = pixel_size(scan)
    if size is not None:
        length, unit = length_unit(float(np.max(np.ptp(position, axis=0) * size)) or min(size))
        position = position * (np.array(size) / length)
    figure = _new_figure(11, 5)
    detector, plane = figure.subplots(1, 2)
    counts = np.ma.masked_less_equal(mean, 0)
    shown = detector.imshow(counts, cmap="magma", norm=LogNorm() if counts.count() else None)
    shown.set_cmap(shown.get_cmap().with_extremes(bad="black"))
    add_colour_bar(detector, shown, "counts")
    detector.set_title(title, fontsize=NORMAL + 1)
    detector.set_xlabel("qx (pixel)", fontsize=NORMAL)
    detector.set_ylabel("qy (pixel)", fontsize=NORMAL)
    dots = plane.scatter(position[:, 1], position[:, 0], c=frame_numbers(scan), s=6, cmap="viridis")
    add_colour_bar(plane, dots, "frame number")
    plane.set_title(f"{len(position)} scan positions", fontsize=NORMAL + 1)
    plane.set_xlabel(f"x ({unit})", fontsize=NORMAL)
    plane.set_ylabel(f"y ({unit})", fontsize=NORMAL)
    plane.set_aspect("equal")
    plane.invert_yaxis()
    style_axes(plane)
    return figure


def plot_comparison(
    comparison: Comparison, reference: xr.DataArray, *, names: tuple[str, str] = ("image", "reference")
) -> Figure:
    """Draw a comparison: both images, their difference and the Fourier ring correlation.

    Parameters
    ----------
    comparison : Comparison
        Comparison as `compare_images` returns it. The image is drawn after registration.
    reference : DataArray (y, x)
        Image that it was compared with, with coordinates ``y`` and ``x``.
    names : (str, str)
        Names of the image and of the reference in the titles.

    Returns
    -------
    matplotlib.figure.Figure
        Figure that is not registered with pyplot; ``figure.savefig`` writes it to a file.
    """
    registration = comparison.registration
    image = reference.copy(data=registration.image)
    # One phase factor for both images; otherwise a difference of their mean phases would be hidden.
    factor = _mean_phase_factor(reference, registration.weight)
    pictures = [
        make_picture(values * factor, registration.weight, remove_mean=False) for values in (image, reference)
    ]
    aspect = float(np.clip(pictures[0].height / pictures[0].width, 0.3, 1.4))
    figure = _new_figure(14, 7.9 * aspect + 1.8)
    shift, ramp = registration.shift, registration.ramp
    figure.suptitle(
        f"{names[0]} against {names[1]}: relative error {comparison.error:.3g}\n"
        f"removed: shift ({shift[0]:z.2f}, {shift[1]:z.2f}) pixels, "
        f"ramp ({ramp[0]:z.4f}, {ramp[1]:z.4f}) rad/pixel, scale {abs(registration.scale):.3g}",
        fontsize=NORMAL + 2,
    )
    axes = figure.subplots(2, 3)
    limits = robust_limits(np.abs(np.concatenate([picture.bright for picture in pictures])))
    phases = phase_limits(*pictures)
    for column, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        amplitude, phase = axes[0, column], axes[1, column]
        shown = show_values(amplitude, picture, np.abs(picture.values), limits, "gray")
        amplitude.set_title(f"{name}, amplitude", fontsize=NORMAL + 1)
        add_scale(amplitude, picture, bar=column == 0, vertical=column == 0)
        shown_phase = show_phase(phase, picture, phases)
        phase.set_title(f"{name}, phase", fontsize=NORMAL + 1)
        add_scale(phase, picture, bar=False, vertical=column == 0)
        if column == 1:
            add_colour_bar(amplitude, shown, "amplitude")
            add_colour_bar(phase, shown_phase, "phase (rad)")
    size = float(np.sqrt(np.mean(np.abs(pictures[1].bright) ** 2))) if pictures[1].bright.size else 1.0
    difference = np.abs(pictures[0].values - pictures[1].values) / size
    high = robust_limits(difference[~pictures[0].rim])[1]
    shown = show_values(axes[0, 2], pictures[0], difference, (0.0, high), "magma")
    axes[0, 2].set_title("difference", fontsize=NORMAL + 1)
    add_colour_bar(axes[0, 2], shown, "relative to the rms of the reference")
    add_scale(axes[0, 2], pictures[0], bar=False, vertical=False)
    draw_frc(axes[1, 2], comparison.frc, reference)
    axes[1, 2].set_box_aspect(pictures[0].height / pictures[0].width)
    return figure


def plot_sync_difference(
    without_sync: xr.Dataset,
    with_sync: xr.Dataset,
    truth: xr.DataArray,
    error_without: ArrayLike,
    error_with: ArrayLike,
) -> Figure:
    """Draw what sync changes: the phase without it, with it and of the truth, and both errors by sweep.

    Parameters
    ----------
    without_sync, with_sync : Dataset
        Two results of the same scan.
    truth : DataArray (y, x)
        Object that the scan was simulated from, with coordinates.
    error_without, error_with : (sweep,) arrays
        Relative error of the image after each sweep.
    """
    names = ("without sync", "with sync")
    errors = [np.asarray(error, dtype=float) for error in (error_without, error_with)]
    pictures = []
    for result in (without_sync, with_sync):
        image, target = common_region(result["object"], truth)
        light, _ = common_region(result["illumination"], truth)
        factor = _mean_phase_factor(target, light.values)
        aligned = image * factor * np.exp(1j * np.angle(np.vdot(light.values * image.values, target.values)))
        pictures.append(make_picture(aligned, light, remove_mean=False))
    pictures.append(make_picture(target * factor, light, remove_mean=False))
    aspect = float(np.clip(pictures[0].height / pictures[0].width, 0.3, 1.4))
    figure = _new_figure(14, 4.1 * aspect + 4.6)
    frames = with_sync.sizes.get("frame")
    figure.suptitle(
        "The same frames, the same number of sweeps" if frames is None else f"The same {frames} frames",
        fontsize=LARGE,
    )
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.1 * aspect + 0.7, 3.3], squeeze=False)[:, 0]
    phases = phase_limits(*pictures)
    panels = top.subplots(1, 3)
    for number, (axes, picture) in enumerate(zip(panels, pictures, strict=True)):
        shown = show_phase(axes, picture, phases)
        add_scale(axes, picture, bar=number == 0, vertical=number == 0)
        if number < 2 and errors[number].size:
            sweeps = errors[number].size
            title = f"{names[number]}: error {errors[number][-1]:.2g} after {sweeps} sweeps"
            axes.set_title(title, fontsize=NORMAL + 1, color=(FIRST, SECOND)[number])
        else:
            axes.set_title("truth", fontsize=NORMAL + 1)
    add_colour_bar(panels[-1], shown, "phase (rad)")
    axes = bottom.subplots()
    for error, name, colour in zip(errors, names, (FIRST, SECOND), strict=True):
        axes.semilogy(np.arange(1, error.size + 1), error, color=colour, linewidth=2.2, label=name)
    axes.set_xlim(1, max(2, *(error.size for error in errors)))
    axes.set_xlabel("sweep", fontsize=NORMAL)
    axes.set_ylabel("relative error", fontsize=NORMAL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.legend(fontsize=NORMAL, frameon=False)
    style_axes(axes)
    return figure


def _new_figure(width: float, height: float) -> Figure:
    """Make a figure of this size in inches, independent of pyplot."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def _mean_phase_factor(image: xr.DataArray, weight: NDArray) -> complex:
    """Factor that removes the mean phase of an image, weighted by the illumination."""
    return complex(np.exp(-1j * np.angle(np.sum(weight * image.values))))


def _headline(result: xr.Dataset, options: Mapping[str, Any]) -> str:
    """The run in one line: frames, algorithm, sweeps and the last residual."""
    words = [f"{result.sizes['frame']} frames"] if "frame" in result.sizes else []
    if "algorithm" in options:
        name = str(options["algorithm"])
        extras = ["momentum"] if options.get("momentum") else []
        extras += ["sync"] if np.isfinite(sweep_series(result, "disagreement")).any() else []
        words.append(" with ".join([ALGORITHMS.get(name, name), *([" and ".join(extras)] if extras else [])]))
    residual = sweep_series(result, "residual")
    if residual.size:
        words += [f"{residual.size} sweep{'s' * (residual.size > 1)}", f"$R^2$ = {residual[-1]:.3g}"]
    return "   ·   ".join(words)
