"""CXI files (cxidb.org): SI units, energies in joules, links, masks of bits, basis vectors.

A CXI file stores translations of the sample; `laboratory` turns them into positions of the beam.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.hdf5 import hdf5_arrays
from daskptycho.formats.hdf5_file import (
    broken_link,
    child,
    identity,
    is_dataset,
    is_hdf5,
    open_hdf5,
    open_hdf5_frames,
    read_array,
    require_whole,
    walk,
)
from daskptycho.formats.laboratory import DEFAULT_DIRECTIONS, beam_centre, beam_positions
from daskptycho.formats.offers import (
    NO_KEYS,
    Keys,
    Offer,
    Unreadable,
    describe,
    number_offer,
    real_numbers,
    take,
)
from daskptycho.formats.positions import Positions
from daskptycho.formats.units import to_si, unit_of

__all__ = ["ENTRY", "is_cxi", "mask_to_valid", "read_cxi"]

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"

# Bits of the mask that do not make a pixel bad: it lies in the mask of a peak, it has signal above the
# background.
HARMLESS_BITS = 0x00000020 | 0x00001000


def is_cxi(path: Path) -> bool:
    """Whether a file is HDF5 with the version of CXI, or with the names that CXI prescribes."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return child(file, "cxi_version") is not None or child(file, DETECTOR) is not None


