"""The parts that pictures are made of: a cropped image with its rim greyed, its limits, bars and scales.

`plotting`, `panels` and the dashboard call this module, and `plotting` shows `complex_to_rgb` to everyone;
it knows matplotlib's objects and no global state of it, so that it draws alike with and without a display.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import hsv_to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "MOST_PIXELS",
    "NORMAL",
    "RIM_COLOUR",
    "SMALL",
    "TURN",
    "Picture",
    "add_colour_bar",
    "add_scale",
    "complex_to_rgb",
    "length_unit",
    "make_picture",
    "phase_limit",
    "robust_limits",
    "show_phase",
    "show_values",
]

# Below this share of the usual illumination a pixel is rim: mostly noise.
RIM = 0.1
RIM_COLOUR = "#d3d8e0"
# More pixels a side than a slide can show.
MOST_PIXELS = 1500
SMALL, NORMAL = 9, 11
TURN = (r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$")
LENGTHS = ((1e-12, "pm"), (1e-9, "nm"), (1e-6, "µm"), (1e-3, "mm"), (1.0, "m"))


@dataclass(frozen=True)
class Picture:
    """A complex image ready to be drawn.

    Attributes
    ----------
    values : (y, x) complex array
        The illuminated box, thinned out to what can be seen.
    rim : (y, x) bool array
        Where too little light fell.
    extent : (left, right, bottom, top)
        Outer edges of the box in `unit`.
    unit : str
        "m", "pixel", or whatever the coordinates say.
    box : (slice, slice)
        Rows and columns of the image that it was made of.
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
    """Colours of complex numbers: hue is phase (zero is red), brightness is amplitude.

    Parameters
    ----------
    values : (...) complex array
    vmax : float, optional
        Amplitude of full brightness; the largest one without it.

    Returns
    -------
    (..., 3) float64 array
        From 0 to 1; what is not finite is black.
    """
    values = np.asarray(values, dtype=complex)
    values = np.where(np.isfinite(values), values, 0)
    amplitude = np.abs(values)
    full = amplitude.max(initial=0.0) if vmax is None else vmax
    brightness = np.clip(amplitude / full, 0, 1) if full > 0 else np.zeros(values.shape)
    hue = np.mod(np.angle(values) / (2 * np.pi), 1.0)
    # A little less than full saturation keeps projectors from burning the reds out.
    return hsv_to_rgb(np.stack([hue, np.full(values.shape, 0.9), brightness], axis=-1))


def make_picture(
    image: xr.DataArray,
    illumination: ArrayLike | None = None,
    *,
    remove_mean: bool = True,
    remove_ramp: bool = False,
    most: int = MOST_PIXELS,
) -> Picture:
    """Crop an image to its illuminated box, take off its mean phase and thin it out.

    Parameters
    ----------
    image : DataArray (y, x)
        Complex, with coordinates y and x.
    illumination : (y, x) array, optional
        Not negative; the whole image counts as lit without it.
    remove_mean, remove_ramp : bool
        Take off the mean phase, and the mean slope of the phase.
    most : int
        Pixels along a side, beyond which the image is thinned out.
    """
    light = np.ones(image.shape) if illumination is None else np.nan_to_num(np.asarray(illumination, float))
    lit = light > RIM * _usual(light)
    if not lit.any():
        lit = np.ones(image.shape, dtype=bool)
    rows, columns = (_span(np.flatnonzero(lit.any(axis=1 - axis))) for axis in (0, 1))
    values = np.asarray(image.values, dtype=complex)[rows, columns]
    weight = np.where(lit, np.minimum(light, _usual(light)), 0)[rows, columns]
    values = np.where(np.isfinite(values), values, 0)
    if remove_ramp:
        values = values * np.exp(-1j * _mean_ramp(values, weight))
    if remove_mean:
        values = values * np.exp(-1j * np.angle(np.sum(weight * values)))
    left, right = _edges(image["x"], columns)
    top, bottom = _edges(image["y"], rows)
    step = -(-max(values.shape) // most)
    rim = _thinned((~lit[rows, columns]).astype(float), step) > 0.5
    unit = str(image["y"].attrs.get("units", "pixel"))
    return Picture(_thinned(values, step), rim, (left, right, bottom, top), unit, (rows, columns))


def robust_limits(values: NDArray, below: float = 0.5, above: float = 99.5) -> tuple[float, float]:
    """Percentiles of the values, a little apart even where all are alike."""
    if not values.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(values, [below, above]))
    least = 1e-3 * max(abs(low), abs(high), 1e-30)
    return (low, high) if high - low > least else (low - least, high + least)


