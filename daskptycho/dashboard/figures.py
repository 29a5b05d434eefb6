"""The figures of the live page: how each is made, and how new values are put into it.

`page` calls this module; it knows Bokeh and the views.
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

from daskptycho.dashboard.view import Image, Probe, Scale, Tiles, View
from daskptycho.dashboard.wording import home_colours
from daskptycho.views.drawing import RIM_COLOUR

__all__ = [
    "amplitude_and_phase",
    "curve_figure",
    "draw_curve",
    "draw_image",
    "draw_probe",
    "draw_tiles",
    "probe_figure",
    "tiles_figure",
]

# Smallest value on a logarithmic axis: what rounding leaves may be below zero.
LEAST = 1e-9
# Parts of pi are written as such.
RADIANS = """
const part = tick / Math.PI
const names = {"-1": "-π", "-0.5": "-π/2", "0": "0", "0.5": "π/2", "1": "π"}
return names[part.toFixed(3).replace(/\\.?0+$/, "")] ?? tick.toFixed(2)
"""
SHORT = "return tick >= 0.001 && tick < 1000 ? String(+tick.toPrecision(3)) : tick.toExponential(0)"


def _palette(name: str) -> list[str]:
    return [to_hex(colour) for colour in mpl.colormaps[name](np.linspace(0, 1, 256))]


def _dressed(shown: Any) -> Any:
    """Quiet lines, no logo, and no box around the figure."""
    shown.toolbar.logo = None
    shown.outline_line_color = None
    shown.title.text_font_size = "13px"
    shown.title.text_color = "#1b2733"
    shown.background_fill_color = shown.border_fill_color = "white"
    shown.axis.axis_label_text_font_style = "normal"
    shown.axis.axis_line_color = shown.axis.major_tick_line_color = "#9aa5b1"
    shown.axis.minor_tick_line_color = None
    shown.axis.major_label_text_color = shown.axis.axis_label_text_color = "#55616e"
    shown.grid.grid_line_color = "#eef1f5"
    return shown


def amplitude_and_phase(source: ColumnDataSource) -> tuple[Any, Any]:
    """Two figures of one image that are moved and zoomed together."""
    # A figure without any data would complain of having no range.
    nothing = [np.full((1, 1), np.nan, np.float32)]
    source.data = {"amplitude": nothing, "phase": nothing, "x": [0], "y": [0], "dw": [1], "dh": [1]}
    amplitude = _image_figure("Amplitude", source, "gray")
    phase = _image_figure("Phase (rad)", source, "twilight", amplitude)
    bar = phase.right[0]
    bar.ticker = BasicTicker(desired_num_ticks=5)
    bar.formatter = CustomJSTickFormatter(code=RADIANS)
    return amplitude, phase


def _image_figure(title: str, source: ColumnDataSource, cmap: str, other: Any = None) -> Any:
    name = title.split()[0].lower()
    shown = figure(
        title=title,
        match_aspect=True,
        sizing_mode="stretch_both",
        # Rows count downwards, as in the detector and in every other picture of this package.
        x_range=DataRange1d(range_padding=0) if other is None else other.x_range,
        y_range=DataRange1d(range_padding=0, flipped=True) if other is None else other.y_range,
        tools="pan,box_zoom,reset,save",
        toolbar_location="above",
    )
    mapper = LinearColorMapper(palette=_palette(cmap), low=0, high=1, nan_color=RIM_COLOUR)
    shown.image(image=name, x="x", y="y", dw="dw", dh="dh", source=source, color_mapper=mapper)
    shown.add_layout(
        ColorBar(color_mapper=mapper, width=10, padding=4, major_label_text_color="#55616e"), "right"
    )
    wheel = WheelZoomTool(zoom_on_axis=False)
    hover = HoverTool(
        tooltips=[("x, y", "$x{0.[00]}, $y{0.[00]}"), ("amplitude", "@amplitude"), ("phase", "@phase rad")]
    )
    shown.add_tools(wheel, hover)
    shown.toolbar.active_scroll = wheel
    # The hover's box would follow a finger about.
    shown.toolbar.active_inspect = hover
    shown.grid.visible = False
    dressed = _dressed(shown)
    shown.axis.visible = shown.right[0].visible = False
    shown.background_fill_color = "#f4f6f9"
    return dressed


def draw_image(source: ColumnDataSource, amplitude: Any, phase: Any, image: Image, scale: Scale) -> None:
    """Put an image into the two figures."""
    left, right, top, bottom = image.extent
    for shown, (low, high) in (
        (amplitude, image.amplitude_limits),
        (phase, (-image.phase_limit, image.phase_limit)),
    ):
        # A scale that changes by a hair at each sweep makes the picture flicker.
        mapper = shown.right[0].color_mapper
        if abs(mapper.low - low) + abs(mapper.high - high) > 0.02 * (high - low):
            mapper.update(low=low, high=high)
        shown.axis.visible = shown.right[0].visible = True
        shown.xaxis.axis_label, shown.yaxis.axis_label = f"x ({scale.unit})", f"y ({scale.unit})"
    if math.isclose(image.phase_limit, math.pi):
        phase.right[0].ticker.update(desired_num_ticks=5, mantissas=[math.pi / 2, math.pi])
    else:
        phase.right[0].ticker.update(desired_num_ticks=6, mantissas=[1, 2, 5])
    amplitude.title.text = "Amplitude" + _after(image)
    phase.title.text = "Phase (rad)" + _after(image)
    source.data = {
        "amplitude": [image.amplitude],
        "phase": [image.phase],
        "x": [left],
        "y": [top],
        "dw": [right - left],
        "dh": [bottom - top],
    }


def _after(image: Image) -> str:
    small = "" if image.step == 1 else f", 1 pixel of {image.step}"
    return f" after sweep {image.sweep}{small}"


def probe_figure(source: ColumnDataSource) -> Any:
    """The probe's modes side by side, no axes."""
    source.data = {
        "image": [np.zeros((1, 1), np.uint32)],
        **{"x": [0], "y": [0], "middle": [0], "above": [0]},
        **{"dw": [1], "dh": [1], "text": [""]},
    }
    shown = figure(
        title="Probe",
        match_aspect=True,
        sizing_mode="stretch_both",
        x_range=DataRange1d(range_padding=0.02),
        y_range=DataRange1d(range_padding=0.02),
        tools="",
        toolbar_location=None,
    )
    shown.image_rgba(image="image", x="x", y="y", dw="dw", dh="dh", source=source)
    shown.text(
        *("middle", "above", "text"),
        source=source,
        text_align="center",
        text_baseline="bottom",
        text_font_size="12px",
        text_color="#55616e",
    )
    dressed = _dressed(shown)
    shown.axis.visible = shown.grid.visible = False
    return dressed


