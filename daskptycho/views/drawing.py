"""Parts of a picture: a cropped image with a grey rim, colour limits, colour bars and scale bars.

`plotting`, `panels` and the dashboard call this module. It uses matplotlib's objects and none of its global
state, so that it draws the same with and without a display.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError
from daskptycho.views.quantities import length_unit

__all__ = [
    "CYCLIC",
    "MOST_PIXELS",
    "NORMAL",
    "PHASE_TICKS",
    "RIM_COLOUR",
    "SMALL",
    "UNCYCLIC",
    "Picture",
    "add_colour_bar",
    "add_scale",
    "add_scale_bar",
    "check_colour_map",
    "complex_to_rgb",
    "flatten_phase",
    "is_full_circle",
    "make_picture",
    "phase_limit",
    "phase_limits",
    "resize_figure",
    "robust_limits",
    "show_phase",
    "show_values",
]

# A pixel below this fraction of the typical illumination belongs to the rim, which is mostly noise.
RIM = 0.1
RIM_COLOUR = "#d3d8e0"
# As many pixels per side as a slide can show.
MOST_PIXELS = 1500
# Font sizes in points.
SMALL, NORMAL = 9, 11
# Colour maps of a phase that goes full circle, and of one that does not.
CYCLIC, UNCYCLIC = "twilight", "viridis"
# Labels of the ticks of a full turn.
PHASE_TICKS = (r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$")


@dataclass(frozen=True)
class Picture:
    """A complex image ready to be drawn.

    Attributes
    ----------
    values : (y, x) complex array
        The illuminated box, averaged over blocks of pixels if it is too large to be shown.
    rim : (y, x) bool array
        True where the illumination was too weak.
    extent : (left, right, bottom, top)
        Outer edges of the box in `unit`.
    unit : str
        Unit of the coordinates: "m", "pixel" or another one.
    box : (slice, slice)
        Rows and columns of the original image.
    """

    values: NDArray
    rim: NDArray[np.bool_]
    extent: tuple[float, float, float, float]
    unit: str
    box: tuple[slice, slice]

    @property
    def width(self) -> float:
        return abs(self.extent[1] - self.extent[0])

    @property
    def height(self) -> float:
        return abs(self.extent[3] - self.extent[2])

    @property
    def bright(self) -> NDArray:
        """The values outside the rim."""
        return self.values[~self.rim]


def complex_to_rgb(values: ArrayLike, vmax: float | None = None) -> NDArray[np.float64]:
    """Show complex numbers as colours: hue is phase (zero is red), brightness is amplitude.

    Parameters
    ----------
    values : (...) complex array
    vmax : float, optional
        Amplitude of full brightness; the largest amplitude if it is not given.

    Returns
    -------
    (..., 3) float64 array
        Red, green and blue from 0 to 1; values that are not finite are black.
    """
    values = np.asarray(values, dtype=complex)
    values = np.where(np.isfinite(values), values, 0)
    amplitude = np.abs(values)
    full = amplitude.max(initial=0.0) if vmax is None else vmax
    brightness = np.clip(amplitude / full, 0, 1) if full > 0 else np.zeros(values.shape)
    hue = np.mod(np.angle(values) / (2 * np.pi), 1.0)
    # Slightly less than full saturation, because projectors overexpose pure red.
    return hsv_to_rgb(np.stack([hue, np.full(values.shape, 0.9), brightness], axis=-1))


def make_picture(
    image: xr.DataArray,
    illumination: ArrayLike | None = None,
    *,
    remove_mean: bool = True,
    remove_ramp: bool = False,
    most: int = MOST_PIXELS,
) -> Picture:
    """Crop an image to its illuminated box, subtract its mean phase and reduce it to what can be shown.

    Parameters
    ----------
    image : DataArray (y, x)
        Complex image with coordinates y and x.
    illumination : (y, x) array, optional
        Illumination, zero or more; the whole image counts as illuminated if it is not given.
    remove_mean, remove_ramp : bool
        Whether to subtract the mean phase, and the mean slope of the phase.
    most : int
        Largest number of pixels per side; a larger image is averaged over blocks of pixels.

    Returns
    -------
    Picture
        The illuminated box with its rim and its extent.
    """
    light, lit = _find_lit(image, illumination)
    rows, columns = (_index_range(np.flatnonzero(lit.any(axis=1 - axis))) for axis in (0, 1))
    values = np.asarray(image.values, dtype=complex)[rows, columns]
    weight = np.where(lit, np.minimum(light, _typical_illumination(light)), 0)[rows, columns]
    values = np.where(np.isfinite(values), values, 0)
    if remove_ramp:
        values = values * np.exp(-1j * _mean_ramp(values, weight))
    if remove_mean:
        values = values * np.exp(-1j * np.angle(np.sum(weight * values)))
    left, right = _outer_edges(image["x"], columns)
    top, bottom = _outer_edges(image["y"], rows)
    step = -(-max(values.shape) // most)
    rim = _average_blocks((~lit[rows, columns]).astype(float), step) > 0.5
    unit = str(image["y"].attrs.get("units", "pixel"))
    return Picture(_average_blocks(values, step), rim, (left, right, bottom, top), unit, (rows, columns))


def flatten_phase(
    image: xr.DataArray, illumination: ArrayLike | None = None, *, remove_ramp: bool
) -> xr.DataArray:
    """Subtract the mean phase of an image and, if asked, the mean slope of its phase.

    Both are means over the illuminated part, as in `make_picture`.
    """
    light, lit = _find_lit(image, illumination)
    weight = np.where(lit, np.minimum(light, _typical_illumination(light)), 0)
    values = np.asarray(image.values, dtype=complex)
    values = np.where(np.isfinite(values), values, 0)
    if remove_ramp:
        values = values * np.exp(-1j * _mean_ramp(values, weight))
    values = values * np.exp(-1j * np.angle(np.sum(weight * values)))
    return image.copy(data=values.astype(image.dtype))


def robust_limits(values: NDArray, below: float = 0.5, above: float = 99.5) -> tuple[float, float]:
    """Percentiles of the values, kept slightly apart if all values are equal."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, [below, above]))
    least = 1e-3 * max(abs(low), abs(high), 1e-30)
    return (low, high) if high - low > least else (low - least, high + least)


