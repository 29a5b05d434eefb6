"""What is shown of a run at one moment: numbers, and pictures that are ready to be drawn.

`live_view` makes views in the process of the run; `page` draws them in the process of the server.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.run.preview import Preview
from daskptycho.scan.dataset import pixel_size, position_in_pixels, tile_chunks
from daskptycho.tiling import Tiling, Window

if TYPE_CHECKING:
    from daskptycho.views.drawing import Picture

__all__ = [
    "Extent",
    "ImagePicture",
    "ProbePicture",
    "Scale",
    "TileMap",
    "View",
    "add_plan",
    "choose_scale",
    "find_window",
    "make_detail_picture",
    "make_image_picture",
    "make_probe_picture",
    "make_tile_map",
]

Extent = tuple[float, float, float, float]
"""Left, right, top and bottom outer edge of a part of the canvas, in the unit of a scale."""

# Most probe modes in a picture, and most pixels along a side of each.
MAX_MODES = 6
MAX_PROBE_PIXELS = 160


@dataclass(frozen=True)
class Scale:
    """The size of a pixel, [y, x], in the unit of the axes' labels."""

    pixel: tuple[float, float]
    unit: str


@dataclass(frozen=True)
class ImagePicture:
    """The object so far, as amplitude and phase.

    Attributes
    ----------
    amplitude, phase : (y, x) float32 array
        NaN where the illumination is too weak. The phase is in radians, with its mean subtracted.
    extent : (left, right, top, bottom)
        Outer edges, in the unit of the scale.
    amplitude_limits : (float, float)
        Amplitudes at the ends of the colour map.
    phase_limit : float
        The colour map of the phase reaches from ``-phase_limit`` to ``phase_limit``, in radians.
    sweep : int
        The sweep after which the picture was made.
    step : int
        A pixel of the picture is the mean of `step` x `step` pixels of the canvas.
    """

    amplitude: NDArray[np.float32]
    phase: NDArray[np.float32]
    extent: Extent
    amplitude_limits: tuple[float, float]
    phase_limit: float
    sweep: int
    step: int


@dataclass(frozen=True)
class ProbePicture:
    """The modes of the probe in colours: hue is phase, brightness is amplitude.

    Attributes
    ----------
    modes : (mode, y, x, 3) uint8 array
        The strongest modes, as red, green and blue.
    shares : tuple of float
        The share of the probe's power in each mode shown.
    """

    modes: NDArray[np.uint8]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class TileMap:
    """Where each tile lies on the canvas, and on which worker.

    Attributes
    ----------
    extent : (tile, 4) array
        left, right, top, bottom, in the unit of the scale.
    frames : (tile,) array
        Number of frames in each tile.
    homes : tuple of str
        Address of each tile's worker; empty where threads of one process compute.
    planned : (planned tile, 4) array
        Extents of all tiles of the plan, if the scan is still being measured.
    written : (planned tile,) bool array
        Whether each of these has been measured.
    """

    extent: NDArray[np.float64]
    frames: NDArray[np.int64]
    homes: tuple[str, ...]
    planned: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))
    written: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))


