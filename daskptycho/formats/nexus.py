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
from daskptycho.formats.hdf5_file import is_hdf5, needed, number, open_hdf5_frames, opened, text, walk
from daskptycho.formats.laboratory import DOWNWARDS, beam_positions
from daskptycho.formats.units import is_pixels

__all__ = ["is_nexus", "read_nexus", "write_nexus"]

DEFINITIONS = ("NXptycho", "NXcxi_ptycho", "NXmx")
PARTS = re.compile(r"data_\d+")

# Where the energy of the beam may stand: class of the group, name of the field, kind, argument. A source's
# own energy is the machine's.
ENERGIES = (
    ("NXbeam", "incident_energy", "energy", "energy_eV"),
    ("NXbeam", "incident_beam_energy", "energy", "energy_eV"),
    ("NXbeam", "energy", "energy", "energy_eV"),
    ("NXbeam", "incident_wavelength", "length", "wavelength_m"),
    ("NXmonochromator", "energy", "energy", "energy_eV"),
    ("NXmonochromator", "wavelength", "length", "wavelength_m"),
)
DEFAULT_UNITS = {"energy": "eV", "length": "m"}
ENERGY_IN_PARTICLES = {"electron": "electron", "electrons": "electron"}


def is_nexus(path: Path) -> bool:
    """Whether a file is HDF5 with an entry of ptychography or of NXmx, or a Dectris master file."""
    if not is_hdf5(path):
        return False
    with opened(path) as file:
        return any(_is_ours(entry) for entry in _entries(file))


def _entries(file: Any) -> Iterator[Any]:
    for name in file:
        item = file.get(name)
        if hasattr(item, "keys") and (text(item.attrs.get("NX_class", "")) == "NXentry" or name == "entry"):
            yield item


def _is_ours(entry: Any) -> bool:
    definition = text(entry["definition"][()]) if "definition" in entry else ""
    data = entry.get("data")
    return definition in DEFINITIONS or (hasattr(data, "keys") and any(map(PARTS.fullmatch, data)))


def read_nexus(path: Path) -> dict[str, Any]:
    """Read the first fitting entry of a NeXus file.

    Returns
    -------
    dict
        For `arrange.arranged`; without `position` where the file has none, as detectors write them.

    Raises
    ------
    ScanError
        No frames, or a number with a unit that cannot be.
    """
    with opened(path) as file:
        entry = next(entry for entry in _entries(file) if _is_ours(entry))
        detectors = list(_of_class(entry, "NXdetector"))
        detector = next((item for item in detectors if _data_of(item)), detectors[0] if detectors else None)
        found: dict[str, Any] = {"source": path.name}
        names = _frames_of(entry, detector)
        if not names:
            raise ScanError(f"{entry.name} of {path} has no detector with data; expected its frames")
        if detector is not None:
            found |= _detector(detector)
        found |= _energy(entry)
        frames = open_hdf5_frames(path, names)
        shape = frames.shape if len(names) > 1 else tuple(int(n) for n in file[names[0]].shape)
        directions = DOWNWARDS if detector is None else _directions(detector)
        position = _positions(entry, detector, directions, shape)
        if position is not None:
            found |= {"position": position, "position_unit": "m"}
        elif len(shape) == 4:
            found["scan_shape"] = shape[:2]
    found["intensity"] = frames
    if position is not None and len(position) != len(frames):
        raise ScanError(f"{path} has {len(frames)} frames and {len(position)} positions; expected as many")
    return found


def _of_class(group: Any, name: str) -> Iterator[Any]:
    for _, item in walk(group, lambda _, item: text(item.attrs.get("NX_class", "")) == name):
        yield item


def _data_of(detector: Any) -> str | None:
    item = detector.get("data")
    return item.name if item is not None and getattr(item, "ndim", 0) >= 3 else None