def phase_limit(*pictures: Picture) -> float:
    """Half the range of a phase scale: pi, or less if the phases are small.

    A cyclic map has the same colour at both ends, so a smaller range ends well outside the phases.
    """
    phases = [np.abs(np.angle(picture.bright)) for picture in pictures if picture.bright.size]
    reach = max((float(np.percentile(phase, 99.5)) for phase in phases), default=np.pi)
    limit = 1.4 * max(reach, 1e-3)
    return np.pi if limit > 0.8 * np.pi else limit


def phase_limits(*pictures: Picture) -> tuple[float, float]:
    """Range of a phase scale: the full circle, or that of the phases if they are small."""
    if phase_limit(*pictures) == np.pi:
        return -np.pi, np.pi
    return robust_limits(np.concatenate([np.angle(picture.bright) for picture in pictures]))


def is_full_circle(limits: tuple[float, float]) -> bool:
    """Whether both ends of a phase scale are the same phase."""
    return math.isclose(limits[1] - limits[0], 2 * np.pi, rel_tol=1e-3)


def check_colour_map(name: str | None) -> None:
    """Refuse a colour map that matplotlib does not have.

    Raises
    ------
    OptionError
    """
    if name is not None and name not in mpl.colormaps:
        raise OptionError(
            f"colour map {name!r} is not known; expected one of matplotlib's, as gray, viridis or twilight"
        )


def show_values(
    axes: Axes, picture: Picture, values: NDArray, limits: tuple[float, float], cmap: str
) -> AxesImage:
    """Draw real values in the box of the picture, with its rim in grey."""
    # Interpolate colours, not numbers: the mean of -pi and pi would be 0.
    shown = axes.imshow(
        np.ma.masked_array(values, picture.rim),
        extent=picture.extent,
        cmap=cmap,
        vmin=limits[0],
        vmax=limits[1],
        interpolation_stage="rgba",
    )
    shown.set_cmap(shown.get_cmap().with_extremes(bad=RIM_COLOUR))
    return shown


def show_phase(
    axes: Axes, picture: Picture, limits: tuple[float, float], cmap: str | None = None
) -> AxesImage:
    """Draw the phase of the picture; without a map, in a cyclic one if the limits are a full circle apart."""
    cmap = cmap or (CYCLIC if is_full_circle(limits) else UNCYCLIC)
    return show_values(axes, picture, np.angle(picture.values), limits, cmap)


def add_colour_bar(axes: Axes, shown: ScalarMappable, label: str) -> None:
    """Add a colour bar as high as the image; a full turn is labelled in fractions of pi."""
    inset = axes.inset_axes((1.03, 0.0, 0.04, 1.0))
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, cax=inset)
    bar.set_label(label, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)
    if np.allclose(shown.get_clim(), (-np.pi, np.pi)):
        bar.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], labels=PHASE_TICKS)


