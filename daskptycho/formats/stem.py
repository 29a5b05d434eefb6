"""4D-STEM through RosettaSciIO: EMPAD, Merlin MIB, DigitalMicrograph, HyperSpy (.hspy, .zspy), py4DSTEM.

The first two axes are y and x of the raster of the beam, the last two qy and qx of the detector; their scales
become positions and the pixel size. No file says how the microscope rotates one against the other: see
`position_axes` and `rotation_deg` of `arrange.Arrangement`. ARINA's master files are read by `nexus`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.extras import import_extra
from daskptycho.formats.hdf5_file import is_hdf5, open_hdf5, to_text
from daskptycho.formats.lazy_frames import LazyFrames
from daskptycho.formats.units import to_si
from daskptycho.scan.optics import ELECTRON

__all__ = ["is_stem", "read_stem"]

# What a chunk of RosettaSciIO's lazy arrays holds.
BLOCK = "16MiB"

UNCALIBRATED = ("", "px", "pixel", "pixels", "none", "<undefined>", "1")
DM_VERSIONS = (3, 4)


def is_stem(path: Path) -> bool:
    """Whether RosettaSciIO has a reader for a file, judging by its content."""
    return _reader_name(path) is not None


def _reader_name(path: Path) -> str | None:
    """The module of rsciio that reads a file; None if there is none."""
    if path.is_dir() or zipfile.is_zipfile(path):
        return "zspy" if _list_experiments(path) else None
    if is_hdf5(path):
        return _hdf5_reader(path)
    with open(path, "rb") as file:
        start = file.read(4096)
    if start.startswith((b"MQ1,", b"HDR,")):
        return "quantumdetector"
    if start.lstrip().startswith(b"<") and b"<raw_file" in path.read_bytes()[: 2**20]:
        return "empad"
    version, order = int.from_bytes(start[:4], "big"), None
    if version in DM_VERSIONS:
        # After the length of the file, in four bytes or eight, follows the order of bytes.
        offset = 8 if version == 3 else 12
        order = int.from_bytes(start[offset : offset + 4], "big")
    return "digitalmicrograph" if order in (0, 1) and len(start) > 16 else None


def _hdf5_reader(path: Path) -> str | None:
    with open_hdf5(path) as file:
        if to_text(file.attrs.get("file_format", "")) == "HyperSpy":
            return "hspy"
        if "4DSTEM_experiment" in file or "emd_group_type" in file.attrs:
            return "emd"
        roots = (file.get(name) for name in file)
        return "emd" if any(root is not None and "emd_group_type" in root.attrs for root in roots) else None


def read_stem(path: Path) -> dict[str, Any]:
    """Read a 4D-STEM data set.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`: `scan_shape` and `scan_step_m` of the raster instead of
        positions, and `frequency_per_pixel` or `angle_per_pixel` of the detector if it is calibrated.

    Raises
    ------
    ScanError
        The data are not four-dimensional, or a unit is impossible.
    """
    name = _reader_name(path)
    if name == "zspy":
        data, axes, metadata = _read_zspy(path)
    else:
        data, axes, metadata = _read_with_rosettasciio(path, str(name))
    navigation = [axis for axis in axes if axis.get("navigate")]
    signal = [axis for axis in axes if not axis.get("navigate")]
    if len(axes) == data.ndim and len(signal) != 2:
        # Not every format says which axes are those of the raster: they come first.
        navigation, signal = list(axes[:-2]), list(axes[-2:])
    order = [axes.index(axis) for axis in (*navigation, *signal)]
    if data.ndim not in (3, 4) or len(order) != data.ndim:
        raise ScanError(f"{path} holds data of the shape {data.shape}; expected (y, x, qy, qx) of 4D-STEM")
    found: dict[str, Any] = {"source": path.name, "radiation": ELECTRON}
    data = data.transpose(order)
    found["intensity"] = _flatten_frames(data)
    if len(navigation) == 2:
        found["scan_shape"] = tuple(int(n) for n in data.shape[:2])
        step = _axis_scales(navigation, "length", "the step of the scan")
        if step is not None:
            found["scan_step_m"] = step
    found |= _detector_calibration(signal)
    energy = _look_up(metadata, "Acquisition_instrument", "TEM", "beam_energy")
    if energy is not None and float(energy) > 0:
        found["energy_eV"] = 1e3 * float(energy)
    return found


def _read_with_rosettasciio(path: Path, name: str) -> tuple[Any, list[dict[str, Any]], Mapping[str, Any]]:
    """The largest data set of a file as a dask array, with its axes and its metadata."""
    reader = import_extra(f"rsciio.{name}")
    options: dict[str, Any] = {"lazy": True}
    if name == "emd":
        options["stack_group"] = False
    source = path.with_suffix(".mib") if path.suffix.lower() == ".hdr" else path
    try:
        with dask.config.set({"array.chunk-size": BLOCK}):
            contents = reader.file_reader(str(source), **options)
    except Exception as error:  # the readers raise all kinds of errors at damaged files
        raise ScanError(f"{path} cannot be read by RosettaSciIO's {name}: {error}") from error
    fitting = [content for content in contents if content["data"].ndim in (3, 4)]
    if not fitting:
        shapes = ", ".join(str(content["data"].shape) for content in contents) or "nothing"
        raise ScanError(f"{path} holds {shapes}; expected four-dimensional data (y, x, qy, qx)")
    largest = max(fitting, key=lambda content: content["data"].size)
    axes = sorted(largest["axes"], key=lambda axis: axis.get("index_in_array", largest["axes"].index(axis)))
    return da.asarray(largest["data"]), axes, largest.get("metadata", {})


def _list_experiments(path: Path) -> list[str]:
    """Names of the experiments in a store of HyperSpy; none for any other store."""
    from zarr import open_group

    with closing(_open_store(path)) as store:
        try:
            group: Any = open_group(store, mode="r")
            return sorted(group["Experiments"].group_keys())
        except PermissionError:
            raise
        # No store, a store of another program, or a damaged one.
        except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile):
            return []


def _open_store(path: Path) -> Any:
    """Open a store for reading; the caller closes it."""
    from zarr.storage import LocalStore, ZipStore

    return LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")


def _read_zspy(path: Path) -> tuple[Any, list[dict[str, Any]], Mapping[str, Any]]:
    """Read HyperSpy's layout in Zarr directly: RosettaSciIO's own reader needs version 2 of zarr-python."""
    from zarr import open_group

    name = _list_experiments(path)[0]
    # The store stays open: the frames are read from it, block by block.
    group: Any = open_group(_open_store(path), mode="r")
    experiment = group["Experiments"][name]
    data = da.from_zarr(experiment["data"])
    axes = [dict(experiment[f"axis-{number}"].attrs) for number in range(data.ndim)]
    metadata = _nested_attributes(experiment["metadata"]) if "metadata" in experiment else {}
    return data, axes, metadata


def _nested_attributes(group: Any) -> dict[str, Any]:
    """Attributes of nested groups as nested dictionaries, without the prefix of HyperSpy."""
    found = {key: json.loads(json.dumps(value)) for key, value in group.attrs.items()}
    return found | {key.removeprefix("_sig_"): _nested_attributes(group[key]) for key in group.group_keys()}


def _flatten_frames(data: Any) -> LazyFrames:
    """The frames of an array of three or four dimensions, in one sequence."""
    flat = data.reshape((-1, *data.shape[-2:]))

    def read(numbers: NDArray[np.int64]) -> NDArray[Any]:
        # In this process, since workers on other machines may not see the file.
        return np.asarray(flat[numbers].compute(scheduler="threads"))

    frames, height, width = (int(n) for n in flat.shape)
    return LazyFrames((frames, height, width), flat.dtype, read)


def _axis_scales(axes: Sequence[Mapping[str, Any]], kind: str, what: str) -> tuple[float, float] | None:
    """Scales of two axes in SI; None if they are not calibrated."""
    units = [str(axis.get("units") or "").strip() for axis in axes]
    if any(unit.lower() in UNCALIBRATED for unit in units):
        return None
    scales = [abs(float(axis.get("scale", 1.0))) for axis in axes]
    y, x = (float(to_si(scale, unit, kind, what)) for scale, unit in zip(scales, units, strict=True))
    return y, x


def _detector_calibration(signal: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The angle (rad) or the spatial frequency (1/m) of a detector pixel, if the axes are calibrated."""
    unit = str(signal[0].get("units") or "").strip()
    if unit.lower() in UNCALIBRATED:
        return {}
    what = "the scale of the detector"
    if unit in ("mrad", "rad", "µrad", "μrad", "urad", "deg", "degree", "°"):
        return {"angle_per_pixel": _axis_scales(signal, "angle", what)}
    return {"frequency_per_pixel": _axis_scales(signal, "reciprocal length", what)}


def _look_up(metadata: Any, *keys: str) -> Any:
    """An entry of nested dictionaries; None if it is absent."""
    for key in keys:
        if not isinstance(metadata, Mapping) or key not in metadata:
            return None
        metadata = metadata[key]
    return metadata
