"""The Bokeh figures of the live page: functions that make them, and functions that put new data into them.

`page` calls this module.
"""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJSTickFormatter,
    DataRange1d,
    HoverTool,
    LinearColorMapper,
    LogTicker,
    Range1d,
    WheelZoomTool,
)
from bokeh.plotting import figure
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from daskptycho.dashboard.html_parts import assign_colours
from daskptycho.dashboard.view import ImagePicture, ProbePicture, Scale, TileMap, View
from daskptycho.views.drawing import RIM_COLOUR

__all__ = [
    "draw_curve",
    "draw_detail",
    "draw_image",
    "draw_probe",
    "draw_tiles",
    "make_curve_figure",
    "make_image_figures",
    "make_probe_figure",
    "make_tile_figure",
    "remove_detail",
]

# Colour of tiles that are measured and not in the image, and of the edge of those to come.
MEASURED = "#c3ccd6"
# Smallest value on a logarithmic axis, since rounding may leave values below zero.
LEAST = 1e-9
# Labels of phases: simple fractions of pi are written as such.
RADIANS = """
const part = tick / Math.PI
const names = {"-1": "-π", "-0.5": "-π/2", "0": "0", "0.5": "π/2", "1": "π"}
return names[part.toFixed(3).replace(/\\.?0+$/, "")] ?? tick.toFixed(2)
"""
# Labels of a logarithmic axis.
SHORT = (
    "return tick >= 0.001 && tick < 1000 ? String(+tick.toPrecision(3)) : "
    "tick.toExponential(1).replace('.0', '')"
)


def _palette(name: str) -> list[str]:
    return [to_hex(colour) for colour in mpl.colormaps[name](np.linspace(0, 1, 256))]


def _set_style(plot: Any) -> None:
    """Give a figure faint lines, and take away the logo and the box around it."""
    plot.toolbar.logo = None
    plot.outline_line_color = None
    plot.title.text_font_size = "13px"
    plot.title.text_color = "#1b2733"
    plot.background_fill_color = plot.border_fill_color = "white"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = "#9aa5b1"
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_color = plot.axis.axis_label_text_color = "#55616e"
    plot.grid.grid_line_color = "#eef1f5"


def make_image_figures(source: ColumnDataSource, detail: ColumnDataSource) -> tuple[Any, Any]:
    """Make the figures of amplitude and phase, which are moved and zoomed together.

    `source` holds the whole image, `detail` the part that is looked at, which is drawn on top of it.
    """
    # Bokeh warns of a figure without data.
    nothing = [np.full((1, 1), np.nan, np.float32)]
    source.data = {"amplitude": nothing, "phase": nothing, "x": [0], "y": [0], "dw": [1], "dh": [1]}
    detail.data = dict(source.data)
    amplitude = _make_image_figure("Amplitude", source, detail, "gray")
    phase = _make_image_figure("Phase (rad)", source, detail, "twilight", amplitude)
    bar = phase.right[0]
    bar.ticker = BasicTicker(desired_num_ticks=5)
    bar.formatter = CustomJSTickFormatter(code=RADIANS)
    return amplitude, phase


def _make_image_figure(
    title: str, source: ColumnDataSource, detail: ColumnDataSource, cmap: str, other: Any = None
) -> Any:
    name = title.split()[0].lower()
    plot = figure(
        title=title,
        match_aspect=True,
        sizing_mode="stretch_both",
        # y increases downwards, as in every other picture of this package.
        x_range=DataRange1d(range_padding=0) if other is None else other.x_range,
        y_range=DataRange1d(range_padding=0, flipped=True) if other is None else other.y_range,
        tools="pan,box_zoom,reset,save",
        toolbar_location="above",
    )
    mapper = LinearColorMapper(palette=_palette(cmap), low=0, high=1, nan_color=RIM_COLOUR)
    whole, _ = (
        plot.image(image=name, x="x", y="y", dw="dw", dh="dh", source=own, color_mapper=mapper)
        for own in (source, detail)
    )
    if other is None:
        # The detail is part of the whole and does not change what a reset shows.
        plot.x_range.renderers = plot.y_range.renderers = [whole]
    plot.add_layout(
        ColorBar(color_mapper=mapper, width=10, padding=4, major_label_text_color="#55616e"), "right"
    )
    wheel = WheelZoomTool(zoom_on_axis=False)
    hover = HoverTool(
        renderers=[whole],
        tooltips=[("x, y", "$x{0.[00]}, $y{0.[00]}"), ("amplitude", "@amplitude"), ("phase", "@phase rad")],
    )
    plot.add_tools(wheel, hover)
    plot.toolbar.active_scroll = wheel
    # Otherwise the box with the values would follow a finger on a touch screen.
    plot.toolbar.active_inspect = hover
    plot.grid.visible = False
    _set_style(plot)
    plot.axis.visible = plot.right[0].visible = False
    plot.background_fill_color = "#f4f6f9"
    return plot