@dataclass(frozen=True)
class View:
    """What is known of a run at one moment.

    Attributes
    ----------
    scan, out : str
        Locations of the scan and of the result to be written; empty if there is none.
    status : {"waiting", "running", "done", "stopped"}
        "waiting" before the first sweep.
    note : str
        A sentence shown below the status.
    sweeps : int
        Largest number of sweeps that the run makes; 0 if unknown.
    frames, tile_count : int
        Numbers of frames and tiles; 0 if unknown.
    sweep : tuple of int
        Numbers of the sweeps that the following histories cover.
    residual, disagreement, seconds : tuple of float
        The history of the run, one value for each of these sweeps. `seconds` is the time of each sweep.
    scale : Scale
        Of the extents of the pictures.
    image, probe, tiles : ImagePicture, ProbePicture, TileMap or None
        None where the picture of an earlier view is to stay.
    detail : ImagePicture or None
        The part of the image that is looked at, with more pixels; it belongs to `image`.
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
    disagreement: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    scale: Scale = Scale((1.0, 1.0), "pixel")
    image: ImagePicture | None = None
    probe: ProbePicture | None = None
    tiles: TileMap | None = None
    detail: ImagePicture | None = None

    @property
    def sweeps_done(self) -> int:
        """Number of the last sweep; 0 before the first."""
        return self.sweep[-1] if self.sweep else 0

    @property
    def seconds_per_sweep(self) -> float:
        """Median time of the last five sweeps; NaN before the first."""
        return float(np.median(self.seconds[-5:])) if self.seconds else np.nan

    @property
    def seconds_left(self) -> float:
        """Estimated time until all sweeps are done; NaN before the first."""
        return (self.sweeps - self.sweeps_done) * self.seconds_per_sweep


def choose_scale(scan: xr.Dataset | None, canvas: Window) -> Scale:
    """Choose the unit in which the longer side of the canvas is a number from 1 to 1000."""
    from daskptycho.views.quantities import length_unit

    size = None if scan is None or scan["position"].attrs.get("units") != "m" else pixel_size(scan)
    if size is None:
        return Scale((1.0, 1.0), "pixel")
    unit, name = length_unit(max(canvas.height * size[0], canvas.width * size[1]))
    return Scale((size[0] / unit, size[1] / unit), name)


def find_window(extent: Extent, scale: Scale, canvas: Window) -> Window | None:
    """The pixels of the canvas within an extent; None if there are none, or all of them."""
    left, right, top, bottom = extent
    edges = []
    for axis, (low, high) in enumerate(((top, bottom), (left, right))):
        first, size = (canvas.y, canvas.height) if axis == 0 else (canvas.x, canvas.width)
        # A pixel reaches half a pixel to both sides of its coordinate.
        begin = max(first, math.floor(low / scale.pixel[axis] + 0.5))
        end = min(first + size, math.ceil(high / scale.pixel[axis] + 0.5))
        edges.append((begin, end - begin))
    (y, height), (x, width) = edges
    window = Window(y, x, height, width)
    return None if height < 1 or width < 1 or window == canvas else window


def make_image_picture(preview: Preview, scale: Scale, sweep: int, *, remove_ramp: bool) -> ImagePicture:
    """Prepare a preview of the object for drawing, as `plotting` does for a result."""
    from daskptycho.views.drawing import make_picture

    picture = make_picture(_with_coordinates(preview, scale), preview.illumination, remove_ramp=remove_ramp)
    return _split(picture, sweep, preview.step)


def make_detail_picture(
    detail: Preview, whole: Preview, scale: Scale, sweep: int, *, remove_ramp: bool
) -> ImagePicture:
    """Prepare a preview of a part of the object for drawing on top of the picture of the whole.

    The same mean phase and the same slope are subtracted from both.
    """
    from daskptycho.views.drawing import make_picture

    shown = make_picture(_with_coordinates(whole, scale), whole.illumination, remove_ramp=remove_ramp)
    # The phase of this product is the plane that was subtracted.
    plane = whole.image[shown.box] * shown.values.conj()
    slopes = [
        np.angle(np.vdot(np.delete(plane, -1, axis), np.delete(plane, 0, axis))) / whole.step
        for axis in (0, 1)
    ]
    y, x = _centres(whole)
    tilt = np.add.outer(slopes[0] * y[shown.box[0]], slopes[1] * x[shown.box[1]])
    mean = np.angle(np.sum(plane * np.exp(-1j * tilt)))
    y, x = _centres(detail)
    flat = detail.image * np.exp(-1j * (mean + np.add.outer(slopes[0] * y, slopes[1] * x)))
    part = make_picture(
        _with_coordinates(replace(detail, image=flat), scale), detail.illumination, remove_mean=False
    )
    return _split(part, sweep, detail.step)


def _centres(preview: Preview) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates y and x of the centres of a preview's blocks, in pixels of the canvas."""
    window, step = preview.window, preview.step
    y, x = (
        first + (np.arange(size) + 0.5) * step - 0.5
        for first, size in zip((window.y, window.x), preview.image.shape, strict=True)
    )
    return y, x


