"""The result of a run: tiles brought together on the canvas, coordinates, and a store written whole.

`run` calls this module; users read what it writes with plain ``xarray.open_zarr``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr
from dask.delayed import Delayed
from numpy.typing import NDArray

from daskptycho.backend import to_host
from daskptycho.errors import ScanError
from daskptycho.graph import State
from daskptycho.model.probe import orthogonal_modes
from daskptycho.scan.dataset import frame_numbers, pixel_size
from daskptycho.storage.store import open_dataset, parse_location, read_attributes, translate_errors
from daskptycho.tasks.spec import task
from daskptycho.tasks.waiting import computed
from daskptycho.tiling import Tiling
from daskptycho.version import __version__

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["assemble", "open_result", "result_dataset", "write_result"]

FORMAT = "daskptycho-result"
FORMAT_VERSION = 1
# Rows of a tile's image that are put on the canvas at a time.
BAND = 64


class _Sweep(Protocol):
    residual: float
    consensus: float
    spread: float
    seconds: float


def assemble(tiling: Tiling, images: Sequence[Delayed]) -> NDArray:
    """The tiles' images on the whole canvas, one tile in transit at a time."""
    canvas: NDArray | None = None
    for tile, image in zip(tiling.tiles, images, strict=True):
        part = computed(task(to_host, image))
        if canvas is None:
            canvas = np.zeros(tiling.window.shape, dtype=part.dtype)
        rows = np.arange(tile.window.height) + tile.window.y - tiling.window.y
        columns = np.arange(tile.window.width) + tile.window.x - tiling.window.x
        if tiling.period is not None:
            rows, columns = rows % tiling.period[0], columns % tiling.period[1]
        # Windows overlap, and hold the same merged pixels where they do.
        for band in (slice(first, first + BAND) for first in range(0, len(rows), BAND)):
            # An image on disk is read band by band.
            canvas[np.ix_(rows[band], columns)] = part[band, :]
    assert canvas is not None
    return canvas


def result_dataset(
    scan: xr.Dataset, tiling: Tiling, state: State, history: Iterable[_Sweep], options: Mapping[str, Any]
) -> xr.Dataset:
    """The result as a user sees it."""
    history = list(history)
    unit = scan["position"].attrs["units"]
    size = pixel_size(scan) if unit == "m" else None
    step = (1.0, 1.0) if size is None else size
    first = (tiling.window.y, tiling.window.x)
    coordinates = {
        axis: (axis, (first[i] + np.arange(tiling.window.shape[i])) * step[i], {"units": unit})
        for i, axis in enumerate(("y", "x"))
    }
    probe = orthogonal_modes(computed(task(to_host, state.probe)))
    result = xr.Dataset(
        {
            "object": (("y", "x"), assemble(tiling, state.images)),
            "illumination": (("y", "x"), assemble(tiling, state.illuminations)),
            "probe": (("mode", "probe_y", "probe_x"), probe),
            "position": scan["position"].variable.load(),
            "frame_number": ("frame", frame_numbers(scan)),
            **{
                name: ("sweep", np.array([getattr(sweep, name) for sweep in history]))
                for name in ("residual", "consensus", "spread", "seconds")
            },
        },
        coords={**coordinates, "sweep": np.arange(1, len(history) + 1)},
        attrs={
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "options": json.dumps(options, sort_keys=True),
            "version": __version__,
            "source": str(scan.encoding.get("source", scan.attrs.get("source", "memory"))),
        },
    )
    if pixel_size(scan) is not None:
        result.attrs["pixel_size_m"] = list(pixel_size(scan) or ())
    result["seconds"].attrs["units"] = "s"
    result["spread"].attrs["units"] = "rad"
    return result


def write_result(result: xr.Dataset, store: Store) -> None:
    """Write a result that plain ``xarray.open_zarr`` opens into a new store."""
    with warnings.catch_warnings():
        # Plain open_zarr warns where consolidated metadata are missing, and writing them warns
        # that the v3 specification does not have them yet.
        warnings.simplefilter("ignore")
        result.to_zarr(store, mode="a", zarr_format=3, consolidated=True)


def open_result(url: str | Path) -> xr.Dataset:
    """Open a result.

    Parameters
    ----------
    url : str or Path
        Where `reconstruct` wrote it: a folder, or a place in a bucket or on a web server.

    Returns
    -------
    xarray.Dataset
        As `reconstruct` returns it, in memory.

    Raises
    ------
    ScanError
        Nothing lies there, or something that is no result.
    StoreError
        The place does not answer, or lets nobody in.
    OptionError
        A URL that cannot be read.
    """
    location = parse_location(url)
    attributes = read_attributes(location, "a result, as reconstruct writes it")
    if attributes.get("format") != FORMAT:
        raise ScanError(f"{location} is a {attributes.get('format')}; expected a result ({FORMAT})")
    with translate_errors(location):
        opened = open_dataset(location).load()
    # A dataset of its own: the opened one holds on to its store, and that to credentials.
    return xr.Dataset(dict(opened.variables), attrs=opened.attrs)
