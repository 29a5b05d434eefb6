"""CXI files (cxidb.org), read and written: SI units, energies in joules, links, masks of bits, basis vectors.

A CXI file stores translations of the sample; `laboratory` turns them into positions of the beam.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.extras import import_extra
from daskptycho.formats.hdf5_file import create_hdf5, is_hdf5, open_hdf5, open_hdf5_frames, read_quantity
from daskptycho.formats.laboratory import DEFAULT_DIRECTIONS, beam_centre, beam_positions

__all__ = ["is_cxi", "mask_to_valid", "read_cxi", "write_cxi"]

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"
VERSION = 160

# Bits of the mask that do not make a pixel bad: it lies in the mask of a peak, it has signal above the
# background.
HARMLESS_BITS = 0x00000020 | 0x00001000


def is_cxi(path: Path) -> bool:
    """Whether a file is HDF5 with the version of CXI, or with the names that CXI prescribes."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return "cxi_version" in file or DETECTOR in file


def read_cxi(path: Path) -> dict[str, Any]:
    """Read the first entry of a CXI file.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        The file has no frames, or a number has an impossible unit.
    """
    with open_hdf5(path) as file:
        data = _first_present(file, f"{ENTRY}/data_1/data", f"{DETECTOR}/data")
        if data is None:
            raise ScanError(f"{path} has no {ENTRY}/data_1/data; expected the frames of a CXI file there")
        found: dict[str, Any] = {"source": path.name}
        basis = _read_basis(file)
        pixel = _read_pixel_size(file, basis)
        if pixel is not None:
            found["detector_pixel_size_m"] = pixel
        if f"{DETECTOR}/distance" in file:
            found["detector_distance_m"] = _read_scalar(file, f"{DETECTOR}/distance", "length", "m")
        found |= _read_energy(file)
        corner = file.get(f"{DETECTOR}/corner_position")
        if corner is not None and pixel is not None:
            position = np.atleast_2d(read_quantity(corner, "length", corner.name, "m"))[0]
            steps = np.asarray(DEFAULT_DIRECTIONS if basis is None else basis)
            steps = steps / np.linalg.norm(steps, axis=1, keepdims=True) * np.reshape(pixel, (2, 1))
            found["centre"] = beam_centre(position, steps)
            found.setdefault("detector_distance_m", abs(float(position[2])))
        translation = _first_present(
            file,
            f"{ENTRY}/data_1/translation",
            f"{ENTRY}/sample_1/geometry_1/translation",
            f"{DETECTOR}/translation",
        )
        if translation is not None:
            sample = read_quantity(file[translation], "length", translation, "m")
            sample = sample.reshape(-1, sample.shape[-1])
            found["position"] = beam_positions(sample, DEFAULT_DIRECTIONS if basis is None else basis)
            found["position_unit"] = "m"
        mask = file.get(f"{DETECTOR}/mask")
        if mask is not None:
            found["valid"] = mask_to_valid(mask, ~np.uint32(HARMLESS_BITS))
        probe = _first_present(file, f"{ENTRY}/sample_1/probe", f"{ENTRY}/instrument_1/source_1/illumination")
        if probe is not None and file[probe].dtype.kind == "c":
            found["probe"] = file[probe][()]
        dark = file.get(f"{DETECTOR}/data_dark")
        if dark is not None:
            frames = dark[()].astype(np.float64)
            found["background"] = frames.mean(axis=tuple(range(frames.ndim - 2)))
    found["intensity"] = open_hdf5_frames(path, [data])
    return found


def _first_present(file: Any, *names: str) -> str | None:
    """The first of these names that the file has; a broken link does not count."""
    return next((name for name in names if name in file), None)


def _read_basis(file: Any) -> NDArray[np.float64] | None:
    """Vectors to the next row and to the next pixel, (2, 3) in metres; None if the file has none."""
    item = file.get(f"{DETECTOR}/basis_vectors")
    if item is None:
        return None
    basis = np.asarray(item[()], dtype=np.float64)
    while basis.ndim > 2:
        basis = basis[0]
    # Some programs write the two vectors as columns.
    if basis.shape == (3, 2):
        basis = basis.T
    if basis.shape != (2, 3):
        raise ScanError(f"{item.name} has the shape {item.shape}; expected two vectors (x, y, z)")
    return basis


def _read_pixel_size(file: Any, basis: NDArray[np.float64] | None) -> tuple[float, float] | None:
    """Size [y, x] of a detector pixel in metres; None if the file has neither sizes nor vectors."""
    sizes = []
    for axis in ("y", "x"):
        name = f"{DETECTOR}/{axis}_pixel_size"
        sizes.append(_read_scalar(file, name, "length", "m") if name in file else None)
    if sizes[0] is None and sizes[1] is None:
        if basis is None:
            return None
        sizes = [float(size) for size in np.linalg.norm(basis, axis=1)]
    y = sizes[0] if sizes[0] is not None else sizes[1]
    x = sizes[1] if sizes[1] is not None else sizes[0]
    assert y is not None
    assert x is not None
    return y, x


def _read_energy(file: Any) -> dict[str, float]:
    """Energy or wavelength of the beam. In NXcxi_ptycho it is in beam_1, and source_1 has the machine's."""
    instrument = f"{ENTRY}/instrument_1"
    energies = (
        f"{instrument}/beam_1/energy",
        f"{instrument}/beam_1/incident_beam_energy",
        f"{instrument}/source_1/energy",
    )
    name = _first_present(file, *energies)
    if name is not None:
        return {"energy_eV": _read_scalar(file, name, "energy", "J")}
    wavelength = f"{instrument}/source_1/wavelength"
    if wavelength in file:
        return {"wavelength_m": _read_scalar(file, wavelength, "length", "m")}
    return {}


def _read_scalar(file: Any, name: str, kind: str, unit: str) -> float:
    """The first number of a dataset in SI, whose unit is `unit` if it names none."""
    return float(np.ravel(read_quantity(file[name], kind, name, unit))[0])


def mask_to_valid(mask: Any, bad: Any) -> NDArray[np.bool_]:
    """Pixels that have none of the bad bits, in every frame if the mask has frames.

    Parameters
    ----------
    mask : h5py.Dataset
        (qy, qx), or with leading axes for the frames.
    bad : numpy.uint32
        The bits that make a pixel bad.

    Returns
    -------
    (qy, qx) bool array
    """
    if mask.ndim == 2:
        return (mask[()].astype(np.int64).astype(np.uint32) & bad) == 0
    valid = np.ones(mask.shape[-2:], dtype=bool)
    for index in np.ndindex(mask.shape[:-2]):
        valid &= (mask[index].astype(np.int64).astype(np.uint32) & bad) == 0
    return valid


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