def draw_image(
    source: ColumnDataSource, amplitude: Any, phase: Any, image: ImagePicture, scale: Scale
) -> None:
    """Put an image into the figures of amplitude and phase."""
    for plot, (low, high) in (
        (amplitude, image.amplitude_limits),
        (phase, (-image.phase_limit, image.phase_limit)),
    ):
        # Colour limits that change slightly at each sweep would make the picture flicker.
        mapper = plot.right[0].color_mapper
        if abs(mapper.low - low) + abs(mapper.high - high) > 0.02 * (high - low):
            mapper.update(low=low, high=high)
        plot.axis.visible = plot.right[0].visible = True
        plot.xaxis.axis_label, plot.yaxis.axis_label = f"x ({scale.unit})", f"y ({scale.unit})"
    if math.isclose(image.phase_limit, math.pi):
        phase.right[0].ticker.update(desired_num_ticks=5, mantissas=[math.pi / 2, math.pi])
    else:
        phase.right[0].ticker.update(desired_num_ticks=6, mantissas=[1, 2, 5])
    amplitude.title.text = "Amplitude" + _title_suffix(image)
    phase.title.text = "Phase (rad)" + _title_suffix(image)
    _place_image(source, image)


def draw_detail(source: ColumnDataSource, amplitude: Any, phase: Any, detail: ImagePicture) -> None:
    """Put the part of the image that is looked at on top of the whole, with the same colours."""
    for plot in (amplitude, phase):
        plot.title.text = plot.title.text.split(" after ")[0] + _title_suffix(detail)
    _place_image(source, detail)


def remove_detail(source: ColumnDataSource) -> None:
    """Show the whole image only."""
    nothing = [np.full((1, 1), np.nan, np.float32)]
    source.data = dict(source.data) | {"amplitude": nothing, "phase": nothing}


def _place_image(source: ColumnDataSource, image: ImagePicture) -> None:
    left, right, top, bottom = image.extent
    source.data = {
        "amplitude": [image.amplitude],
        "phase": [image.phase],
        "x": [left],
        "y": [top],
        "dw": [right - left],
        "dh": [bottom - top],
    }


def _title_suffix(image: ImagePicture) -> str:
    averaged = "" if image.step == 1 else f", means of {image.step} x {image.step} pixels"
    return f" after sweep {image.sweep}{averaged}"


def make_probe_figure(source: ColumnDataSource) -> Any:
    """Make the figure of the probe modes, side by side and without axes."""
    source.data = {
        "image": [np.zeros((1, 1), np.uint32)],
        **{"x": [0], "y": [0], "middle": [0], "above": [0]},
        **{"dw": [1], "dh": [1], "text": [""]},
    }
    plot = figure(
        title="Probe",
        match_aspect=True,
        sizing_mode="stretch_both",
        x_range=DataRange1d(range_padding=0.02),
        y_range=DataRange1d(range_padding=0.02),
        tools="",
        toolbar_location=None,
    )
    plot.image_rgba(image="image", x="x", y="y", dw="dw", dh="dh", source=source)
    plot.text(
        *("middle", "above", "text"),
        source=source,
        text_align="center",
        text_baseline="bottom",
        text_font_size="12px",
        text_color="#55616e",
    )
    _set_style(plot)
    plot.axis.visible = plot.grid.visible = False
    return plot


