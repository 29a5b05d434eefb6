"""NeXus files: NXptycho (NXcxi_ptycho) and NXmx. Groups are found by their class and not by their name.

The master files of Dectris detectors (EIGER, ARINA) are read too: their frames lie in linked files
``data_000001`` and so on, compressed with bitshuffle and LZ4. `laboratory` explains the axes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.cxi import mask_to_valid
from daskptycho.formats.hdf5_file import (
    create_hdf5,
    is_hdf5,
    open_hdf5,
    open_hdf5_frames,
    read_quantity,
    to_text,
    walk,
)
from daskptycho.formats.laboratory import DEFAULT_DIRECTIONS, beam_positions
from daskptycho.formats.units import is_pixels
from daskptycho.scan.optics import ELECTRON

__all__ = ["is_nexus", "read_nexus", "write_nexus"]

DEFINITIONS = ("NXptycho", "NXcxi_ptycho", "NXmx")
LINKED_DATA = re.compile(r"data_\d+")

# Where the energy of the beam may be: class of the group, name of the field, kind of unit, argument of
# `create_scan`. The energy of an NXsource is that of the machine.
ENERGIES = (
    ("NXbeam", "incident_energy", "energy", "energy_eV"),
    ("NXbeam", "incident_beam_energy", "energy", "energy_eV"),
    ("NXbeam", "energy", "energy", "energy_eV"),
    ("NXbeam", "incident_wavelength", "length", "wavelength_m"),
    ("NXmonochromator", "energy", "energy", "energy_eV"),
    ("NXmonochromator", "wavelength", "length", "wavelength_m"),
)
DEFAULT_UNITS = {"energy": "eV", "length": "m"}
ELECTRON_NAMES = ("electron", "electrons")


def is_nexus(path: Path) -> bool:
    """Whether a file is HDF5 with an entry of NXptycho or NXmx, or a master file of Dectris."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return any(_is_supported(entry) for entry in _entries(file))


def _entries(file: Any) -> Iterator[Any]:
    for name in file:
        item = file.get(name)
        if hasattr(item, "keys") and (
            to_text(item.attrs.get("NX_class", "")) == "NXentry" or name == "entry"
        ):
            yield item


def _is_supported(entry: Any) -> bool:
    definition = to_text(entry["definition"][()]) if "definition" in entry else ""
    data = entry.get("data")
    return definition in DEFINITIONS or (hasattr(data, "keys") and any(map(LINKED_DATA.fullmatch, data)))


def read_nexus(path: Path) -> dict[str, Any]:
    """Read the first supported entry of a NeXus file.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`; without `position` if the file has none, like those that
        detectors write.

    Raises
    ------
    ScanError
        The file has no frames, or a number has an impossible unit.
    """
    with open_hdf5(path) as file:
        entry = next(entry for entry in _entries(file) if _is_supported(entry))
        detectors = list(_groups_of_class(entry, "NXdetector"))
        detector = next(
            (item for item in detectors if _frames_dataset(item)), detectors[0] if detectors else None
        )
        found: dict[str, Any] = {"source": path.name}
        names = _find_frames(entry, detector)
        if not names:
            raise ScanError(f"{entry.name} of {path} has no detector with data; expected its frames")
        if detector is not None:
            found |= _read_detector(detector)
        found |= _read_energy(entry)
        frames = open_hdf5_frames(path, names)
        shape = frames.shape if len(names) > 1 else tuple(int(n) for n in file[names[0]].shape)
        directions = DEFAULT_DIRECTIONS if detector is None else _read_directions(detector)
        position = _read_positions(entry, detector, directions, shape)
        if position is not None:
            found |= {"position": position, "position_unit": "m"}
        elif len(shape) == 4:
            found["scan_shape"] = shape[:2]
    found["intensity"] = frames
    if position is not None and len(position) != len(frames):
        raise ScanError(
            f"{path} has {len(frames)} frames and {len(position)} positions; expected one for each frame"
        )
    return found


def _groups_of_class(group: Any, name: str) -> Iterator[Any]:
    for _, item in walk(group, lambda _, item: to_text(item.attrs.get("NX_class", "")) == name):
        yield item


def _frames_dataset(detector: Any) -> str | None:
    item = detector.get("data")
    return item.name if item is not None and getattr(item, "ndim", 0) >= 3 else None


def _find_frames(entry: Any, detector: Any) -> list[str]:
    """Names of the datasets that hold the frames, in their order."""
    data = entry.get("data")
    if data is not None and hasattr(data, "keys"):
        parts = sorted(name for name in data if LINKED_DATA.fullmatch(name))
        missing = [name for name in parts if data.get(name) is None]
        if missing:
            raise ScanError(f"{missing[0]} of {data.name} is a link to a missing file; copy that file too")
        if parts:
            return [f"{data.name}/{name}" for name in parts]
    dataset = None if detector is None else _frames_dataset(detector)
    if dataset is not None:
        return [dataset]
    groups = _groups_of_class(entry, "NXdata")
    signals = ((group, to_text(group.attrs.get("signal", "data"))) for group in groups)
    named = [group[name].name for group, name in signals if getattr(group.get(name), "ndim", 0) >= 3]
    return named[:1]


def _read_detector(detector: Any) -> dict[str, Any]:
    """Geometry and mask of a detector."""
    found: dict[str, Any] = {}
    distance = detector.get("distance", detector.get("detector_distance"))
    if distance is not None:
        found["detector_distance_m"] = _read_scalar(distance, "length")
    sizes = [detector.get(f"{axis}_pixel_size") for axis in ("y", "x")]
    if all(size is not None for size in sizes):
        found["detector_pixel_size_m"] = tuple(_read_scalar(size, "length") for size in sizes)
    centre = [detector.get(f"beam_center_{axis}") for axis in ("y", "x")]
    if all(item is not None for item in centre):
        found["centre"] = _read_centre(centre, found.get("detector_pixel_size_m"))
    mask = next(
        (item for _, item in walk(detector, lambda name, _: name in ("pixel_mask", "pixel_mask_1"), depth=1)),
        None,
    )
    if mask is not None:
        found["valid"] = mask_to_valid(mask, np.uint32(0xFFFFFFFF))
    return found


