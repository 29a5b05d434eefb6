"""What the live page shows of a run at one moment: numbers, and pictures that are ready to be drawn.

`feed` makes views of what a callback sees, where the run is; `page` draws them, where the server is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.run.preview import Preview
from daskptycho.scan.dataset import pixel_size
from daskptycho.tiling import Tiling, Window

__all__ = ["Image", "Probe", "Scale", "Tiles", "View", "image_of", "probe_of", "scale_of", "tiles_of"]

MOST_MODES = 6
MOST_PROBE_PIXELS = 160


@dataclass(frozen=True)
class Scale:
    """Of the picture's axes: a pixel's size, [y, x], in the unit in which the axes are labelled."""

    pixel: tuple[float, float]
    unit: str


@dataclass(frozen=True)
class Image:
    """The image so far.

    Attributes
    ----------
    amplitude, phase : (y, x) float32 array
        NaN where too little light fell; the phase in radians, its mean taken off.
    extent : (left, right, top, bottom)
        Outer edges, in the scale's unit.
    amplitude_limits : (float, float)
    phase_limit : float
        The colours reach from minus this to this.
    sweep : int
        After which it was made.
    step : int
        Pixels of the canvas along a side of one that is shown.
    """

    amplitude: NDArray[np.float32]
    phase: NDArray[np.float32]
    extent: tuple[float, float, float, float]
    amplitude_limits: tuple[float, float]
    phase_limit: float
    sweep: int
    step: int


@dataclass(frozen=True)
class Probe:
    """The probe's modes as colours: hue is phase, brightness amplitude.

    Attributes
    ----------
    modes : (mode, y, x, 3) uint8 array
        The strongest ones.
    shares : tuple of float
        Of all the power, for each mode shown.
    """

    modes: NDArray[np.uint8]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Tiles:
    """Where each tile lies on the canvas, and the worker that has it.

    Attributes
    ----------
    extent : (tile, 4) array
        left, right, top, bottom, in the scale's unit.
    frames : (tile,) array
    homes : tuple of str
        The worker's address; empty on threads of one process.
    """

    extent: NDArray[np.float64]
    frames: NDArray[np.int64]
    homes: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """What is known of a run at one moment.

    Attributes
    ----------
    scan, out : str
        What is reconstructed, and where the result will be; empty where it will be nowhere.
    status : {"waiting", "running", "done", "stopped"}
    note : str
        What there is to say beside the status.
    sweeps : int
        Most sweeps that the run makes; 0 while that is not known.
    frames, tile_count : int
        0 while they are not known.
    sweep : tuple of int
        Number of each sweep that is known here.
    residual, consensus, seconds : tuple of float
        As in the history of the run.
    scale : Scale
    image, probe, tiles : Image, Probe, Tiles or None
        None where there is no newer one than the last.
    """

    scan: str = ""
    out: str = ""
    status: Literal["waiting", "running", "done", "stopped"] = "waiting"
    note: str = ""
    sweeps: int = 0
    frames: int = 0
    tile_count: int = 0
    sweep: tuple[int, ...] = ()
    residual: tuple[float, ...] = ()
    consensus: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    scale: Scale = Scale((1.0, 1.0), "pixel")
    image: Image | None = None
    probe: Probe | None = None
    tiles: Tiles | None = None

    @property
    def pace(self) -> float:
        """Seconds a sweep, of the last few; NaN before the first."""
        return float(np.median(self.seconds[-5:])) if self.seconds else np.nan

    @property
    def left(self) -> float:
        """Seconds until all sweeps will be done."""
        return (self.sweeps - self.sweep[-1]) * self.pace if self.sweep else np.nan


def scale_of(scan: xr.Dataset | None, canvas: Window) -> Scale:
    """The scale of a scan's axes, in the unit in which its canvas reads as 1 to 1000."""
    from daskptycho.views.quantities import length_unit

    size = None if scan is None or scan["position"].attrs.get("units") != "m" else pixel_size(scan)
    if size is None:
        return Scale((1.0, 1.0), "pixel")
    unit, name = length_unit(max(canvas.height * size[0], canvas.width * size[1]))
    return Scale((size[0] / unit, size[1] / unit), name)


def image_of(preview: Preview, scale: Scale, sweep: int, *, remove_ramp: bool) -> Image:
    """A preview, ready to be drawn as `plotting` draws a result."""
    from daskptycho.views.drawing import make_picture, phase_limit, robust_limits

    window, step = preview.window, preview.step
    centres = {
        axis: (axis, (first + (np.arange(size) + 0.5) * step - 0.5) * pixel, {"units": scale.unit})
        for axis, first, size, pixel in zip(
            ("y", "x"), (window.y, window.x), preview.image.shape, scale.pixel, strict=True
        )
    }
    picture = make_picture(
        xr.DataArray(preview.image, dims=("y", "x"), coords=centres),
        preview.illumination,
        remove_ramp=remove_ramp,
    )
    left, right, bottom, top = picture.extent
    amplitude, phase = np.abs(picture.values), np.angle(picture.values)
    limits = robust_limits(np.abs(picture.bright))
    for values in (amplitude, phase):
        values[picture.rim] = np.nan
    return Image(
        amplitude.astype(np.float32),
        phase.astype(np.float32),
        (left, right, top, bottom),
        limits,
        phase_limit(picture),
        sweep,
        step,
    )


def probe_of(probe: NDArray[np.complex64]) -> Probe:
    """The strongest modes of a probe (mode, y, x) as colours."""
    from daskptycho.views.drawing import complex_to_rgb

    power = np.sum(np.abs(probe) ** 2, axis=(-2, -1))
    step = -(-max(probe.shape[-2:]) // MOST_PROBE_PIXELS)
    modes = [complex_to_rgb(mode[::step, ::step]) for mode in probe[:MOST_MODES]]
    shares = power / power.sum() if power.sum() > 0 else power
    return Probe((255 * np.stack(modes)).astype(np.uint8), tuple(map(float, shares[:MOST_MODES])))


def tiles_of(tiling: Tiling, homes: list[str], scale: Scale) -> Tiles:
    """Where the tiles lie and who has them: the box of each tile's frame centres, half a step around it."""
    tiles = tiling.tiles
    extent = np.empty((len(tiles), 4))
    for own, tile in zip(extent, tiles, strict=True):
        low, high = tile.corner.min(axis=0), tile.corner.max(axis=0)
        step = np.sqrt(np.prod(high - low + 1.0) / len(tile))
        for axis, first in ((1, tile.window.x), (0, tile.window.y)):
            middle = first + (tiling.frame_shape[axis] - 1) / 2
            edges = middle + np.array([low[axis] - step / 2, high[axis] + step / 2])
            own[2 - 2 * axis :][:2] = edges * scale.pixel[axis]
    names = tuple(home.rpartition("://")[2] for home in homes)
    return Tiles(extent, np.array([len(tile) for tile in tiles]), names)