def draw_probe(source: ColumnDataSource, plot: Any, probe: ProbePicture) -> None:
    """Put the probe modes into their figure, in two rows where there are more than three."""
    number, height, width = probe.modes.shape[:3]
    columns = number if number <= 3 else -(-number // 2)
    space = 1.25
    places = [(index % columns, index // columns) for index in range(number)]
    source.data = {
        "image": [_pack_rgba(mode) for mode in probe.modes],
        "x": [space * column * width for column, _ in places],
        "y": [-space * row * height for _, row in places],
        "dw": [width] * number,
        "dh": [height] * number,
        "text": [f"{100 * share:.3g} %" if number > 1 else "" for share in probe.shares],
        "middle": [(space * column + 0.5) * width for column, _ in places],
        "above": [(1.02 - space * row) * height for _, row in places],
    }
    plot.title.text = "Probe: hue is phase" if number == 1 else "Probe modes, share of power"


def _pack_rgba(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Convert an image to Bokeh's form: one number for each pixel, the lowest row first."""
    opaque = np.full((*colours.shape[:2], 1), 255, np.uint8)
    return np.ascontiguousarray(np.concatenate([colours, opaque], axis=-1)[::-1]).view(np.uint32)[..., 0]


def make_curve_figure(title: str, name: str, source: ColumnDataSource, colour: str) -> Any:
    """Make the figure of a quantity against sweeps, with a logarithmic axis."""
    source.data = {"sweep": [], name: []}
    plot = figure(
        title=title,
        y_axis_type="log",
        sizing_mode="stretch_both",
        x_range=Range1d(0, 10),
        y_range=Range1d(0.1, 1),
        tools="",
        toolbar_location=None,
    )
    plot.line("sweep", name, source=source, color=colour, line_width=2)
    plot.scatter("sweep", name, source=source, color=colour, size=5)
    plot.add_tools(HoverTool(tooltips=[("sweep", "@sweep"), (name, f"@{name}")], mode="vline"))
    plot.yaxis.ticker = LogTicker(mantissas=[1, 2, 5], desired_num_ticks=5)
    plot.yaxis.formatter = CustomJSTickFormatter(code=SHORT)
    plot.ygrid.ticker = plot.yaxis[0].ticker
    plot.xaxis.axis_label = "sweep"
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    _set_style(plot)
    return plot


def draw_curve(source: ColumnDataSource, plot: Any, name: str, view: View) -> None:
    """Put a quantity of the history into its figure; sweeps without a value of it are left out."""
    sweep, values = np.array(view.sweep), np.array(getattr(view, name), dtype=float)
    known = np.isfinite(values)
    sweep, values = sweep[known], np.maximum(values[known], LEAST)
    source.data = {"sweep": sweep, name: values}
    if len(sweep):
        low, high = values.min(), values.max()
        # The axis spans at least a decade, since noise would look like a trend otherwise.
        margin = max(1.3, math.sqrt(10 * low / high))
        plot.y_range.update(start=low / margin, end=high * margin)
        plot.x_range.update(start=view.sweep[0] - 1, end=max(view.sweep[-1], view.sweep[0] + 4) + 0.5)


def make_tile_figure(source: ColumnDataSource) -> Any:
    """Make the figure of the tiles on the canvas, each in the colour of its worker."""
    source.data = {
        **{"left": [0], "right": [1], "top": [0], "bottom": [1]},
        **{"colour": ["white"], "edge": ["white"], "frames": [""], "home": [""], "tile": [""]},
    }
    plot = figure(
        title="Tiles",
        match_aspect=True,
        sizing_mode="stretch_both",
        x_range=DataRange1d(range_padding=0.02),
        y_range=DataRange1d(range_padding=0.02, flipped=True),
        tools="",
        toolbar_location=None,
    )
    plot.quad(
        *("left", "right", "top", "bottom"),
        source=source,
        fill_color="colour",
        fill_alpha=0.55,
        line_color="edge",
        line_width=1,
    )
    plot.add_tools(
        HoverTool(tooltips=[("tile", "@tile"), ("frames", "@frames"), ("where", "@home")], line_policy="none")
    )
    _set_style(plot)
    plot.grid.visible = plot.axis.visible = False
    return plot


def draw_tiles(source: ColumnDataSource, plot: Any, tiles: TileMap) -> None:
    """Put the tiles into their figure, on top of those that are planned."""
    colours, number, ahead = assign_colours(tiles.homes), len(tiles.homes), len(tiles.planned)
    left, right, top, bottom = np.concatenate([tiles.planned, tiles.extent]).T
    source.data = {
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "colour": [*np.where(tiles.written, MEASURED, "white"), *(colours[home] for home in tiles.homes)],
        "edge": [*[MEASURED] * ahead, *["white"] * number],
        "frames": [*[""] * ahead, *map(str, tiles.frames)],
        "home": [
            *np.where(tiles.written, "measured, not in the image yet", "to be measured"),
            *(home or "this process" for home in tiles.homes),
        ],
        "tile": [*[""] * ahead, *map(str, range(number))],
    }
    of_plan = f"{number:,} of {ahead:,}" if ahead else f"{number:,}"
    plot.title.text = f"{of_plan} tile{'' if max(number, ahead) == 1 else 's'}, coloured by where they run"