def _frames_of(entry: Any, detector: Any) -> list[str]:
    """Names of the datasets that hold the frames, in their order."""
    data = entry.get("data")
    if data is not None and hasattr(data, "keys"):
        parts = sorted(name for name in data if PARTS.fullmatch(name))
        missing = [name for name in parts if data.get(name) is None]
        if missing:
            raise ScanError(f"{missing[0]} of {data.name} is a link to a file that is not there; copy it too")
        if parts:
            return [f"{data.name}/{name}" for name in parts]
    own = None if detector is None else _data_of(detector)
    if own is not None:
        return [own]
    groups = _of_class(entry, "NXdata")
    signals = ((group, text(group.attrs.get("signal", "data"))) for group in groups)
    named = [group[name].name for group, name in signals if getattr(group.get(name), "ndim", 0) >= 3]
    return named[:1]


def _detector(detector: Any) -> dict[str, Any]:
    """Geometry and mask of a detector."""
    found: dict[str, Any] = {}
    distance = detector.get("distance", detector.get("detector_distance"))
    if distance is not None:
        found["detector_distance_m"] = _scalar(distance, "length")
    sizes = [detector.get(f"{axis}_pixel_size") for axis in ("y", "x")]
    if all(size is not None for size in sizes):
        found["detector_pixel_size_m"] = tuple(_scalar(size, "length") for size in sizes)
    centre = [detector.get(f"beam_center_{axis}") for axis in ("y", "x")]
    if all(item is not None for item in centre):
        found["centre"] = _centre(centre, found.get("detector_pixel_size_m"))
    mask = next(
        (item for _, item in walk(detector, lambda name, _: name in ("pixel_mask", "pixel_mask_1"), depth=1)),
        None,
    )
    if mask is not None:
        found["valid"] = mask_to_valid(mask, np.uint32(0xFFFFFFFF))
    return found


def _centre(items: list[Any], pixel: tuple[float, float] | None) -> tuple[float, float]:
    """[y, x] of the beam in pixels counted from the first one's middle."""
    values = []
    for axis, item in enumerate(items):
        unit = item.attrs.get("units", "pixel")
        if is_pixels(unit):
            values.append(float(np.ravel(item[()])[0]))
        elif pixel is None:
            raise ScanError(f"{item.name} is in {text(unit)}, without the size of the detector's pixels")
        else:
            values.append(_scalar(item, "length") / pixel[axis])
    return values[0], values[1]


def _scalar(item: Any, kind: str) -> float:
    if "units" not in item.attrs:
        warnings.warn(
            f"{item.name} has no unit; taken to be in {DEFAULT_UNITS[kind]}", UserWarning, stacklevel=4
        )
    return float(number(item, kind, item.name, DEFAULT_UNITS[kind]).ravel()[0])


def _energy(entry: Any) -> dict[str, Any]:
    for group_class, field, kind, argument in ENERGIES:
        for group in _of_class(entry, group_class):
            if field in group and group[field].dtype.kind in "iuf":
                return {argument: _scalar(group[field], kind)} | _radiation(entry)
    for _, item in walk(
        entry, lambda name, item: name in ("photon_energy", "incident_wavelength") and hasattr(item, "dtype")
    ):
        if item.name.endswith("photon_energy"):
            return {"energy_eV": _scalar(item, "energy")}
        return {"wavelength_m": _scalar(item, "length")}
    return {}


def _radiation(entry: Any) -> dict[str, str]:
    for source in _of_class(entry, "NXsource"):
        if "probe" in source and source["probe"].dtype.kind in "SO":
            kind = ENERGY_IN_PARTICLES.get(text(source["probe"][()]).strip().lower())
            return {} if kind is None else {"radiation": kind}
    return {}


def _directions(detector: Any) -> Any:
    """To the next row and to the next pixel, of the first module that tells."""
    for module in [detector, *_of_class(detector, "NXdetector_module")]:
        fields = [module.get(f"{speed}_pixel_direction") for speed in ("slow", "fast")]
        if all(field is not None and "vector" in field.attrs for field in fields):
            return np.array([np.asarray(field.attrs["vector"], dtype=float).ravel() for field in fields])
    return DOWNWARDS