def phase_limit(*pictures: Picture) -> float:
    """Half the range of a phase scale: pi, or less where the phases are small.

    A cyclic map has one colour at both ends, so a smaller range ends well outside the phases.
    """
    phases = [np.abs(np.angle(picture.bright)) for picture in pictures if picture.bright.size]
    reach = max((float(np.percentile(phase, 99.5)) for phase in phases), default=np.pi)
    limit = 1.4 * max(reach, 1e-3)
    return np.pi if limit > 0.8 * np.pi else limit


def show_values(
    axes: Axes, picture: Picture, values: NDArray, limits: tuple[float, float], cmap: str
) -> AxesImage:
    """Draw real values over the picture's box, its rim greyed."""
    # Blended as colours: between -pi and pi the mean of the numbers would be wrong.
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


def show_phase(axes: Axes, picture: Picture, limit: float) -> AxesImage:
    """Draw the phase in a cyclic map from -limit to limit."""
    return show_values(axes, picture, np.angle(picture.values), (-limit, limit), "twilight")


def add_colour_bar(axes: Axes, shown: ScalarMappable, label: str) -> None:
    """A colour bar as high as the image; a full turn is labelled in parts of pi."""
    place = axes.inset_axes((1.03, 0.0, 0.04, 1.0))
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, cax=place)
    bar.set_label(label, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)
    if np.allclose(shown.get_clim(), (-np.pi, np.pi)):
        bar.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], labels=TURN)


def length_unit(length: float) -> tuple[float, str]:
    """The unit, in metres and by name, in which a length reads as 1 to 1000."""
    fitting = [unit for unit in LENGTHS if abs(length) >= 0.9999 * unit[0]]
    return fitting[-1] if fitting else LENGTHS[0]


def add_scale(axes: Axes, picture: Picture, *, bar: bool = True, vertical: bool = True) -> None:
    """A scale bar where the unit is the metre, axes in the picture's own unit everywhere else.

    Parameters
    ----------
    axes : Axes
    picture : Picture
    bar : bool
        Whether this panel carries the scale bar; its neighbours have the same scale.
    vertical : bool
        Whether this panel carries the label and numbers of the vertical axis.
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
    length = _round_length(0.25 * picture.width)
    size, name = length_unit(length)
    scale = AnchoredSizeBar(
        axes.transData,
        length,
        f"{length / size:g} {name}",
        "lower left",
        pad=0.35,
        borderpad=0.6,
        sep=4,
        size_vertical=0.012 * picture.height,
        fontproperties=FontProperties(size=NORMAL, weight="bold"),
    )
    scale.patch.set(alpha=0.8, linewidth=0, facecolor="white")
    axes.add_artist(scale)


def _usual(light: NDArray) -> float:
    """Illumination of the well-lit part: high enough not to be the rim's, and no hot spot's."""
    lit = light[light > 0]
    return float(np.percentile(lit, 90)) if lit.size else 0.0


def _span(where: NDArray[np.int64]) -> slice:
    return slice(int(where[0]), int(where[-1]) + 1)


def _edges(coordinate: xr.DataArray, part: slice) -> tuple[float, float]:
    """Outer edges of a run of pixels whose centres are the coordinates."""
    centres = np.asarray(coordinate.values, dtype=float)
    step = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) or 1.0
    return float(centres[part][0] - step / 2), float(centres[part][-1] + step / 2)


def _mean_ramp(values: NDArray, weight: NDArray) -> NDArray:
    """Phase of the mean slope, from each pixel's product with its neighbour: wraps do no harm."""
    amplitude = np.sqrt(weight)
    weighted = amplitude * values
    slopes = []
    for axis in (0, 1):
        ahead, behind = np.delete(weighted, 0, axis), np.delete(weighted, -1, axis)
        slopes.append(np.angle(np.vdot(behind, ahead)))
    height, width = values.shape
    return slopes[0] * np.arange(height)[:, None] + slopes[1] * np.arange(width)[None, :]


def _thinned(values: NDArray, step: int) -> NDArray:
    """Means over blocks of step by step pixels; the last blocks may be smaller."""
    if step == 1:
        return values
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        counts = np.diff(np.append(starts, values.shape[axis]))
        shape = (-1, 1) if axis == 0 else (1, -1)
        values = np.add.reduceat(values, starts, axis=axis) / counts.reshape(shape)
    return values


def _round_length(length: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is no longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return power * max(digit for digit in (1, 2, 5) if digit * power <= length * 1.0001)
