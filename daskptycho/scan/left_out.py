"""Frames that are left out: a scan keeps them, and nothing is computed from them.

The variable ``frame_used (frame)`` of a scan is False for each of them; a scan without that variable uses
all its frames. Whatever computes with a scan takes `take_used` of it first. `dataset` and `validation` call
this module, and those above import it from `dataset`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError

__all__ = [
    "FRAME_USED",
    "find_frames",
    "frames_used",
    "leave_out_frames",
    "list_numbers",
    "mark_left_out",
    "read_numbers",
    "spread_over_frames",
    "take_used",
]

FRAME_USED = "frame_used"

# Numbers of frames that a message names before it says how many more there are.
NAMED = 10


def frames_used(scan: xr.Dataset) -> NDArray[np.bool_]:
    """Which frames of a scan are used, (frame,) bool."""
    if FRAME_USED not in scan:
        return np.ones(scan.sizes["frame"], dtype=bool)
    used: NDArray[np.bool_] = scan[FRAME_USED].values
    return used


def take_used(scan: xr.Dataset) -> xr.Dataset:
    """The scan with only the frames that are used, in the same tiles; tiles without any vanish.

    A scan that uses all its frames is returned as it is.

    Raises
    ------
    ScanError
        No frame is used.
    """
    used = frames_used(scan)
    if used.all():
        return scan
    if not used.any():
        raise ScanError(f"{FRAME_USED} is False for every frame; expected frames to compute with")
    lazy = {
        str(name): _take_lazily(variable, used)
        for name, variable in scan.variables.items()
        if "frame" in variable.dims and hasattr(variable.data, "__dask_graph__")
    }
    taken = scan.drop_vars([FRAME_USED, *lazy]).isel(frame=np.flatnonzero(used)).assign(lazy)
    taken.encoding = dict(scan.encoding)
    return taken


def _take_lazily(variable: xr.Variable, used: NDArray[np.bool_]) -> xr.Variable:
    """The used frames of a dask array with the frames as first axis, chunk by chunk."""
    import dask.array as da

    array = variable.data
    sizes = [int(size) for size in array.chunks[0]]
    parts = np.split(used, np.cumsum(sizes)[:-1])
    left = tuple(int(part.sum()) for part in parts)
    taken = da.map_blocks(
        _take_of_chunk,
        *(
            array,
            da.from_array(
                used.reshape(-1, *[1] * (array.ndim - 1)), chunks=(tuple(sizes), *[1] * (array.ndim - 1))
            ),
        ),
        chunks=(left, *array.chunks[1:]),
        dtype=array.dtype,
        meta=np.empty((0,) * array.ndim, dtype=array.dtype),
    )
    if 0 in left:
        taken = taken.rechunk({0: tuple(size for size in left if size)})
    return xr.Variable(variable.dims, taken, variable.attrs)


def _take_of_chunk(chunk: Any, used: NDArray[np.bool_]) -> Any:
    return chunk[used.ravel()]


def spread_over_frames(used: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[Any]:
    """Values of the used frames as values of all frames.

    Parameters
    ----------
    used : (frame,) bool array
    values : array
        Its first axis has the used frames.

    Returns
    -------
    array
        Its first axis has all frames. It is NaN at those that are left out, -1 for whole numbers, and False.
    """
    if used.all():
        return values
    fill = {"b": False, "i": -1, "u": 0}.get(values.dtype.kind, np.nan)
    spread = np.full((len(used), *values.shape[1:]), fill, dtype=values.dtype)
    spread[used] = values
    return spread


def find_frames(frame_number: NDArray[np.int64], numbers: ArrayLike) -> NDArray[np.int64]:
    """Indices of the frames that have these numbers.

    Raises
    ------
    OptionError
        The numbers are not whole, or the scan has no such frame.
    """
    wanted = np.atleast_1d(
        np.asarray(numbers if hasattr(numbers, "__len__") else list(np.atleast_1d(numbers)))
    )
    if wanted.size == 0:
        return np.empty(0, dtype=np.int64)
    if wanted.dtype.kind == "b":
        if wanted.shape != frame_number.shape:
            raise OptionError(
                f"leave_out is a mask of the shape {wanted.shape}; expected one value for each of the scan's "
                f"{len(frame_number)} frames, True where it is to be left out"
            )
        # A mask is in the order of acquisition.
        return np.argsort(frame_number, kind="stable")[wanted]
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
        raise OptionError(f"leave_out is {numbers!r}; expected whole numbers of frames")
    missing = sorted(set(wanted.tolist()) - set(frame_number.tolist()))
    if missing:
        raise OptionError(
            f"leave_out names {list_numbers(missing)}, which the scan does not have; expected numbers of its "
            f"{len(frame_number)} frames, {frame_number.min()} to {frame_number.max()}"
        )
    return np.flatnonzero(np.isin(frame_number, wanted))


def leave_out_frames(scan: xr.Dataset, numbers: ArrayLike) -> xr.Dataset:
    """The scan with these frames left out, besides those that it leaves out already.

    Parameters
    ----------
    scan : xarray.Dataset
    numbers : sequence of int, or (frame,) bool array
        Numbers of frames, as in the scan's ``frame_number``; or a mask in the order of acquisition, True for
        the frames to leave out.

    Raises
    ------
    OptionError
        The scan has no such frame.
    ScanError
        There are no frames, or none would be left.
    """
    if not isinstance(scan, xr.Dataset) or "frame" not in scan.sizes:
        raise ScanError(f"the scan is a {type(scan).__name__} without frames; expected one from open_scan")
    changed = mark_left_out(scan, numbers)
    if not frames_used(changed).any():
        raise ScanError("leave_out names every frame; expected some to compute with")
    return changed


def mark_left_out(scan: xr.Dataset, numbers: ArrayLike) -> xr.Dataset:
    """As `leave_out_frames`, for a scan that grows: more frames may come if none is left."""
    number = scan["frame_number"].values if "frame_number" in scan else np.arange(scan.sizes["frame"])
    used = frames_used(scan).copy()
    used[find_frames(number, numbers)] = False
    changed = scan.assign({FRAME_USED: ("frame", used)})
    changed.encoding = dict(scan.encoding)
    return changed


def read_numbers(text: str) -> tuple[int, ...]:
    """Numbers of frames from a list, as in ``3,17,40-45``, or from a text file or a .npy file of them.

    A .npy file may also hold a mask of all frames, True where one is bad.

    Raises
    ------
    OptionError
        It is neither.
    """
    path = Path(text).expanduser()
    if path.is_file():
        try:
            if path.suffix == ".npy":
                numbers = np.load(path, allow_pickle=False).ravel()
                # A mask is True where a frame is bad.
                numbers = np.flatnonzero(numbers) if numbers.dtype.kind == "b" else numbers
                return tuple(int(number) for number in numbers)
            lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
            return tuple(_numbers_in(",".join(",".join(line.split()) for line in lines if line.strip())))
        except (OSError, ValueError) as error:
            raise OptionError(f"{text} cannot be read as numbers of frames: {error}") from error
    try:
        return tuple(_numbers_in(text))
    except ValueError:
        raise OptionError(
            f"leave_out is {text!r}; expected numbers of frames, as in 3,17,40-45, or a file of them"
        ) from None


def _numbers_in(text: str) -> Iterable[int]:
    for part in text.split(","):
        if not part.strip():
            continue
        first, dash, last = part.strip().partition("-")
        if dash and int(last) < int(first):
            raise ValueError(f"{part} runs backwards")
        yield from range(int(first), int(last if dash else first) + 1)


def list_numbers(numbers: Iterable[int]) -> str:
    """Numbers of frames in words: frame 3; frames 3, 17 and 40; frames 1, 2, ... and 30 more."""
    known = [str(int(number)) for number in numbers]
    if len(known) == 1:
        return f"frame {known[0]}"
    if len(known) > NAMED:
        return f"frames {', '.join(known[:NAMED])} and {len(known) - NAMED} more"
    return f"frames {', '.join(known[:-1])} and {known[-1]}"
