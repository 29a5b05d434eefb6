"""Results as NeXus files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from daskptycho.formats.hdf5_file import create_hdf5

__all__ = ["write_nexus"]


def write_nexus(result: xr.Dataset, path: Path) -> None:
    """Write a result as NeXus: an NXentry whose default NXdata is the phase of the object.

    Parameters
    ----------
    result : xarray.Dataset
    path : Path
        A new file.
    """
    with create_hdf5(path) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry"})
        entry = _create_group(file, "entry", "NXentry", default="object_phase")
        entry["title"] = str(result.attrs.get("source", "ptychographic reconstruction"))
        entry["definition"] = "NXptycho"
        process = _create_group(entry, "process", "NXprocess")
        process["program"] = "daskptycho"
        process["version"] = str(result.attrs.get("version", ""))
        process["options"] = str(result.attrs.get("options", ""))
        image = result["object"].values
        unit = str(result["y"].attrs.get("units", "pixel"))
        images = {
            "object_phase": (np.angle(image), "rad"),
            "object_amplitude": (np.abs(image), ""),
            "object": (image, ""),
        }
        for name, (values, value_unit) in images.items():
            data = _create_group(entry, name, "NXdata", signal="data", axes=["y", "x"])
            data["data"] = values
            data["data"].attrs["units"] = value_unit
            for axis in ("y", "x"):
                data[axis] = result[axis].values
                data[axis].attrs["units"] = unit
                data.attrs[f"{axis}_indices"] = ("y", "x").index(axis)
        probe = _create_group(entry, "probe", "NXdata", signal="data", axes=["mode", ".", "."])
        probe["data"] = result["probe"].values
        probe["mode"] = np.arange(result.sizes["mode"])
        history = _create_group(entry, "history", "NXdata", signal="residual", axes=["sweep"])
        history["residual"] = result["residual"].values
        history["sweep"] = result["sweep"].values
        positions = _create_group(entry, "positions", "NXdata", signal="y", axes=["frame"])
        positions["frame"] = result["frame_number"].values
        for axis, column in zip(("y", "x"), result["position"].values.T, strict=True):
            positions[axis] = column
            positions[axis].attrs["units"] = unit


def _create_group(parent: Any, name: str, nexus_class: str, **attributes: Any) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    for key, value in attributes.items():
        group.attrs[key] = value
    return group