def _with_coordinates(preview: Preview, scale: Scale) -> xr.DataArray:
    """The image of a preview with coordinates in the unit of a scale."""
    centres = {
        axis: (axis, own * pixel, {"units": scale.unit})
        for axis, own, pixel in zip(("y", "x"), _centres(preview), scale.pixel, strict=True)
    }
    return xr.DataArray(preview.image, dims=("y", "x"), coords=centres)


def _split(picture: Picture, sweep: int, step: int) -> ImagePicture:
    """Amplitude and phase of a picture, with the ends of their colour maps."""
    from daskptycho.views.drawing import phase_limit, robust_limits

    left, right, bottom, top = picture.extent
    amplitude, phase = np.abs(picture.values), np.angle(picture.values)
    for values in (amplitude, phase):
        values[picture.rim] = np.nan
    return ImagePicture(
        amplitude.astype(np.float32),
        phase.astype(np.float32),
        (left, right, top, bottom),
        robust_limits(np.abs(picture.bright)),
        phase_limit(picture),
        sweep,
        step,
    )


def make_probe_picture(probe: NDArray[np.complex64]) -> ProbePicture:
    """Colour the strongest modes of a probe (mode, y, x)."""
    from daskptycho.views.drawing import complex_to_rgb

    power = np.sum(np.abs(probe) ** 2, axis=(-2, -1))
    step = -(-max(probe.shape[-2:]) // MAX_PROBE_PIXELS)
    modes = [complex_to_rgb(mode[::step, ::step]) for mode in probe[:MAX_MODES]]
    shares = power / power.sum() if power.sum() > 0 else power
    return ProbePicture((255 * np.stack(modes)).astype(np.uint8), tuple(map(float, shares[:MAX_MODES])))


def make_tile_map(tiling: Tiling, homes: list[str], scale: Scale) -> TileMap:
    """Draw each tile as the bounding box of its frames' centres, widened by half a scan step."""
    corners = [np.add(tile.corner, (tile.window.y, tile.window.x)) for tile in tiling.tiles]
    names = tuple(home.rpartition("://")[2] for home in homes)
    frames = np.array([len(tile) for tile in tiling.tiles])
    return TileMap(_enclose_tiles(corners, tiling.frame_shape, scale), frames, names)


def add_plan(tiles: TileMap, scan: xr.Dataset, written: Sequence[bool], scale: Scale) -> TileMap:
    """Add the tiles of a scan that is still being measured, as planned, and which of them are written."""
    corners = np.split(position_in_pixels(scan), np.cumsum(tile_chunks(scan))[:-1])
    frame_shape = scan.sizes["qy"], scan.sizes["qx"]
    return replace(
        tiles, planned=_enclose_tiles(corners, frame_shape, scale), written=np.array(written, dtype=bool)
    )


def _enclose_tiles(corners: Sequence[NDArray], frame_shape: tuple[int, int], scale: Scale) -> NDArray:
    """The extent of each tile, (tile, 4), from the corners of its frames, (frame, 2) in pixels."""
    extent = np.empty((len(corners), 4))
    for own, corner in zip(extent, corners, strict=True):
        low, high = corner.min(axis=0), corner.max(axis=0)
        step = np.sqrt(np.prod(high - low + 1.0) / len(corner))
        for axis in (1, 0):
            middle = (frame_shape[axis] - 1) / 2
            edges = middle + np.array([low[axis] - step / 2, high[axis] + step / 2])
            own[2 - 2 * axis :][:2] = edges * scale.pixel[axis]
    return extent
