"""Scans that grow: laid out before the first frame, with a record of each tile that has been written.

A tile is written in this order: the pixels that it shows not to count, the positions of its frames and which
of them are used, its shard of ``intensity``, and last the number of its frames in ``frames_written (tile)``.
Each is one file or object, which appears whole or not at all, and readers look at ``frames_written`` first:
what it does not name is not there yet. Each tile has chunks of its own, so that several writers never meet.
`dataset` and `scan_writer` call this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike, NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.scan.frames import STORED_TYPES, consolidate, create_frames, write_header
from daskptycho.scan.left_out import FRAME_USED
from daskptycho.scan.validation import validate_scan
from daskptycho.storage.store import Location, list_missing, open_zarr_store

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "FRAMES_WRITTEN",
    "MASKED",
    "NOT_YET",
    "count_written",
    "describe_growth",
    "lay_out_frames",
    "mark_written",
    "open_arrays",
    "plan_frames",
    "read_masked",
    "warn_of_growth",
]

FRAMES_WRITTEN = "frames_written"
# Pixels that were found not to count with the frames of a tile; no chunk where there are no new ones.
MASKED = "masked"
# In ``frames_written``: the tile is still to come. Zero: it has ended, and none of its frames has come.
NOT_YET = -1


def plan_frames(
    planned_position: ArrayLike | None, frame_shape: Any, dtype: Any, given: dict[str, bool]
) -> tuple[da.Array, NDArray[np.float64]]:
    """Frames that are still to come, as zeros that are never read, and their planned positions.

    Parameters
    ----------
    planned_position : (frame, 2) array
    frame_shape : (int, int)
    dtype : numpy.dtype
    given : dictionary
        Which options that need frames have been given, by name.

    Raises
    ------
    OptionError
        Options contradict each other, or are missing.
    ScanError
        The positions are no array of numbers.
    """
    needless = [name for name, there in given.items() if there]
    if needless:
        raise OptionError(
            f"{' and '.join(needless)} with planned_position, before there are frames; expected none of "
            "them (ScanWriter takes mask_value and clip_negative)"
        )
    types = [str(stored) for stored, _ in STORED_TYPES]
    if frame_shape is None or dtype is None or np.dtype(dtype).name not in types:
        raise OptionError(
            f"planned_position with frame_shape {frame_shape} and dtype {dtype}; expected the pixels of a "
            f"frame, (qy, qx), and one of {', '.join(types)}"
        )
    position = np.asarray(planned_position, dtype=np.float64)
    if position.ndim != 2 or position.shape[1] != 2 or not np.isfinite(position).all():
        raise ScanError(
            f"planned_position has the shape {position.shape}, or is not finite; expected (frames, 2) "
            "numbers, [y, x] of each frame"
        )
    height, width = (int(size) for size in frame_shape)
    return da.zeros((len(position), height, width), dtype=np.dtype(dtype), chunks=-1), position


def lay_out_frames(store: Store, header: xr.Dataset, order: NDArray[np.int64], tile_frames: int) -> None:
    """Write all of a scan but its frames.

    Parameters
    ----------
    store : zarr.abc.store.Store
    header : xarray.Dataset
        The scan with frames that are never read, in the order of the input.
    order : (frame,) int array
        Numbers of the frames in the order in which they are stored.
    tile_frames : int
    """
    sorted_header = header.isel(frame=order)
    frames = len(order)
    if "valid" not in sorted_header:
        valid = np.ones(header["intensity"].shape[1:], dtype=bool)
        sorted_header["valid"] = (("qy", "qx"), valid)
    write_header(store, sorted_header.drop_vars(["intensity", "position"]))
    position = _create(store, "position", (frames, 2), np.float64, tile_frames, ("frame", "axis"), 0.0)
    position.update_attributes(header["position"].attrs)
    position[:] = sorted_header["position"].values
    _create(store, FRAME_USED, (frames,), np.bool_, tile_frames, ("frame",), False)
    tiles = -(-frames // tile_frames)
    _create(store, FRAMES_WRITTEN, (tiles,), np.int32, 1, ("tile",), NOT_YET)
    pixels = header["intensity"].shape[1:]
    _create(store, MASKED, (tiles, *pixels), np.bool_, 1, ("tile", "qy", "qx"), False)
    # Half the processor time of zstd, for a quarter more bytes: a detector does not wait.
    create_frames(store, header["intensity"].shape, header["intensity"].dtype, tile_frames, "lz4")
    consolidate(store)


def _create(
    store: Store, name: str, shape: tuple[int, ...], dtype: Any, chunk: int, dims: tuple[str, ...], fill: Any
) -> zarr.Array[Any]:
    """An array whose chunks are tiles, each with a checksum."""
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        compressors=(ZstdCodec(), Crc32cCodec()),
        fill_value=fill,
        dimension_names=dims,
        config={"write_empty_chunks": True},
    )


def count_written(location: Location, stored: xr.Dataset) -> NDArray[np.int64] | None:
    """Number of frames of each tile that have been written, `NOT_YET` for tiles that are still to come.

    Parameters
    ----------
    location : Location
    stored : xarray.Dataset
        The opened store.

    Returns
    -------
    (tile,) int64 array or None
        None for a scan that was written at once.
    """
    if FRAMES_WRITTEN not in stored:
        return None
    written = np.full(stored.sizes["tile"], NOT_YET, dtype=np.int64)
    there = _find_chunks(location, stored, FRAMES_WRITTEN)
    if there.size:
        written[there] = stored[FRAMES_WRITTEN].isel(tile=there).values
    return written


def read_masked(location: Location, stored: xr.Dataset) -> NDArray[np.bool_]:
    """Pixels of a scan that grows which the frames of any tile have shown not to count, (qy, qx) bool."""
    if MASKED not in stored:
        # Laid out before there was such a variable.
        return np.zeros(stored["valid"].shape, dtype=bool)
    there = _find_chunks(location, stored, MASKED)
    return np.asarray(stored[MASKED].isel(tile=there).values.any(axis=0))


def _find_chunks(location: Location, stored: xr.Dataset, name: str) -> NDArray[np.intp]:
    """Numbers of the tiles whose chunk of this variable is in the store."""
    rest = "/0" * (stored[name].ndim - 1)
    keys = [f"c/{tile}{rest}" for tile in range(stored.sizes["tile"])]
    missing = set(list_missing(location.joinpath(name), keys))
    return np.flatnonzero([key not in missing for key in keys])


def open_arrays(location: Location) -> dict[str, Any]:
    """The arrays of a scan, by name, to be written to; chunks that hold only the fill value are written too.

    A store does not keep this setting, and a chunk that is not there counts as lost.
    """
    with zarr.config.set({"array.write_empty_chunks": True}):
        return dict(zarr.open_group(open_zarr_store(location, read_only=False), mode="r+").arrays())


def mark_written(scan: xr.Dataset, written: NDArray[np.int64], masked: NDArray[np.bool_]) -> xr.Dataset:
    """A growing scan whose frames that have not been written are left out, and whose pixels are masked.

    The attributes ``tiles_written`` and ``tiles`` say how far it is. A scan without any frame yet is checked
    as it is planned, every other one like a scan that was written at once.
    """
    tile_frames = scan["intensity"].data.chunksize[0]
    used = scan[FRAME_USED].values & np.repeat(written > 0, tile_frames)[: scan.sizes["frame"]]
    marked = scan.assign({FRAME_USED: ("frame", used)})
    marked["valid"] = scan["valid"] & ~masked
    marked.attrs |= {"tiles": len(written), "tiles_written": int((written != NOT_YET).sum())}
    marked.encoding = dict(scan.encoding)
    validate_scan(marked if used.any() else scan.drop_vars(FRAME_USED))
    return marked


def describe_growth(scan: xr.Dataset) -> tuple[int, int] | None:
    """Tiles of a scan that have been written, and all of its tiles; None for a scan that does not grow."""
    if "tiles_written" not in scan.attrs:
        return None
    return int(scan.attrs["tiles_written"]), int(scan.attrs["tiles"])


def warn_of_growth(scan: xr.Dataset) -> None:
    """Warn if the scan is still being measured, and only a part of it is there."""
    growth = describe_growth(scan)
    if growth is not None and growth[0] < growth[1]:
        warn_caller(
            f"the scan is still being measured: {growth[0]} of {growth[1]} tiles are there, and only these "
            "are reconstructed (follow=True, --follow takes up the others as they come)"
        )
