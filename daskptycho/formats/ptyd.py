"""PtyPy's prepared data, ``.ptyd``: chunks of frames with positions and weights, and a few numbers.

Energies are in keV, lengths in metres. The positions of a chunk are [y, x] of the illumination on the object,
so they need no change of axes; the zero frequency of the frames is at `center`. Chunks may be links to files
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import OptionError, ScanError
from daskptycho.formats.hdf5 import hdf5_arrays
from daskptycho.formats.hdf5_file import (
    attribute,
    broken_link,
    child,
    is_dataset,
    is_hdf5,
    open_hdf5,
    open_hdf5_frames,
    read_array,
    text_of,
)
from daskptycho.formats.offers import NO_KEYS, Keys, Offer, Taken, describe, real_numbers, take
from daskptycho.formats.positions import Positions
from daskptycho.scan.optics import NEAR_FIELD

__all__ = ["is_ptyd", "read_ptyd"]

# Both groups may hold a number: `info` as the user gave it, `meta` as PtyPy uses it.
GROUPS = ("meta", "info")
PTYPY_NEAR_FIELD = "nearfield"

# Numbers by the names of their arguments: PtyPy's name, the factor to SI, and PtyPy's unit.
NUMBER_KEYS = {
    "energy_eV": ("energy", 1e3, "keV"),
    "detector_distance_m": ("distance", 1.0, "m"),
    "detector_pixel_size_m": ("psize", 1.0, "m"),
    "centre": ("center", 1.0, "pixels"),
}


def is_ptyd(path: Path) -> bool:
    """Whether a file is HDF5 with chunks of frames as PtyPy writes them."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return hasattr(child(file, "chunks"), "keys") and any(
            child(file, group) is not None for group in GROUPS
        )


def read_ptyd(path: Path, keys: Keys = NO_KEYS) -> dict[str, Any]:
    """Read PtyPy's prepared data.

    Parameters
    ----------
    path : Path
    keys : Keys
        What the user has named, except for the frames.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        The file has no chunks, or a chunk lacks frames or positions.
    OptionError
        The user names the frames.
    """
    if keys.intensity_key is not None:
        raise OptionError(f"{path} is PtyPy's, with its frames in chunks; expected no intensity_key")
    with open_hdf5(path) as file:
        chunks = _list_chunks(file, path)
        frames = open_hdf5_frames(path, [f"{chunk}/data" for chunk in chunks])
        offers: dict[str, list[Offer]] = {}
        positions = f"{chunks[0]}/positions"
        said = f"{len(frames)} x 2, in {len(chunks)} chunks, m"
        offers["position"] = [Offer(positions, said, lambda: _read_positions(file, chunks))]
        for name, (key, factor, unit) in NUMBER_KEYS.items():
            offers[name] = [
                Offer(
                    f"{group}/{key}",
                    f"{np.array2string(np.asarray(value), precision=6)} {unit}",
                    partial(_scale, value, factor),
                    rival=False,
                )
                for group in GROUPS
                if (value := _read_number(file, group, key)) is not None
            ]
        named = hdf5_arrays(file, path).named_offers(keys, frames.shape)
        offers = {name: [*named.get(name, ()), *offers.get(name, ())] for name in offers | named}
        said = f"{' x '.join(map(str, frames.shape))} {frames.dtype}, in {len(chunks)} chunks"
        offers["intensity"] = [Offer(f"{chunks[0]}/data", said, lambda: None)]
        found, account = take(offers, keys, path.name)
        number = np.concatenate([_read_indices(file[chunk]) for chunk in chunks])
        if len(np.unique(number)) == len(number):
            found["frame_number"] = number
        if keys.valid_key is None:
            valid = _read_valid(file, chunks)
            if valid is not None and not valid.all():
                found["valid"] = valid
                account.append(
                    Taken("valid pixels", f"{chunks[0]}/weights", "weights above 0 in every frame")
                )
        if _read_word(file, "propagation") == PTYPY_NEAR_FIELD:
            found["propagation"] = NEAR_FIELD
    return found | {"intensity": frames, "account": account, "source": path.name}


def _list_chunks(file: Any, path: Path) -> list[str]:
    """Paths of the chunks that have frames, each with as many positions."""
    chunks = []
    for name in sorted(file["chunks"], key=lambda name: (len(name), name)):
        where, chunk = f"chunks/{name}", child(file["chunks"], name)
        if chunk is None:
            raise ScanError(f"{where} of {path} {broken_link(file['chunks'], name)}")
        data: Any = child(chunk, "data")
        positions: Any = child(chunk, "positions")
        if not is_dataset(data):
            continue
        if len(data.shape) != 3 or data.dtype.kind not in "iuf":
            raise ScanError(f"{where}/data of {path} is {describe(data)}; expected counts, (frame, qy, qx)")
        if not is_dataset(positions) or positions.shape != (data.shape[0], 2):
            raise ScanError(
                f"{where} of {path} has {data.shape[0]} frames, but not as many positions; "
                "expected one for each frame"
            )
        chunks.append(where)
    if not chunks:
        raise ScanError(f"{path} has no chunks with data; expected frames prepared by PtyPy")
    return chunks


def _read_positions(file: Any, chunks: list[str]) -> Positions:
    parts = [real_numbers(read_array(file[chunk]["positions"]), f"{chunk}/positions") for chunk in chunks]
    return Positions(np.concatenate(parts), "m")


def _scale(value: Any, factor: float) -> Any:
    return value * factor


def _read_indices(chunk: Any) -> NDArray[np.int64]:
    indices = child(chunk, "indices")
    frames = len(chunk["data"])
    if is_dataset(indices) and indices.shape == (frames,) and indices.dtype.kind in "iu":
        return np.asarray(indices[()], dtype=np.int64)
    return np.arange(frames)


def _read_valid(file: Any, chunks: list[str]) -> NDArray[np.bool_] | None:
    """Pixels whose weight is above zero in all frames."""
    shape = file[chunks[0]]["data"].shape[1:]
    valid: NDArray[np.bool_] | None = None
    common: list[Any] = [child(file, name) for name in ("common/weight2d", "info/weight2d", "meta/weight2d")]
    per_frame: list[Any] = [child(file[chunk], "weights") for chunk in chunks]
    for weights in [*common, *per_frame]:
        if not is_dataset(weights) or weights.dtype.kind not in "biuf" or weights.shape[-2:] != shape:
            continue
        if len(weights.shape) == 2:
            parts: Iterable[Any] = [weights[()]]
        elif len(weights.shape) == 3:
            parts = (weights[start : start + 16].min(axis=0) for start in range(0, len(weights), 16))
        else:
            continue
        for part in parts:
            valid = (part > 0) if valid is None else valid & (part > 0)
    return valid


def _read_number(file: Any, group: str, key: str) -> Any:
    """A number, or a pair if the two differ; None if the group has none."""
    item = child(file, f"{group}/{key}")
    # PtyPy writes None as a zero whose attribute says so.
    if not is_dataset(item) or attribute(item, "type") in ("None", b"None"):
        return None
    value = np.asarray(item[()])
    if value.dtype.kind in "iuf" and value.size in (1, 2):
        pair = np.broadcast_to(value.astype(float).ravel(), (2,))
        return float(pair[0]) if pair[0] == pair[1] and key != "center" else pair
    return None


def _read_word(file: Any, key: str) -> str | None:
    for group in GROUPS:
        found = text_of(child(file, f"{group}/{key}"))
        if found:
            return found
    return None