def read_cxi(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read the first entry of a CXI file.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        The file has no frames.
    """
    with open_hdf5(path) as file:
        arrays = hdf5_arrays(file, path)
        stacks = _list_stacks(file, path)
        if keys.intensity_key is not None:
            where, array = arrays.find("intensity", keys.intensity_key)
            stacks.insert(0, (where, array))
        if not stacks:
            raise ScanError(f"{path} has no {ENTRY}/data_1/data; expected the frames of a CXI file there")
        where, array = stacks[0]
        shape = tuple(int(n) for n in array.shape)
        frames = open_hdf5_frames(path, [where])
        basis = _read_basis(file)
        offers = _geometry_offers(file, basis) | _array_offers(file, basis, shape)
        named = arrays.named_offers(keys, shape)
        offers = {name: [*named.get(name, ()), *offers.get(name, ())] for name in offers | named}
        offers["intensity"] = [Offer(name, describe(item), lambda: where) for name, item in stacks]
        found, account = take(offers, keys, path.name)
        found |= _read_corner(file, basis, found)
    return found | {"intensity": frames, "account": account, "source": path.name}


def _dataset(file: Any, name: str) -> Any:
    """A dataset of numbers, None if there is none; broken links do not count."""
    item = child(file, name)
    return item if is_dataset(item) and item.dtype.kind in "biufc" and item.size else None


def _list_stacks(file: Any, path: Path) -> list[tuple[str, Any]]:
    """Paths and datasets that may be the frames, those of data_1 first."""
    found = []
    for name in (f"{ENTRY}/data_1/data", f"{DETECTOR}/data"):
        group, _, last = name.rpartition("/")
        parent = child(file, group)
        item = _dataset(file, name)
        if item is None and hasattr(parent, "keys") and last in list(parent) and child(parent, last) is None:
            raise ScanError(f"{name} of {path} {broken_link(parent, last)}")
        found.append((f"/{name}", item))
    found += walk(file, lambda name, item: name == "data" and is_dataset(item))
    seen, stacks = set(), []
    for where, item in found:
        is_stack = item is not None and len(item.shape) >= 3 and item.dtype.kind in "iuf"
        if is_stack and identity(item) not in seen:
            seen.add(identity(item))
            stacks.append((where, item))
    return stacks


def _geometry_offers(file: Any, basis: NDArray[np.float64] | None) -> dict[str, list[Offer]]:
    """Distance, pixel size, energy and wavelength; all in SI where they name no unit.

    In NXcxi_ptycho the energy of the beam is in beam_1, and source_1 has that of the machine.
    """
    instrument = f"{ENTRY}/instrument_1"
    beam = [f"{instrument}/beam_1/energy", f"{instrument}/beam_1/incident_beam_energy"]
    energies = [name for name in beam if _dataset(file, name) is not None] or [
        f"{instrument}/source_1/energy"
    ]
    named = {
        "energy_eV": (energies, "J"),
        "wavelength_m": ([f"{instrument}/beam_1/wavelength", f"{instrument}/source_1/wavelength"], "m"),
        "detector_distance_m": ([f"{DETECTOR}/distance"], "m"),
    }
    offers = {
        name: [
            number_offer(f"/{where}", item, name, unit=unit, read=read_array)
            for where in places
            if (item := _dataset(file, where)) is not None
        ]
        for name, (places, unit) in named.items()
    }
    sizes = {axis: _dataset(file, f"{DETECTOR}/{axis}_pixel_size") for axis in "yx"}
    present = {axis: item for axis, item in sizes.items() if item is not None}
    if present:
        parts = {
            axis: number_offer(
                f"/{DETECTOR}/{axis}_pixel_size", item, "detector_pixel_size_m", read=read_array
            )
            for axis, item in present.items()
        }

        def read_sizes() -> tuple[float, float]:
            values = {axis: float(np.ravel(offer.read())[0]) for axis, offer in parts.items()}
            return values.get("y", values.get("x", 0.0)), values.get("x", values.get("y", 0.0))

        where, said = (f" {word} ".join(text) for word, text in _both(parts))
        offers["detector_pixel_size_m"] = [Offer(where, said, read_sizes)]
    elif basis is not None:
        y, x = (float(size) for size in np.linalg.norm(basis, axis=1))
        offers["detector_pixel_size_m"] = [
            Offer(f"/{DETECTOR}/basis_vectors", f"{y:.6g} x {x:.6g} m", lambda: (y, x))
        ]
    return offers


def _both(parts: Mapping[str, Offer]) -> list[tuple[str, list[str]]]:
    return [
        ("and", [offer.where for offer in parts.values()]),
        ("x", [offer.said for offer in parts.values()]),
    ]


def _array_offers(
    file: Any, basis: NDArray[np.float64] | None, shape: tuple[int, ...]
) -> dict[str, list[Offer]]:
    """Translations, mask, probe and dark frames."""
    directions = DEFAULT_DIRECTIONS if basis is None else basis

    def positions(where: str, item: Any) -> Positions:
        numbers = real_numbers(read_array(item), where)
        sample = to_si(numbers.reshape(-1, numbers.shape[-1]), unit_of(item.attrs) or "m", "length", where)
        return Positions(beam_positions(sample, directions), "m")

    def probe(item: Any) -> NDArray[Any]:
        values = read_array(item)
        return values.reshape(-1, *values.shape[-2:])

    places = {
        "position": (
            f"{ENTRY}/data_1/translation",
            f"{ENTRY}/sample_1/geometry_1/translation",
            f"{DETECTOR}/translation",
        ),
        "valid": (f"{DETECTOR}/mask",),
        "probe": (f"{ENTRY}/sample_1/probe", f"{ENTRY}/instrument_1/source_1/illumination"),
        "background": (f"{DETECTOR}/data_dark",),
    }
    read = {
        "position": positions,
        "valid": lambda where, item: mask_to_valid(item, ~np.uint32(HARMLESS_BITS)),
        "probe": lambda where, item: probe(item),
        "background": lambda where, item: read_array(item),
    }
    fits = {
        "position": lambda item: item.dtype.kind in "iuf" and len(item.shape) >= 2,
        "valid": lambda item: item.dtype.kind in "biu" and item.shape[-2:] == shape[-2:],
        "probe": lambda item: item.dtype.kind == "c" and item.shape[-2:] == shape[-2:],
        "background": lambda item: item.shape[-2:] == shape[-2:],
    }
    offers: dict[str, list[Offer]] = {}
    for name, wheres in places.items():
        seen = set()
        for where in wheres:
            item = _dataset(file, where)
            if item is None or identity(item) in seen:
                continue
            seen.add(identity(item))
            on_demand = name == "background" or not fits[name](item)
            unit = f", {unit_of(item.attrs) or 'm'}, of the sample" if name == "position" else ""
            reading = partial(read[name], f"/{where}", item)
            offers.setdefault(name, []).append(Offer(f"/{where}", describe(item) + unit, reading, on_demand))
    return offers


def _read_corner(file: Any, basis: NDArray[np.float64] | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """The centre, and the distance if there is no other, from the position of the detector's corner."""
    item = _dataset(file, f"{DETECTOR}/corner_position")
    pixel = found.get("detector_pixel_size_m")
    if item is None or pixel is None or isinstance(pixel, Unreadable):
        return {}
    where = item.name
    numbers = np.atleast_2d(real_numbers(read_array(item), where))
    position = to_si(numbers, unit_of(item.attrs) or "m", "length", where)[0]
    if position.shape != (3,):
        raise ScanError(f"{where} has the shape {item.shape}; expected x, y and z")
    steps = np.asarray(DEFAULT_DIRECTIONS if basis is None else basis)
    steps = steps / np.linalg.norm(steps, axis=1, keepdims=True) * np.reshape(pixel, (2, 1))
    distance = {} if "detector_distance_m" in found else {"detector_distance_m": abs(float(position[2]))}
    return {"centre": beam_centre(position, steps), **distance}


def _read_basis(file: Any) -> NDArray[np.float64] | None:
    """Vectors to the next row and to the next pixel, (2, 3) in metres; None if the file has none."""
    item = _dataset(file, f"{DETECTOR}/basis_vectors")
    if item is None:
        return None
    basis = real_numbers(read_array(item), item.name)
    while basis.ndim > 2:
        basis = basis[0]
    # Some programs write the two vectors as columns.
    if basis.shape == (3, 2):
        basis = basis.T
    if basis.shape != (2, 3) or not np.isfinite(basis).all() or not np.linalg.norm(basis, axis=1).all():
        raise ScanError(f"{item.name} has the shape {item.shape}; expected two vectors (x, y, z)")
    return basis


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
    if mask.dtype.kind not in "biu" or mask.ndim < 2:
        raise ScanError(f"{mask.name} is {mask.dtype} of the shape {mask.shape}; expected bits of a mask")
    require_whole(mask)
    if mask.ndim == 2:
        return (mask[()].astype(np.int64).astype(np.uint32) & bad) == 0
    valid = np.ones(mask.shape[-2:], dtype=bool)
    for index in np.ndindex(mask.shape[:-2]):
        valid &= (mask[index].astype(np.int64).astype(np.uint32) & bad) == 0
    return valid
