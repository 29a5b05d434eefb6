"""A scan's frames in a folder: written tile by tile, complete or absent.

`scan` calls this module, and those who write a result take `complete_or_absent` and `local_path`
from it; it calls `scan_check` and `errors`. Everything that knows that a store is a local folder
is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from daskptycho.errors import ScanError
from daskptycho.scan_check import VARIABLES, check_counts

__all__ = [
    "Progress",
    "balanced_tile",
    "group_attributes",
    "missing_chunks",
    "write_scan",
]

Progress = Callable[[int, int], object]

# Detector pixels in a tile: 16 MB as float32, a task of a tenth of a second or more.
TILE_PIXELS = 2**22

# Frames in an inner chunk: many enough to compress and read fast, few enough to look at one frame.
CHUNK_FRAMES = 16

# Types that frames are stored as, in the order in which they are tried, and the largest whole
# count that each holds.
STORED = ((np.dtype(np.uint16), 2**16 - 1), (np.dtype(np.uint32), 2**32 - 1), (np.dtype(np.float32), np.inf))


def group_attributes(path: Path) -> dict[str, Any]:
    """Attributes of the Zarr v3 group in a folder.

    Raises
    ------
    ScanError
        Says what lies there instead.
    """
    if not path.exists():
        raise ScanError(f"{path} does not exist; expected a scan, as create_scan writes it")
    if not path.is_dir():
        raise ScanError(f"{path} is a file; expected the folder of a scan (import foreign files first)")
    if not (path / "zarr.json").is_file():
        found = "a Zarr group of version 2" if (path / ".zgroup").exists() else "no Zarr group"
        raise ScanError(f"{path} holds {found}; expected a scan, as create_scan writes it")
    try:
        return dict(zarr.open_group(str(path), mode="r").attrs)
    except Exception as error:  # whatever broken metadata make of zarr
        raise ScanError(f"{path} cannot be read as a Zarr group: {error}") from error


def missing_chunks(path: Path) -> tuple[list[str], int]:
    """Keys of the chunks (shards) of intensity that the store lacks, and how many there should be."""
    array = zarr.open_array(str(path / "intensity"), mode="r")
    grid = [range(-(-n // size)) for n, size in zip(array.shape, array.shards or array.chunks, strict=True)]
    keys = [array.metadata.encode_chunk_key(index) for index in product(*grid)]
    return [key for key in keys if not (path / "intensity" / key).is_file()], len(keys)


def balanced_tile(frames: int, height: int, width: int) -> int:
    """Frames in a tile: about four million pixels at most, all tiles of about one size."""
    limit = max(1, TILE_PIXELS // (height * width))
    tiles = -(-frames // limit)
    size = -(-frames // tiles)
    return size if size <= CHUNK_FRAMES else -(-size // CHUNK_FRAMES) * CHUNK_FRAMES


def write_scan(
    folder: Path,
    header: xr.Dataset,
    intensity: Any,
    order: NDArray[np.int64],
    tile_frames: int,
    progress: Progress | None = None,
) -> None:
    """Write a scan's variables into a folder, its frames tile by tile in the order given.

    Parameters
    ----------
    folder : Path
    header : xarray.Dataset
        Everything but `intensity`, in the input's order.
    intensity : (frame, qy, qx) array
        Indexed by arrays of frame numbers, one tile at a time.
    order : (frame,) int array
    tile_frames : int
    progress : callable, optional
        Called with (frames written, all frames).
    """
    # Without this, xarray would declare NaN the mark of a missing value.
    encoding = {name: {"_FillValue": None} for name in header.variables}
    sorted_header = header.isel(frame=order)
    sorted_header.to_zarr(folder, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    _write_frames(folder, intensity, order, tile_frames, header.get("valid"), progress)
    with warnings.catch_warnings():
        # Plain open_zarr warns where consolidated metadata are missing, and writing them warns
        # that the v3 specification does not have them yet.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(folder))


def _write_frames(
    folder: Path,
    intensity: Any,
    order: NDArray[np.int64],
    tile_frames: int,
    valid: xr.DataArray | None,
    progress: Progress | None,
) -> None:
    """Write all frames in the narrowest type that holds every tile, found on the way."""
    mask = None if valid is None else valid.values
    stored = 0
    start = 0
    array = None
    while start < len(order):
        number = order[start : start + tile_frames]
        tile = np.asarray(intensity[_slice_if_contiguous(number)])
        check_counts(tile, mask, number)
        if mask is not None:
            tile = np.where(mask, tile, tile.dtype.type(0))
        needed = _narrowest(tile)
        if needed > stored and start > 0:
            # The tiles before fitted a narrower type: begin anew.
            stored, start, array = needed, 0, None
            continue
        stored = max(stored, needed)
        dtype = STORED[stored][0]
        if array is None:
            array = _new_array(folder, intensity.shape, dtype, tile_frames)
        array[start : start + len(number)] = tile.astype(dtype, copy=False)
        start += len(number)
        if progress is not None:
            progress(start, len(order))


def _new_array(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], tile_frames: int) -> Any:
    divisors = [n for n in range(1, 2 * CHUNK_FRAMES + 1) if tile_frames % n == 0]
    chunk = min(divisors, key=lambda n: abs(n - CHUNK_FRAMES))
    return zarr.create_array(
        str(folder),
        name="intensity",
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        shards=(tile_frames, *shape[1:]),
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
        fill_value=0,
        dimension_names=VARIABLES["intensity"],
        # A chunk of zeros is written too: only then is a chunk that is missing always an error.
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def _slice_if_contiguous(number: NDArray[np.int64]) -> Any:
    first, last = int(number[0]), int(number[-1]) + 1
    return slice(first, last) if np.array_equal(number, np.arange(first, last)) else number


def _narrowest(tile: NDArray[Any]) -> int:
    """Index in STORED of the narrowest type that holds these counts without loss."""
    if tile.dtype.kind == "f" and not (tile == np.rint(tile)).all():
        return len(STORED) - 1
    top = tile.max()
    return next(index for index, (_, largest) in enumerate(STORED) if top <= largest)