def add_scale(axes: Axes, picture: Picture, *, bar: bool = True, vertical: bool = True) -> None:
    """Add a scale bar if the unit is the metre, otherwise axes in the unit of the picture.

    Parameters
    ----------
    axes : Axes
    picture : Picture
    bar : bool
        Whether this panel has the scale bar. One panel is enough if its neighbours have the same scale.
    vertical : bool
        Whether this panel has the label and numbers of the vertical axis.
    """
    if picture.unit != "m":
        axes.set_xlabel(f"x ({picture.unit})", fontsize=NORMAL)
        axes.tick_params(labelsize=SMALL, labelleft=vertical)
        if vertical:
            axes.set_ylabel(f"y ({picture.unit})", fontsize=NORMAL)
        return
    axes.set(xticks=[], yticks=[])
    if not bar:
        return
    add_scale_bar(axes, picture.width, picture.height)


def add_scale_bar(
    axes: Axes, width: float, height: float, metre: float = 1.0, *, below: bool = False
) -> None:
    """Add a scale bar to an image, whose width and height are those of the axes.

    `metre` is the length of a metre on the axes; zero if the axes count pixels of an unknown size. The bar is
    drawn on the image, or `below` it, where it covers nothing.
    """
    length = _round_length(0.25 * width / (metre or 1))
    size, name = length_unit(length) if metre else (1.0, "pixels")
    scale = AnchoredSizeBar(
        axes.transData,
        length * (metre or 1),
        f"{length / size:g} {name}",
        "upper left" if below else "lower left",
        pad=0.35,
        borderpad=0.0 if below else 0.6,
        sep=4,
        bbox_to_anchor=(0.0, 0.0) if below else None,
        bbox_transform=axes.transAxes if below else None,
        size_vertical=0.012 * height,
        fontproperties=FontProperties(size=NORMAL, weight="bold"),
    )
    scale.patch.set(alpha=0.8, linewidth=0, facecolor="white")
    axes.add_artist(scale)


def resize_figure(figure: Figure, width: float) -> Figure:
    """Bring a figure with its texts and lines to another width in inches, in the same proportions."""
    scale = width / figure.get_figwidth()
    figure.set_size_inches(width, scale * figure.get_figheight())
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=scale * engine.get()["w_pad"], h_pad=scale * engine.get()["h_pad"])
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_fontsize(scale * float(artist.get_fontsize()))
        elif isinstance(artist, Line2D):
            artist.set_linewidth(scale * artist.get_linewidth())
            artist.set_markersize(scale * artist.get_markersize())
    for artist in figure.findobj():
        if isinstance(artist, Axes):
            # Ticks are made anew when a figure is drawn.
            artist.tick_params(labelsize=scale * SMALL, length=scale * mpl.rcParams["xtick.major.size"])
    return figure


def _find_lit(
    image: xr.DataArray, illumination: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The illumination of an image, and where it is more than the rim; everywhere if nothing is lit."""
    light = np.ones(image.shape) if illumination is None else np.nan_to_num(np.asarray(illumination, float))
    lit = light > RIM * _typical_illumination(light)
    return light, lit if lit.any() else np.ones(image.shape, dtype=bool)


def _typical_illumination(light: NDArray) -> float:
    """Illumination of the well-lit part: the 90th percentile, which ignores the rim and hot spots."""
    lit = light[light > 0]
    return float(np.percentile(lit, 90)) if lit.size else 0.0


def _index_range(where: NDArray[np.int64]) -> slice:
    """Slice from the first to the last of some indices."""
    return slice(int(where[0]), int(where[-1]) + 1)


def _outer_edges(coordinate: xr.DataArray, part: slice) -> tuple[float, float]:
    """Outer edges of a range of pixels, from coordinates that are the centres of the pixels."""
    centres = np.asarray(coordinate.values, dtype=float)
    step = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) or 1.0
    return float(centres[part][0] - step / 2), float(centres[part][-1] + step / 2)


def _mean_ramp(values: NDArray, weight: NDArray) -> NDArray:
    """Phase ramp of mean slope: products of neighbouring pixels give the slope without unwrapping."""
    amplitude = np.sqrt(weight)
    weighted = amplitude * values
    slopes = []
    for axis in (0, 1):
        ahead, behind = np.delete(weighted, 0, axis), np.delete(weighted, -1, axis)
        slopes.append(np.angle(np.vdot(behind, ahead)))
    height, width = values.shape
    return slopes[0] * np.arange(height)[:, None] + slopes[1] * np.arange(width)[None, :]


def _average_blocks(values: NDArray, step: int) -> NDArray:
    """Average over blocks of step by step pixels; the last blocks may be smaller."""
    if step == 1:
        return values
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        counts = np.diff(np.append(starts, values.shape[axis]))
        shape = (-1, 1) if axis == 0 else (1, -1)
        values = np.add.reduceat(values, starts, axis=axis) / counts.reshape(shape)
    return values


def _round_length(length: float) -> float:
    """The largest number not above `length` that is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(length))
    return power * max(digit for digit in (1, 2, 5) if digit * power <= length * 1.0001)
