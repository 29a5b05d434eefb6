"""Plain HDF5: arrays under their usual names or under given keys; and results written as datasets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.array_names import drop_leading_ones, not_found_error
from daskptycho.formats.hdf5_file import (
    create_hdf5,
    open_hdf5,
    open_hdf5_frames,
    read_quantity,
    to_text,
    walk,
)
from daskptycho.formats.units import is_pixels

__all__ = ["read_hdf5", "write_hdf5"]

# Usual names, the last part of the path in lower case; a plus joins the two columns of positions. A mask is
# not guessed: in some files True means valid, in others bad.
USUAL_KEYS: Mapping[str, tuple[str, ...]] = {
    "intensity": (
        "intensity",
        "intensities",
        "diffraction",
        "frames",
        "dp",
        "diffamp",
        "data",
    ),
    "position": (
        "position",
        "positions",
        "probe_positions",
        "translation",
        "scan",
        "probe_position_y_m+probe_position_x_m",
        "position_y+position_x",
        "y+x",
    ),
    "probe": ("probe", "probe_guess", "probe_initial"),
    "valid": (),
    "background": ("background", "dark"),
}
# Numbers by the names of their arguments: the kind of unit, and the unit of one that names none.
NUMBERS = {
    "energy_eV": ("energy", "eV"),
    "wavelength_m": ("length", "m"),
    "detector_distance_m": ("length", "m"),
    "detector_pixel_size_m": ("length", "m"),
    "source_distance_m": ("length", "m"),
    "pixel_size_m": ("length", "m"),
}
# Other usual names of numbers.
LOOSE_NAMES = {
    "energy": "energy_eV",
    "photon_energy": "energy_eV",
    "wavelength": "wavelength_m",
    "lambda": "wavelength_m",
    "distance": "detector_distance_m",
    "detector_distance": "detector_distance_m",
    "pixel_size": "detector_pixel_size_m",
    "detector_pixel_size": "detector_pixel_size_m",
}


def read_hdf5(
    path: Path,
    *,
    intensity_key: str | None = None,
    position_key: str | None = None,
    probe_key: str | None = None,
    valid_key: str | None = None,
    background_key: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read a scan from datasets of an HDF5 file.

    Parameters
    ----------
    path : Path
    intensity_key, position_key, probe_key, valid_key, background_key : str, optional
        Paths of the datasets. Two paths with a plus between them are the two columns of the positions.
        Without a path a dataset is looked for under its usual names, except for `valid`, which has to be True
        where the detector counts.
    keys : mapping, optional
        Paths of numbers by name, such as ``{"energy_eV": "/beam/energy"}``. Their units are read too.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        A dataset is missing or has another shape than expected, or a unit is impossible.
    OptionError
        `keys` has a name that no number of a scan has.
    """
    arrays = {
        "intensity": intensity_key,
        "position": position_key,
        "probe": probe_key,
        "valid": valid_key,
        "background": background_key,
    }
    for name in keys or {}:
        if name not in NUMBERS:
            raise OptionError(f"a key is given for {name!r}; expected one of {', '.join(NUMBERS)}")
    found: dict[str, Any] = {"source": path.name}
    with open_hdf5(path) as file:
        datasets = dict(walk(file, lambda _, item: hasattr(item, "dtype")))
        names = {name: _find_key(path, datasets, name, key) for name, key in arrays.items()}
        assert names["intensity"] is not None
        if names["position"] is not None:
            found |= _read_positions(file, names["position"])
        for name in ("probe", "valid", "background"):
            if names[name] is not None:
                found[name] = _read_array(file[names[name]], 3 if name == "probe" else 2, name)
        found |= _read_numbers(path, file, datasets, keys or {})
    if "valid" in found:
        found["valid"] = found["valid"].astype(bool)
    found["intensity"] = open_hdf5_frames(path, [names["intensity"]])
    return found


def _find_key(path: Path, datasets: Mapping[str, Any], name: str, key: str | None) -> str | None:
    """The path of a variable's dataset, or two joined by a plus; None for an optional one that is absent."""
    if key is not None:
        parts = [part if part.startswith("/") else f"/{part}" for part in key.split("+")]
        if all(part in datasets for part in parts):
            return "+".join(parts)
    else:
        by_tail: dict[str, str] = {}
        # Of several datasets of one name, the least nested one is taken.
        for path_inside in sorted(datasets, key=lambda inside: (-inside.count("/"), inside)):
            if name != "intensity" or datasets[path_inside].ndim >= 3:
                by_tail[path_inside.rsplit("/", 1)[-1].lower()] = path_inside
        for usual in USUAL_KEYS[name]:
            parts = usual.split("+")
            if all(part in by_tail for part in parts):
                return "+".join(by_tail[part] for part in parts)
        if name != "intensity":
            return None
    raise not_found_error(path, name, key, USUAL_KEYS[name], dict(list(datasets.items())[:20]))