def _positions(
    entry: Any, detector: Any, directions: Any, shape: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """[y, x] of the beam on the sample from the sample's motors, or from a list of translations."""
    moved = _motors(entry, shape)
    if moved is None:
        candidates = [f"{group.name}/translation" for group in (detector,) if group is not None]
        candidates += [item.name for _, item in walk(entry, lambda name, _: name == "translation", depth=3)]
        root = entry.file
        for name in candidates:
            item = root.get(name)
            if item is not None and getattr(item, "ndim", 0) >= 2 and item.shape[-1] in (2, 3):
                moved = _translations(item).reshape(-1, item.shape[-1])
                break
    return None if moved is None else beam_positions(moved, directions)


def _translations(item: Any) -> NDArray[np.float64]:
    if "units" not in item.attrs:
        warnings.warn(f"{item.name} has no unit; taken to be in m", UserWarning, stacklevel=5)
    return number(item, "length", item.name, "m")


def _motors(entry: Any, shape: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Translations of the sample summed over its motors, each along its own vector."""
    total: NDArray[np.float64] | None = None
    frames = int(np.prod(shape[:-2]))
    for sample in _of_class(entry, "NXsample"):
        motors = [
            item
            for group in _of_class(sample, "NXtransformations")
            for item in group.values()
            if hasattr(item, "dtype")
            and text(item.attrs.get("transformation_type", "translation")) == "translation"
            and "vector" in item.attrs
            and item.size > 1
        ]
        for motor in motors:
            values = _spread(_translations(motor), shape, motors.index(motor), len(motors), motor.name)
            step = values.reshape(frames, 1) * np.asarray(motor.attrs["vector"], dtype=float).reshape(1, 3)
            total = step if total is None else total + step
        if total is not None:
            return total
    return None


def _spread(
    values: NDArray[np.float64], shape: tuple[int, ...], number: int, motors: int, name: str
) -> NDArray[np.float64]:
    """A motor's value for each frame: it has one for each, or one for each row or column of a raster."""
    scan = shape[:-2]
    if values.size == int(np.prod(scan)):
        return values.ravel()
    if len(scan) == 2 and values.ndim == 1 and motors == 2:
        lengths = [axis for axis, length in enumerate(scan) if length == values.size]
        if lengths:
            # Of a square raster the first motor is taken to be the slow one.
            axis = lengths[0] if len(lengths) == 1 else number
            return np.broadcast_to(values[:, None] if axis == 0 else values, scan).ravel()
    raise ScanError(f"{name} has the shape {values.shape} for a scan of {scan}; expected a value a frame")


def write_nexus(result: xr.Dataset, path: Path) -> None:
    """Write a result as NeXus: an NXentry whose default NXdata shows the object's phase.

    Parameters
    ----------
    result : xarray.Dataset
    path : Path
        A new file.
    """
    h5py = needed("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry"})
        entry = _group(file, "entry", "NXentry", default="object_phase")
        entry["title"] = str(result.attrs.get("source", "ptychographic reconstruction"))
        entry["definition"] = "NXptycho"
        process = _group(entry, "process", "NXprocess")
        process["program"] = "daskptycho"
        process["version"] = str(result.attrs.get("version", ""))
        process["options"] = str(result.attrs.get("options", ""))
        image = result["object"].values
        unit = str(result["y"].attrs.get("units", "pixel"))
        shown = {"object_phase": (np.angle(image), "rad"), "object_amplitude": (np.abs(image), "")}
        for name, (values, value_unit) in {**shown, "object": (image, "")}.items():
            data = _group(entry, name, "NXdata", signal="data", axes=["y", "x"])
            data["data"] = values
            data["data"].attrs["units"] = value_unit
            for axis in ("y", "x"):
                data[axis] = result[axis].values
                data[axis].attrs["units"] = unit
                data.attrs[f"{axis}_indices"] = ("y", "x").index(axis)
        probe = _group(entry, "probe", "NXdata", signal="data", axes=["mode", ".", "."])
        probe["data"] = result["probe"].values
        probe["mode"] = np.arange(result.sizes["mode"])
        history = _group(entry, "history", "NXdata", signal="residual", axes=["sweep"])
        history["residual"] = result["residual"].values
        history["sweep"] = result["sweep"].values
        positions = _group(entry, "positions", "NXdata", signal="y", axes=["frame"])
        positions["frame"] = result["frame_number"].values
        for axis, column in zip(("y", "x"), result["position"].values.T, strict=True):
            positions[axis] = column
            positions[axis].attrs["units"] = unit


def _group(parent: Any, name: str, nexus_class: str, **attributes: Any) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    for key, value in attributes.items():
        group.attrs[key] = value
    return group
