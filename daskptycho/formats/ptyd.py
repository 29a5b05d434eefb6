"""PtyPy's prepared data, ``.ptyd``: chunks of frames with positions and weights, and a few numbers.

Energies are in keV, lengths in metres. The positions of a chunk are [y, x] of the illumination on the object,
so they need no change of axes; the zero frequency of the frames is at `center`. Chunks may be links to files
of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.formats.hdf5_file import is_hdf5, open_hdf5, open_hdf5_frames, to_text
from daskptycho.scan.optics import NEAR_FIELD

__all__ = ["is_ptyd", "read_ptyd"]

# Both groups may hold a number: `info` as the user gave it, `meta` as PtyPy uses it.
GROUPS = ("meta", "info")
PTYPY_NEAR_FIELD = "nearfield"


def is_ptyd(path: Path) -> bool:
    """Whether a file is HDF5 with chunks of frames as PtyPy writes them."""
    if not is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return "chunks" in file and any(group in file for group in GROUPS)


def read_ptyd(path: Path) -> dict[str, Any]:
    """Read PtyPy's prepared data.

    Returns
    -------
    dict
        What the file holds, for `arrange_scan`.

    Raises
    ------
    ScanError
        The file has no chunks, or a chunk lacks frames or positions.
    """
    with open_hdf5(path) as file:
        names = sorted(file["chunks"], key=lambda name: (len(name), name))
        chunks = [f"chunks/{name}" for name in names]
        chunks = [chunk for chunk in chunks if "data" in file[chunk]]
        if not chunks:
            raise ScanError(f"{path} has no chunks with data; expected frames prepared by PtyPy")
        for chunk in chunks:
            if "positions" not in file[chunk] or len(file[chunk]["positions"]) != len(file[chunk]["data"]):
                raise ScanError(
                    f"{chunk} of {path} has {len(file[chunk]['data'])} frames, but not as many positions; "
                    "expected one for each frame"
                )
        found: dict[str, Any] = {
            "position": np.concatenate([file[chunk]["positions"][()] for chunk in chunks]),
            "position_unit": "m",
            "frame_number": np.concatenate([_read_indices(file[chunk]) for chunk in chunks]),
            "source": path.name,
        }
        if len(np.unique(found["frame_number"])) != len(found["frame_number"]):
            del found["frame_number"]
        valid = _read_valid(file, chunks)
        numbers = {
            "energy_eV": ("energy", 1e3),
            "detector_distance_m": ("distance", 1.0),
            "detector_pixel_size_m": ("psize", 1.0),
            "centre": ("center", 1.0),
        }
        for name, (key, factor) in numbers.items():
            value = _read_number(file, key)
            if value is not None:
                found[name] = factor * value
        if _read_word(file, "propagation") == PTYPY_NEAR_FIELD:
            found["propagation"] = NEAR_FIELD
    found["intensity"] = open_hdf5_frames(path, [f"{chunk}/data" for chunk in chunks])
    if valid is not None and not valid.all():
        found["valid"] = valid
    return found


def _read_indices(chunk: Any) -> NDArray[np.int64]:
    if "indices" in chunk and len(chunk["indices"]) == len(chunk["data"]):
        return np.asarray(chunk["indices"][()], dtype=np.int64)
    return np.arange(len(chunk["data"]))


def _read_valid(file: Any, chunks: list[str]) -> NDArray[np.bool_] | None:
    """Pixels whose weight is above zero in all frames."""
    shape = file[chunks[0]]["data"].shape[1:]
    valid: NDArray[np.bool_] | None = None
    common = [file[name] for name in ("common/weight2d", "info/weight2d", "meta/weight2d") if name in file]
    per_frame = [file[chunk]["weights"] for chunk in chunks if "weights" in file[chunk]]
    for weights in [*common, *per_frame]:
        if weights.shape == shape:
            parts: Iterable[Any] = [weights[()]]
        elif weights.ndim == 3 and weights.shape[1:] == shape:
            parts = (weights[start : start + 16].min(axis=0) for start in range(0, len(weights), 16))
        else:
            continue
        for part in parts:
            valid = (part > 0) if valid is None else valid & (part > 0)
    return valid


def _read_number(file: Any, key: str) -> Any:
    """A number, or a pair if the two differ; None if neither group has it."""
    for group in GROUPS:
        item = file.get(f"{group}/{key}")
        # PtyPy writes None as a zero whose attribute says so.
        if item is None or not hasattr(item, "dtype") or item.attrs.get("type") in ("None", b"None"):
            continue
        value = np.asarray(item[()])
        if value.dtype.kind in "iuf" and value.size in (1, 2):
            pair = np.broadcast_to(value.astype(float).ravel(), (2,))
            return float(pair[0]) if pair[0] == pair[1] and key != "center" else pair
    return None


def _read_word(file: Any, key: str) -> str | None:
    for group in GROUPS:
        item = file.get(f"{group}/{key}")
        if item is not None and hasattr(item, "dtype") and item.dtype.kind in "SO":
            return to_text(item[()])
    return None