def _read_positions(file: Any, name: str) -> dict[str, Any]:
    """Positions, (frame, 2), and their unit if they name one."""
    parts = [file[part] for part in name.split("+")]
    units = [to_text(part.attrs["units"]).strip() for part in parts if "units" in part.attrs]
    if units and all(map(is_pixels, units)):
        columns, unit = [np.asarray(part[()], dtype=float) for part in parts], "pixel"
    elif units:
        columns, unit = [read_quantity(part, "length", part.name) for part in parts], "m"
    else:
        columns, unit = [np.asarray(part[()], dtype=float) for part in parts], None
    if len(columns) == 2:
        position = np.column_stack([column.ravel() for column in columns])
    else:
        position = columns[0].reshape(-1, columns[0].shape[-1])
        if position.shape[1] != 2 and columns[0].shape[0] == 2:
            position = columns[0].reshape(2, -1).T
    return {"position": position} | ({} if unit is None else {"position_unit": unit})


def _read_array(item: Any, dimensions: int, name: str) -> NDArray[Any]:
    """An array of at most this number of dimensions."""
    array = np.asarray(item[()])
    # Some languages store complex numbers as pairs of fields.
    if array.dtype.names is not None and len(array.dtype.names) == 2:
        real, imaginary = (array[field] for field in array.dtype.names)
        array = real + 1j * imaginary
    array = drop_leading_ones(array, dimensions)
    if array.ndim > dimensions:
        raise ScanError(f"{name} ({item.name}) has the shape {item.shape}; expected {dimensions} dimensions")
    return array


def _read_numbers(
    path: Path, file: Any, datasets: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, Any]:
    """Energy, distances, pixel sizes: by key, by the name of the argument, or by a usual name with a unit."""
    found: dict[str, Any] = {}
    for name, (kind, unit) in NUMBERS.items():
        if name in keys:
            if keys[name] not in file:
                raise ScanError(f"{keys[name]} is not in {path}; expected the {name} there")
            found[name] = _read_value(file[keys[name]], kind, unit)
        elif name in file.attrs:
            found[name] = _to_number(np.asarray(file.attrs[name], dtype=float))
        else:
            named = [item for inside, item in datasets.items() if inside.rsplit("/", 1)[-1] == name]
            if named:
                found[name] = _read_value(named[0], kind, unit)
    for inside, item in datasets.items():
        name = LOOSE_NAMES.get(inside.rsplit("/", 1)[-1].lower(), "")
        # A usual name is not enough: without a unit the number may be anything.
        if name and name not in found and "units" in item.attrs and item.size in (1, 2):
            found[name] = _read_value(item, *NUMBERS[name])
    if "energy_eV" in found:
        found.pop("wavelength_m", None)
    return found


def _read_value(item: Any, kind: str, unit: str) -> Any:
    return _to_number(read_quantity(item, kind, item.name, unit))


def _to_number(value: NDArray[np.float64]) -> Any:
    flat = value.ravel()
    return float(flat[0]) if flat.size == 1 else (float(flat[0]), float(flat[1]))


def write_hdf5(result: xr.Dataset, path: Path) -> None:
    """Write the variables of a result as datasets of a new HDF5 file, with dimensions and attributes."""
    with create_hdf5(path) as file:
        for name, value in result.attrs.items():
            file.attrs[name] = value
        for name, variable in result.variables.items():
            dataset = file.create_dataset(str(name), data=variable.values)
            for key, value in variable.attrs.items():
                dataset.attrs[key] = value
        for name, variable in result.variables.items():
            for axis, dimension in enumerate(variable.dims):
                file[str(name)].dims[axis].label = str(dimension)
                if dimension in result.coords and name != dimension:
                    if not file[str(dimension)].is_scale:
                        file[str(dimension)].make_scale(str(dimension))
                    file[str(name)].dims[axis].attach_scale(file[str(dimension)])
