"""Results as CXI files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.formats.cxi import ENTRY
from daskptycho.formats.extras import import_extra
from daskptycho.formats.hdf5_file import create_hdf5

__all__ = ["write_cxi"]

VERSION = 160


def write_cxi(result: xr.Dataset, path: Path) -> None:
    """Write a result as CXI: the object and the probe in image_1, and the translations of the sample.

    Parameters
    ----------
    result : xarray.Dataset
    path : Path
        A new file.
    """
    h5py = import_extra("h5py")
    with create_hdf5(path) as file:
        file["cxi_version"] = VERSION
        file["number_of_entries"] = 1
        entry = file.create_group(ENTRY)
        entry["program_name"] = f"daskptycho {result.attrs.get('version', '')}".strip()
        image = entry.create_group("image_1")
        image["data"] = result["object"].values
        image["data_type"] = "complex refractive index transmission"
        image["data_space"] = "real"
        image["illumination"] = result["illumination"].values
        in_metres = result["y"].attrs.get("units") == "m"
        entry["result_1"] = h5py.SoftLink(f"/{ENTRY}/image_1")
        image["probe"] = result["probe"].values
        if in_metres:
            step = np.array([_spacing(result[axis].values) for axis in ("y", "x")])
            image["image_size"] = np.array([*(step[::-1] * result["object"].shape[::-1]), 0.0])
            image["pixel_size"] = step
            for key, unit in (("image_size", "m"), ("pixel_size", "m")):
                image[key].attrs["units"] = unit
            # The sample moves opposite to the beam on it, and the rows of the object run downwards.
            position = result["position"].values
            translation = np.zeros((len(position), 3))
            translation[:, 1], translation[:, 0] = position[:, 0], position[:, 1]
            geometry = entry.create_group("sample_1/geometry_1")
            geometry["translation"] = translation
            geometry["translation"].attrs["units"] = "m"
        process = image.create_group("process_1")
        process["command"] = str(result.attrs.get("options", ""))
        process["residual"] = result["residual"].values


def _spacing(coordinate: NDArray[np.float64]) -> float:
    return float(coordinate[1] - coordinate[0]) if len(coordinate) > 1 else 1.0
