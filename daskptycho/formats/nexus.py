"""NeXus files: NXptycho (NXcxi_ptycho) and NXmx. Groups are found by their class and not by their name.

The master files of Dectris detectors (EIGER, ARINA) are read too: their frames lie in linked files
``data_000001`` and so on, compressed with bitshuffle and LZ4. `laboratory` explains the axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.cxi import mask_to_valid
from daskptycho.formats.hdf5 import hdf5_arrays
from daskptycho.formats.hdf5_file import (
    attribute,
    broken_link,
    child,
    identity,
    is_dataset,
    is_hdf5,
    open_hdf5,
    open_hdf5_frames,
    read_array,
    text_of,
    walk,
)
from daskptycho.formats.laboratory import DEFAULT_DIRECTIONS
from daskptycho.formats.nexus_positions import class_of, groups_of_class, position_offers
from daskptycho.formats.offers import (
    NO_KEYS,
    NUMBERS,
    Keys,
    Offer,
    describe,
    number_offer,
    real_numbers,
    take,
)
from daskptycho.formats.units import is_pixels, to_si, unit_of
from daskptycho.scan.optics import ELECTRON, PHOTON

__all__ = ["is_nexus", "read_nexus"]

DEFINITIONS = ("NXptycho", "NXcxi_ptycho", "NXmx")
LINKED_DATA = re.compile(r"data_\d+")

# Where the energy of the beam may be: class of the group, name of the field, argument of `create_scan`. The
# energy of an NXsource is that of the machine.
ENERGIES = (
    ("NXbeam", "incident_energy", "energy_eV"),
    ("NXbeam", "incident_beam_energy", "energy_eV"),
    ("NXbeam", "energy", "energy_eV"),
    ("NXmonochromator", "energy", "energy_eV"),
    ("NXbeam", "incident_wavelength", "wavelength_m"),
    ("NXmonochromator", "wavelength", "wavelength_m"),
)
# The same without a class, as detectors write them.
LOOSE_ENERGIES = {
    "incident_energy": "energy_eV",
    "photon_energy": "energy_eV",
    "incident_wavelength": "wavelength_m",
}
MASKS = ("pixel_mask", "pixel_mask_1")

# Where the kind of radiation is written, and detectors that are made for electrons.
PARTICLES = ("probe", "incident_particle_type", "particle")
ELECTRON_DETECTORS = re.compile(r"\b(arina|quadro|ela|singla|empad)\b", re.IGNORECASE)


def is_nexus(path: Path) -> bool:
    """Whether a file is HDF5 with an entry of NXptycho or NXmx, or a master file of Dectris."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return any(_is_supported(entry) for _, entry in _entries(file))


def _entries(file: Any) -> Iterator[tuple[str, Any]]:
    for name in file:
        item = child(file, name)
        if hasattr(item, "keys") and (class_of(item) == "NXentry" or name == "entry"):
            yield f"/{name}", item


def _is_supported(entry: Any) -> bool:
    data = child(entry, "data")
    linked = hasattr(data, "keys") and any(map(LINKED_DATA.fullmatch, data))
    return text_of(child(entry, "definition")) in DEFINITIONS or linked