def _read_centre(items: list[Any], pixel: tuple[float, float] | None) -> tuple[float, float]:
    """[y, x] of the beam in pixels, counted from the middle of the first pixel."""
    values = []
    for axis, item in enumerate(items):
        unit = item.attrs.get("units", "pixel")
        if is_pixels(unit):
            values.append(float(np.ravel(item[()])[0]))
        elif pixel is None:
            raise ScanError(
                f"{item.name} is in {to_text(unit)}, but the size of the detector pixels is unknown; "
                "expected pixels, or x_pixel_size and y_pixel_size of the detector"
            )
        else:
            values.append(_read_scalar(item, "length") / pixel[axis])
    return values[0], values[1]


def _read_scalar(item: Any, kind: str) -> float:
    if "units" not in item.attrs:
        warnings.warn(
            f"{item.name} has no unit; taken to be in {DEFAULT_UNITS[kind]}", UserWarning, stacklevel=4
        )
    return float(read_quantity(item, kind, item.name, DEFAULT_UNITS[kind]).ravel()[0])


def _read_energy(entry: Any) -> dict[str, Any]:
    for group_class, field, kind, argument in ENERGIES:
        for group in _groups_of_class(entry, group_class):
            if field in group and group[field].dtype.kind in "iuf":
                return {argument: _read_scalar(group[field], kind)} | _read_radiation(entry)
    for _, item in walk(
        entry, lambda name, item: name in ("photon_energy", "incident_wavelength") and hasattr(item, "dtype")
    ):
        if item.name.endswith("photon_energy"):
            return {"energy_eV": _read_scalar(item, "energy")}
        return {"wavelength_m": _read_scalar(item, "length")}
    return {}


def _read_radiation(entry: Any) -> dict[str, str]:
    for source in _groups_of_class(entry, "NXsource"):
        if "probe" in source and source["probe"].dtype.kind in "SO":
            name = to_text(source["probe"][()]).strip().lower()
            return {"radiation": ELECTRON} if name in ELECTRON_NAMES else {}
    return {}


def _read_directions(detector: Any) -> Any:
    """Vectors to the next row and to the next pixel, of the first module that has them."""
    for module in [detector, *_groups_of_class(detector, "NXdetector_module")]:
        fields = [module.get(f"{speed}_pixel_direction") for speed in ("slow", "fast")]
        if all(field is not None and "vector" in field.attrs for field in fields):
            return np.array([np.asarray(field.attrs["vector"], dtype=float).ravel() for field in fields])
    return DEFAULT_DIRECTIONS


def _read_positions(
    entry: Any, detector: Any, directions: Any, shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """[y, x] of the beam on the sample, from motors of the sample or from a list of translations."""
    sample = _read_motors(entry, shape)
    if sample is None:
        candidates = [f"{group.name}/translation" for group in (detector,) if group is not None]
        candidates += [item.name for _, item in walk(entry, lambda name, _: name == "translation", depth=3)]
        root = entry.file
        for name in candidates:
            item = root.get(name)
            if item is not None and getattr(item, "ndim", 0) >= 2 and item.shape[-1] in (2, 3):
                sample = _read_translations(item).reshape(-1, item.shape[-1])
                break
    return None if sample is None else beam_positions(sample, directions)


def _read_translations(item: Any) -> NDArray[np.float64]:
    if "units" not in item.attrs:
        warnings.warn(f"{item.name} has no unit; taken to be in m", UserWarning, stacklevel=5)
    return read_quantity(item, "length", item.name, "m")


def _read_motors(entry: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Translations of the sample, (frame, 3): the sum over its motors, each along its own vector."""
    total: NDArray[np.float64] | None = None
    frames = int(np.prod(shape[:-2]))
    for sample in _groups_of_class(entry, "NXsample"):
        motors = [
            item
            for group in _groups_of_class(sample, "NXtransformations")
            for item in group.values()
            if hasattr(item, "dtype")
            and to_text(item.attrs.get("transformation_type", "translation")) == "translation"
            and "vector" in item.attrs
            and item.size > 1
        ]
        for index, motor in enumerate(motors):
            values = _expand_to_frames(_read_translations(motor), shape, index, len(motors), motor.name)
            step = values.reshape(frames, 1) * np.asarray(motor.attrs["vector"], dtype=float).reshape(1, 3)
            total = step if total is None else total + step
        if total is not None:
            return total
    return None


def _expand_to_frames(
    values: NDArray[np.float64], shape: tuple[int, ...], index: int, motors: int, name: str
) -> NDArray[np.float64]:
    """The value of a motor at each frame, from one for each frame, or for each row or column of a raster."""
    scan = shape[:-2]
    if values.size == int(np.prod(scan)):
        return values.ravel()
    if len(scan) == 2 and values.ndim == 1 and motors == 2:
        lengths = [axis for axis, length in enumerate(scan) if length == values.size]
        if lengths:
            # In a square raster the first motor is taken to be the slow one.
            axis = lengths[0] if len(lengths) == 1 else index
            return np.broadcast_to(values[:, None] if axis == 0 else values, scan).ravel()
    raise ScanError(
        f"{name} has the shape {values.shape} for a scan of {scan}; expected one value for each frame"
    )


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
