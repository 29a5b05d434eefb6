"""Positions of NeXus files: motors of the sample, each along its vector, or lists of translations.

`nexus` calls this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.formats.hdf5_file import attribute, child, identity, is_dataset, read_array, walk
from daskptycho.formats.laboratory import beam_positions
from daskptycho.formats.offers import Keys, Offer, describe, real_numbers
from daskptycho.formats.positions import Positions, expand_raster
from daskptycho.formats.units import to_si, unit_of

__all__ = ["class_of", "groups_of_class", "position_offers"]


def class_of(item: Any) -> str:
    """The NeXus class of a group, "" if it has none."""
    found = attribute(item, "NX_class")
    return "" if found is None else str(found.decode(errors="replace") if isinstance(found, bytes) else found)


def groups_of_class(entry: tuple[str, Any], name: str) -> list[tuple[str, Any]]:
    """Groups of a class below a group, and their paths."""
    where, group = entry
    return list(walk(group, lambda _, item: hasattr(item, "keys") and class_of(item) == name, where=where))


def position_offers(
    entry: tuple[str, Any],
    detector: tuple[str, Any] | None,
    directions: Any,
    shape: tuple[int, ...],
    keys: Keys,
) -> list[Offer]:
    """[y, x] of the beam on the sample, from motors of the sample, or from lists of translations."""

    def from_motors(motors: Mapping[str, Any]) -> Positions:
        return Positions(beam_positions(_add_motors(motors, entry, shape, keys), directions), "m")

    def from_list(where: str, item: Any) -> Positions:
        if unit_of(item.attrs) is None:
            warn_caller(f"{where} has no unit; taken to be in m")
        numbers = to_si(real_numbers(read_array(item), where), unit_of(item.attrs) or "m", "length", where)
        return Positions(beam_positions(numbers.reshape(-1, numbers.shape[-1]), directions), "m")

    offers = []
    for motors in _list_motors(entry):
        units = ", ".join(sorted({unit_of(item.attrs) or "without a unit" for item in motors.values()}))
        first = next(iter(motors.values()))
        said = f"{describe(first)}, {units}, of the sample"
        offers.append(Offer(" and ".join(motors), said, partial(from_motors, motors)))
    candidates = (
        [] if detector is None else [(f"{detector[0]}/translation", child(detector[1], "translation"))]
    )
    where, group = entry
    candidates += walk(
        group, lambda name, item: name == "translation" and is_dataset(item), depth=3, where=where
    )
    seen = set()
    for where, item in candidates:
        if (
            is_dataset(item)
            and len(item.shape) >= 2
            and item.shape[-1] in (2, 3)
            and identity(item) not in seen
        ):
            seen.add(identity(item))
            said = f"{describe(item)}, {unit_of(item.attrs) or 'without a unit'}, of the sample"
            offers.append(Offer(where, said, partial(from_list, where, item), rival=not offers))
    return offers


def _list_motors(entry: tuple[str, Any]) -> list[dict[str, Any]]:
    """The motors that move each sample of an entry, by path."""
    found = []
    for sample in groups_of_class(entry, "NXsample"):
        motors = {}
        for where, group in groups_of_class(sample, "NXtransformations"):
            for name in group:
                item = child(group, name)
                if not is_dataset(item) or item.dtype.kind not in "iuf" or item.size < 2:
                    continue
                kind = attribute(item, "transformation_type")
                kind = (
                    "translation" if kind is None else kind.decode() if isinstance(kind, bytes) else str(kind)
                )
                if kind == "translation" and attribute(item, "vector") is not None:
                    motors[f"{where}/{name}"] = item
        if motors:
            found.append(motors)
    return found


def _add_motors(
    motors: Mapping[str, Any], entry: tuple[str, Any], shape: tuple[int, ...], keys: Keys
) -> NDArray[np.float64]:
    """Translations of the sample in metres, (frame, 3): the sum over its motors, each along its vector."""
    values, vectors = {}, {}
    for where, item in motors.items():
        unit = unit_of(item.attrs)
        if unit is None:
            warn_caller(f"{where} has no unit; taken to be in m")
        values[where] = to_si(real_numbers(read_array(item), where), unit or "m", "length", where)
        vector = np.asarray(attribute(item, "vector"))
        if vector.dtype.kind not in "iuf" or vector.size != 3 or not np.isfinite(vector).all():
            raise ScanError(f"the vector of {where} is {vector.tolist()}; expected x, y and z")
        vectors[where] = vector.astype(float).ravel()
    scan = shape[:-2]
    frames = int(np.prod(scan))
    if any(value.size != frames for value in values.values()) and len(motors) == 2:
        # One value for each row and one for each column; y is the motor that moves more along y.
        y, x = sorted(motors, key=lambda where: -abs(vectors[where][1]))
        along = [_axis_in_data(entry, where) for where in (y, x)]
        columns = expand_raster([values[y].ravel(), values[x].ravel()], scan, (y, x), keys.slow_axis, along)
        values = dict(zip((y, x), columns, strict=True))
    total = np.zeros((frames, 3))
    for where, value in values.items():
        if value.size != frames:
            raise ScanError(
                f"{where} has the shape {value.shape} for a scan of {scan}; expected one value for each frame"
            )
        total += value.reshape(frames, 1) * vectors[where]
    return total


def _axis_in_data(entry: tuple[str, Any], motor: str) -> int | None:
    """The axis of the frames that the NXdata of an entry names after a motor; None if none does."""
    name = motor.rsplit("/", 1)[-1]
    for _, group in groups_of_class(entry, "NXdata"):
        axes = attribute(group, "axes")
        if axes is None:
            continue
        listed = [part.decode() if isinstance(part, bytes) else str(part) for part in np.ravel(axes)]
        if len(listed) == 1:
            listed = re.split(r"[:,]", listed[0].strip("[]"))
        if name in listed[:2]:
            return listed.index(name)
    return None
