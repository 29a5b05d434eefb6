"""Pictures in files and in HTML: whole figures, and the object with one dot per pixel.

The command line, the demonstration and the notebook views call this module.
"""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path, PurePath
from typing import Literal

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave

from daskptycho.errors import OptionError
from daskptycho.storage.location import Location
from daskptycho.storage.store import parse_location, write_bytes
from daskptycho.views.drawing import (
    CYCLIC,
    RIM_COLOUR,
    UNCYCLIC,
    check_colour_map,
    is_full_circle,
    phase_limits,
    robust_limits,
)
from daskptycho.views.plotting import make_result_picture

__all__ = ["encode_as_data_url", "save_figure", "save_image"]


def save_figure(figure: Figure, path: str | Path, dpi: float = 150) -> str | Path:
    """Write a figure completely or not at all.

    Parameters
    ----------
    figure : Figure
    path : path or URL
        File to write; its suffix names the format.
    dpi : float
        Resolution of pixel formats in dots per inch.

    Returns
    -------
    str or Path
        The path, as it was given.

    Raises
    ------
    OptionError
        The suffix is not a known format, or the folder does not exist.
    StoreError
        The bucket does not answer or refuses access.
    """
    target = _find_place(path)
    formats = figure.canvas.get_supported_filetypes()
    suffix = PurePath(target.name).suffix
    if suffix.lower().removeprefix(".") not in formats:
        known = ", ".join(sorted(f".{name}" for name in formats))
        raise OptionError(f"{path} ends in {suffix or 'no suffix'}; expected one of {known}")
    content = BytesIO()
    figure.savefig(content, format=suffix.lower().removeprefix("."), dpi=dpi)
    write_bytes(target, content.getvalue())
    return path


def save_image(
    result: xr.Dataset,
    path: str | Path,
    *,
    part: Literal["phase", "amplitude"] = "phase",
    remove_ramp: bool | None = None,
    region: tuple[slice, slice] | None = None,
    colour_map: str | None = None,
    limits: tuple[float, float] | None = None,
) -> str | Path:
    """Write phase or amplitude of a result as a PNG with one dot per pixel of the object, and no axes.

    Parameters
    ----------
    result : Dataset
    path : path or URL
    part : "phase" or "amplitude"
    remove_ramp, region, colour_map, limits : optional
        As for `plot_result`.

    Returns
    -------
    str or Path
        The path, as it was given.

    Raises
    ------
    OptionError
        The region holds no pixel of the object, the folder does not exist, or matplotlib has no such map.
    StoreError
        The bucket does not answer or refuses access.
    """
    check_colour_map(colour_map)
    target = _find_place(path)
    most = max(result["object"].shape)
    picture = make_result_picture(result, remove_ramp=remove_ramp, region=region, most=most)
    if part == "amplitude":
        values = np.abs(picture.values)
        limits = limits or robust_limits(np.abs(picture.bright))
        colour_map = colour_map or "gray"
    else:
        values = np.angle(picture.values)
        limits = limits or phase_limits(picture)
        colour_map = colour_map or (CYCLIC if is_full_circle(limits) else UNCYCLIC)
    colours = mpl.colormaps[colour_map].with_extremes(bad=RIM_COLOUR)
    content = BytesIO()
    dots = colours(Normalize(*limits)(np.ma.masked_array(values, picture.rim)), bytes=True)
    imsave(content, dots, format="png")
    write_bytes(target, content.getvalue())
    return path


def _find_place(path: str | Path) -> Location:
    """The location of a picture; an error if its folder does not exist."""
    target = parse_location(path)
    if target.is_local and not target.local_path.parent.is_dir():
        parent = Path(path).parent
        raise OptionError(f"{parent} is not a folder; create it, or choose another path for the picture")
    return target


def encode_as_data_url(figure: Figure, dpi: float) -> str:
    """Encode a figure as a data URL for an HTML image, as JPEG: a PNG of noise is several times larger."""
    data = BytesIO()
    figure.savefig(data, format="jpeg", dpi=dpi, pil_kwargs={"quality": 90})
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
