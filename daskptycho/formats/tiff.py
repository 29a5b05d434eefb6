"""OME-TIFF: phase and amplitude as channels, with the pixel size."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr

from daskptycho.formats.extras import import_extra

__all__ = ["write_tiff"]


def write_tiff(result: xr.Dataset, path: Path) -> None:
    """Write the phase (radians) and the amplitude of a result as two float32 channels of a new file.

    ImageJ, Fiji and other readers of OME-TIFF find the pixel size in micrometres; other programs find the
    number of pixels per centimetre.
    """
    tifffile = import_extra("tifffile")
    image = result["object"].values
    channels = np.stack([np.angle(image), np.abs(image)]).astype(np.float32)
    metadata: dict[str, object] = {"axes": "CYX", "Channel": {"Name": ["phase", "amplitude"]}}
    options: dict[str, object] = {}
    if "pixel_size_m" in result.attrs:
        y, x = (float(size) for size in result.attrs["pixel_size_m"])
        metadata |= {"PhysicalSizeX": x * 1e6, "PhysicalSizeXUnit": "µm"}
        metadata |= {"PhysicalSizeY": y * 1e6, "PhysicalSizeYUnit": "µm"}
        options = {"resolution": (1e-2 / x, 1e-2 / y), "resolutionunit": "CENTIMETER"}
    # Into memory first: on a full disk tifffile's error does not say so.
    content = BytesIO()
    tifffile.imwrite(content, channels, ome=True, photometric="minisblack", metadata=metadata, **options)
    path.write_bytes(content.getvalue())