def read_nexus(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read the first supported entry of a NeXus file.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`; without `position` if the file has none, like those that
        detectors write.

    Raises
    ------
    ScanError
        The file has no frames.
    """
    with open_hdf5(path) as file:
        arrays = hdf5_arrays(file, path)
        entries = [entry for entry in _entries(file) if _is_supported(entry[1])]
        stacks = [stack for entry in entries for stack in _list_stacks(*entry)]
        if keys.intensity_key is not None:
            where, array = arrays.find("intensity", keys.intensity_key)
            stacks.insert(0, (where, [where], describe(array)))
        if not stacks:
            raise ScanError(f"{entries[0][0]} of {path} has no detector with data; expected its frames")
        _, names, _ = stacks[0]
        frames = open_hdf5_frames(path, names)
        shape = tuple(int(n) for n in (frames.shape if len(names) > 1 else file[names[0]].shape))
        entry = next((item for item in entries if names[0].startswith(f"{item[0]}/")), entries[0])
        detectors = groups_of_class(entry, "NXdetector")
        detector = _detector_of(names[0], file, detectors)
        offers = _detector_offers(detector) | _energy_offers(entry)
        directions = DEFAULT_DIRECTIONS if detector is None else _read_directions(detector)
        offers["position"] = position_offers(entry, detector, directions, shape, keys)
        named = arrays.named_offers(keys, shape)
        offers = {name: [*named.get(name, ()), *offers.get(name, ())] for name in offers | named}
        offers["intensity"] = [Offer(path, said, lambda: None) for path, _, said in stacks]
        found, account = take(offers, keys, path.name)
        found |= _read_radiation(entry, detector)
    found |= {"intensity": frames, "account": account, "source": path.name}
    if len(shape) == 4:
        found["scan_shape"] = shape[:2]
    return found


def _list_stacks(where: str, entry: Any) -> list[tuple[str, list[str], str]]:
    """What may be the frames of an entry: a path, those of all datasets in their order, and their shape."""
    stacks = []
    data = child(entry, "data")
    if hasattr(data, "keys"):
        parts = sorted(name for name in data if LINKED_DATA.fullmatch(name))
        for name in parts:
            part = child(data, name)
            if part is None:
                raise ScanError(f"{name} of {where}/data {broken_link(data, name)}")
            if not is_dataset(part) or len(part.shape) < 3 or part.dtype.kind not in "iuf":
                what = describe(part) if is_dataset(part) else "no array"
                raise ScanError(f"{where}/data/{name} is {what}; expected counts, (frame, qy, qx)")
        if parts:
            said = describe(data[parts[0]])
            if len(parts) > 1:
                said += f", the first of {len(parts)}"
            stacks.append((f"{where}/data/{parts[0]}", [f"{where}/data/{name}" for name in parts], said))
    seen = {identity(data[part]) for part in (stacks and parts) or ()}
    groups = [(path, group, "data") for path, group in groups_of_class((where, entry), "NXdetector")]
    for path, group in groups_of_class((where, entry), "NXdata"):
        signal = attribute(group, "signal")
        groups.append((path, group, "data" if signal is None else str(signal)))
    for path, group, name in groups:
        item = child(group, name)
        if (
            is_dataset(item)
            and len(item.shape) >= 3
            and item.dtype.kind in "iuf"
            and identity(item) not in seen
        ):
            seen.add(identity(item))
            stacks.append((f"{path}/{name}", [f"{path}/{name}"], describe(item)))
    return stacks


def _detector_of(frames: str, file: Any, detectors: Sequence[tuple[str, Any]]) -> tuple[str, Any] | None:
    """The detector that these frames belong to: the one that holds them, or the first one with data."""
    for path, group in detectors:
        own = child(group, "data")
        if frames.startswith(f"{path}/") or (own is not None and identity(own) == identity(file[frames])):
            return path, group
    with_data = [item for item in detectors if len(getattr(child(item[1], "data"), "shape", None) or ()) >= 3]
    return next(iter([*with_data, *detectors]), None)


def _detector_offers(detector: tuple[str, Any] | None) -> dict[str, list[Offer]]:
    """Distance, pixel size, centre and mask of a detector."""
    if detector is None:
        return {}
    where, group = detector
    offers: dict[str, list[Offer]] = {}
    distances = [(f"{where}/{name}", child(group, name)) for name in ("distance", "detector_distance")]
    offers["detector_distance_m"] = [
        # Detectors that do not know their distance write zero.
        _number(path, item, "detector_distance_m", on_demand=_is_zero(item))
        for path, item in distances
        if is_dataset(item)
    ]
    sizes = [child(group, f"{axis}_pixel_size") for axis in ("y", "x")]
    if all(map(is_dataset, sizes)):
        pair = [
            _number(f"{where}/{axis}_pixel_size", item, "detector_pixel_size_m")
            for axis, item in zip("yx", sizes, strict=True)
        ]
        said = " x ".join(offer.said for offer in pair)
        offers["detector_pixel_size_m"] = [
            Offer(
                f"{where}/y_pixel_size and x_pixel_size", said, lambda: tuple(offer.read() for offer in pair)
            )
        ]
    centre = [child(group, f"beam_center_{axis}") for axis in ("y", "x")]
    if all(map(is_dataset, centre)):
        unset = all(map(_is_zero, centre))
        said = " and ".join(_value_said(item) for item in centre)
        offers["centre"] = [
            Offer(
                f"{where}/beam_center_y and beam_center_x",
                said,
                lambda: _read_centre(where, centre, offers.get("detector_pixel_size_m", [])),
                on_demand=unset,
            )
        ]
    masks = walk(group, lambda name, item: name in MASKS and is_dataset(item), depth=1, where=where)
    offers["valid"] = [
        Offer(path, describe(item), partial(mask_to_valid, item, np.uint32(0xFFFFFFFF)))
        for path, item in masks
    ]
    unset_names = [
        name for name in ("detector_distance_m", "centre") if any(o.on_demand for o in offers.get(name, ()))
    ]
    if unset_names:
        warn_caller(
            f"{' and '.join(unset_names)} of {where} are zero, which is taken to mean unknown; give "
            f"{' and '.join('--' + name.replace('_', '-') for name in unset_names)} if they are needed"
        )
    return offers


def _is_zero(item: Any) -> bool:
    return item.dtype.kind in "iuf" and item.size > 0 and not np.any(item[()])


def _value_said(item: Any) -> str:
    value = f"{np.ravel(item[()])[0]:.6g}" if item.dtype.kind in "iuf" and item.size else describe(item)
    return f"{value} {unit_of(item.attrs) or 'without a unit'}"


def _number(where: str, item: Any, name: str, *, on_demand: bool = False) -> Offer:
    """A number of the geometry; NeXus prescribes a unit, and one that is missing is said."""
    offer = number_offer(where, item, name, on_demand=on_demand, read=read_array)
    if unit_of(item.attrs) is not None:
        return offer

    def read() -> Any:
        warn_caller(f"{where} has no unit; taken to be in {NUMBERS[name][1]}")
        return offer.read()

    return Offer(where, offer.said, read, on_demand)


def _read_centre(where: str, items: Sequence[Any], sizes: Sequence[Offer]) -> tuple[float, float]:
    """[y, x] of the beam in pixels, counted from the middle of the first pixel."""
    values = []
    for axis, item in enumerate(items):
        unit = unit_of(item.attrs) or "pixel"
        number = float(real_numbers(read_array(item), where).ravel()[0])
        if is_pixels(unit):
            values.append(number)
        elif not sizes:
            raise ScanError(
                f"the beam centre of {where} is in {unit}, but the size of the detector pixels is unknown; "
                "expected pixels, or x_pixel_size and y_pixel_size of the detector"
            )
        else:
            values.append(float(to_si(number, unit, "length", where)) / sizes[0].read()[axis])
    return values[0], values[1]


def _energy_offers(entry: tuple[str, Any]) -> dict[str, list[Offer]]:
    offers: dict[str, list[Offer]] = {"energy_eV": [], "wavelength_m": []}
    seen = set()
    for group_class, field, name in ENERGIES:
        for where, group in groups_of_class(entry, group_class):
            item = child(group, field)
            if is_dataset(item) and item.dtype.kind in "iuf" and identity(item) not in seen:
                seen.add(identity(item))
                offers[name].append(_number(f"{where}/{field}", item, name))
    above, group = entry
    for where, item in walk(
        group, lambda name, item: name in LOOSE_ENERGIES and is_dataset(item), where=above
    ):
        if identity(item) not in seen and item.dtype.kind in "iuf":
            name = LOOSE_ENERGIES[where.rsplit("/", 1)[-1]]
            offers[name].append(_number(where, item, name))
    return offers


def _read_radiation(entry: tuple[str, Any], detector: tuple[str, Any] | None) -> dict[str, str]:
    """The kind of radiation, if the file names it or has a detector for electrons."""
    for _, item in walk(entry[1], lambda name, item: name in PARTICLES and is_dataset(item)):
        name = text_of(item).strip().lower()
        if "electron" in name:
            return {"radiation": ELECTRON}
        if "ray" in name or "photon" in name:
            return {"radiation": PHOTON}
    if detector is not None and ELECTRON_DETECTORS.search(text_of(child(detector[1], "description"))):
        return {"radiation": ELECTRON}
    return {}


def _read_directions(detector: tuple[str, Any]) -> Any:
    """Vectors to the next row and to the next pixel, of the first module that has them."""
    for _, module in [detector, *groups_of_class(detector, "NXdetector_module")]:
        fields = [child(module, f"{speed}_pixel_direction") for speed in ("slow", "fast")]
        vectors = [None if field is None else attribute(field, "vector") for field in fields]
        if all(vector is not None for vector in vectors):
            try:
                return np.array([np.asarray(vector, dtype=float).ravel() for vector in vectors])
            except (TypeError, ValueError):
                raise ScanError(
                    f"the pixel directions of {detector[0]} are {vectors}; expected two vectors (x, y, z)"
                ) from None
    return DEFAULT_DIRECTIONS