def draw_probe(source: ColumnDataSource, shown: Any, probe: Probe) -> None:
    """Put the probe's modes into their figure, two rows of them where there are many."""
    number, height, width = probe.modes.shape[:3]
    columns = number if number <= 3 else -(-number // 2)
    space = 1.25
    places = [(index % columns, index // columns) for index in range(number)]
    source.data = {
        "image": [_rgba(mode) for mode in probe.modes],
        "x": [space * column * width for column, _ in places],
        "y": [-space * row * height for _, row in places],
        "dw": [width] * number,
        "dh": [height] * number,
        "text": [f"{100 * share:.3g} %" if number > 1 else "" for share in probe.shares],
        "middle": [(space * column + 0.5) * width for column, _ in places],
        "above": [(1.02 - space * row) * height for _, row in places],
    }
    shown.title.text = "Probe: hue is phase" if number == 1 else "Probe modes, share of power"


def _rgba(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Rows upwards, as Bokeh counts them, each pixel in one number."""
    opaque = np.full((*colours.shape[:2], 1), 255, np.uint8)
    return np.ascontiguousarray(np.concatenate([colours, opaque], axis=-1)[::-1]).view(np.uint32)[..., 0]


def curve_figure(title: str, name: str, source: ColumnDataSource, colour: str) -> Any:
    """A quantity against sweeps, logarithmic."""
    source.data = {"sweep": [], name: []}
    shown = figure(
        title=title,
        y_axis_type="log",
        sizing_mode="stretch_both",
        x_range=Range1d(0, 10),
        y_range=Range1d(0.1, 1),
        tools="",
        toolbar_location=None,
    )
    shown.line("sweep", name, source=source, color=colour, line_width=2)
    shown.scatter("sweep", name, source=source, color=colour, size=5)
    shown.add_tools(HoverTool(tooltips=[("sweep", "@sweep"), (name, f"@{name}")], mode="vline"))
    shown.yaxis.ticker = LogTicker(mantissas=[1, 2, 5], desired_num_ticks=5)
    shown.yaxis.formatter = CustomJSTickFormatter(code=SHORT)
    shown.ygrid.ticker = shown.yaxis[0].ticker
    shown.xaxis.axis_label = "sweep"
    shown.xaxis.ticker = BasicTicker(min_interval=1)
    return _dressed(shown)


def draw_curve(source: ColumnDataSource, shown: Any, name: str, view: View) -> None:
    """Put a quantity of the history into its figure, as far as it is known and has a place on the axis."""
    sweep, values = np.array(view.sweep), np.array(getattr(view, name), dtype=float)
    known = np.isfinite(values)
    sweep, values = sweep[known], np.maximum(values[known], LEAST)
    source.data = {"sweep": sweep, name: values}
    if len(sweep):
        low, high = values.min(), values.max()
        # At least a decade, or noise looks like a trend.
        margin = max(1.3, math.sqrt(10 * low / high))
        shown.y_range.update(start=low / margin, end=high * margin)
        shown.x_range.update(start=view.sweep[0] - 1, end=max(view.sweep[-1], view.sweep[0] + 4) + 0.5)


def tiles_figure(source: ColumnDataSource) -> Any:
    """The tiles on the canvas, in the colour of the worker that has them."""
    source.data = {
        **{"left": [0], "right": [1], "top": [0], "bottom": [1]},
        **{"colour": ["white"], "frames": [0], "home": [""], "tile": [0]},
    }
    shown = figure(
        title="Tiles",
        match_aspect=True,
        sizing_mode="stretch_both",
        x_range=DataRange1d(range_padding=0.02),
        y_range=DataRange1d(range_padding=0.02, flipped=True),
        tools="",
        toolbar_location=None,
    )
    shown.quad(
        *("left", "right", "top", "bottom"),
        source=source,
        fill_color="colour",
        fill_alpha=0.55,
        line_color="white",
        line_width=1,
    )
    shown.add_tools(
        HoverTool(tooltips=[("tile", "@tile"), ("frames", "@frames"), ("where", "@home")], line_policy="none")
    )
    dressed = _dressed(shown)
    shown.grid.visible = shown.axis.visible = False
    return dressed


def draw_tiles(source: ColumnDataSource, shown: Any, tiles: Tiles) -> None:
    """Put the tiles into their figure."""
    colours = home_colours(tiles.homes)
    left, right, top, bottom = tiles.extent.T
    source.data = {
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "colour": [colours[home] for home in tiles.homes],
        "frames": tiles.frames,
        "home": [home or "this process" for home in tiles.homes],
        "tile": np.arange(len(tiles.homes)),
    }
    number = len(tiles.homes)
    shown.title.text = f"{number:,} tile{'' if number == 1 else 's'}, coloured by where they run"
