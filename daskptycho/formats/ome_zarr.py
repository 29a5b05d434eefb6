"""OME-Zarr 0.5: phase and amplitude at decreasing resolution, for napari, Neuroglancer and others.

Each level is the mean of the complex object of the level before over blocks of two by two pixels, so that
phases that wrap round do no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

__all__ = ["write_ome_zarr"]

VERSION = "0.5"
CHUNK = 512

# Largest side of the coarsest level in pixels.
COARSEST = 256
COLOURS = ("FFFFFF", "FFFFFF")


def write_ome_zarr(result: xr.Dataset, folder: Path) -> None:
    """Write the phase (radians) and the amplitude of a result into a new folder.

    Parameters
    ----------
    result : xarray.Dataset
    folder : Path
    """
    levels = [result["object"].values]
    while max(levels[-1].shape) > COARSEST:
        levels.append(_halve(levels[-1]))
    step, first = _pixel_scale(result)
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    datasets = []
    for number, image in enumerate(levels):
        channels = np.stack([np.angle(image), np.abs(image)]).astype(np.float32)
        array = group.create_array(
            str(number),
            shape=channels.shape,
            dtype=channels.dtype,
            chunks=(1, min(CHUNK, image.shape[0]), min(CHUNK, image.shape[1])),
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            dimension_names=("c", "y", "x"),
        )
        array[:] = channels
        coarsening = 2.0**number
        # The coordinate of a coarse pixel is the middle of its block.
        offset = [start + size * (coarsening - 1) / 2 for start, size in zip(first, step, strict=True)]
        datasets.append(
            {
                "path": str(number),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, *(size * coarsening for size in step)]},
                    {"type": "translation", "translation": [0.0, *offset]},
                ],
            }
        )
    unit = {"unit": "micrometer"} if "pixel_size_m" in result.attrs else {}
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", **unit} for a in "yx")]
    image = result["object"].values
    windows = ((-np.pi, np.pi), tuple(float(v) for v in np.percentile(np.abs(image), [0, 99.5])))
    channel_settings: list[dict[str, Any]] = [
        {
            "label": label,
            "active": label == "phase",
            "color": colour,
            "window": {"min": low, "max": high, "start": low, "end": high},
        }
        for label, colour, (low, high) in zip(("phase", "amplitude"), COLOURS, windows, strict=True)
    ]
    description: Any = {
        "version": VERSION,
        "multiscales": [{"name": "object", "axes": axes, "datasets": datasets, "type": "mean"}],
        "omero": {"channels": channel_settings},
    }
    group.attrs["ome"] = description


def _pixel_scale(result: xr.Dataset) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pixel size and first coordinate along [y, x], in micrometres if the scale is known, else in pixels."""
    first = (float(result["y"][0]), float(result["x"][0]))
    if "pixel_size_m" not in result.attrs:
        return (1.0, 1.0), first
    step = tuple(float(size) * 1e6 for size in result.attrs["pixel_size_m"])
    # Coordinates are in metres, or in pixels of a known size.
    factors = (1e6, 1e6) if result["y"].attrs.get("units") == "m" else step
    return (step[0], step[1]), (first[0] * factors[0], first[1] * factors[1])


def _halve(image: NDArray[Any]) -> NDArray[Any]:
    """Means over blocks of two by two pixels; an odd last row or column is averaged with itself only."""
    for axis in (0, 1):
        starts = np.arange(0, image.shape[axis], 2)
        counts = np.diff(np.append(starts, image.shape[axis]))
        image = np.add.reduceat(image, starts, axis=axis) / (counts[:, None] if axis == 0 else counts)
    return image
