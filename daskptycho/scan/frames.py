"""The frames of a scan in its Zarr store: written tile by tile, read lazily.

`dataset` calls this module. A lazy array knows the location of its store and opens it where it is read, so
that no store, and no credential in one, gets into a task.
"""

from __future__ import annotations

import functools
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from daskptycho.scan.intake import Intake
from daskptycho.scan.validation import VARIABLES
from daskptycho.storage.store import Location, list_missing, open_zarr_store, retry_store

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = [
    "ProgressCallback",
    "consolidate",
    "create_frames",
    "default_tile_frames",
    "list_missing_chunks",
    "open_lazy_array",
    "write_header",
    "write_scan",
]

ProgressCallback = Callable[[int, int], object]

# Detector pixels in a tile: 16 MB as float32, enough for a task of a tenth of a second or more.
TILE_PIXELS = 2**22

# Frames in an inner chunk: enough to compress and read fast, few enough to look at a single frame.
CHUNK_FRAMES = 16

# Types that frames are stored as, in the order in which they are tried, with the largest whole count of each.
STORED_TYPES = (
    (np.dtype(np.uint16), 2**16 - 1),
    (np.dtype(np.uint32), 2**32 - 1),
    (np.dtype(np.float32), np.inf),
)


@dataclass(frozen=True)
class StoredArray:
    """An array of a store, which a process opens when it first reads from it.

    Attributes
    ----------
    location : Location
    name : str
    shape : tuple of int
    dtype : numpy.dtype
    token : str
        Unique to this opening of the store: an older array of that name may have been opened before.
    """

    location: Location
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    token: str

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        def read() -> NDArray[Any]:
            return np.asarray(_open_array(self.location, self.name, self.token)[index])

        return retry_store(read, f"reading {self.name} from {self.location}", self.location)


@functools.lru_cache(maxsize=64)
def _open_array(location: Location, name: str, token: str) -> Any:
    return zarr.open_array(open_zarr_store(location), path=name, mode="r")


def open_lazy_array(location: Location, variable: xr.Variable, name: str) -> da.Array:
    """Open a variable of a store as a dask array whose chunks are shards.

    The graph holds the location and no open store.

    Parameters
    ----------
    location : Location
    variable : xarray.Variable
        The variable as xarray opens it.
    name : str
    """
    token = uuid.uuid4().hex
    shards = variable.encoding.get("shards") or variable.encoding["chunks"]
    return da.from_array(
        StoredArray(location, name, variable.shape, variable.dtype, token),
        # With chunks smaller than a shard, the index of the shard would be read many times.
        chunks=(shards[0], *variable.shape[1:]),
        name=f"{name}-{token}",
        meta=np.empty((0,) * variable.ndim, dtype=variable.dtype),
        inline_array=True,
    )


def list_missing_chunks(
    location: Location, written: NDArray[np.bool_] | None = None
) -> tuple[list[str], int]:
    """Keys of the chunks (shards) of `intensity` that the store lacks, and the number that it should have.

    With `written`, a (tile,) bool array, only the chunks of those tiles have to be there.
    """
    array: Any = zarr.open_array(open_zarr_store(location), path="intensity", mode="r")
    grid = [range(-(-n // size)) for n, size in zip(array.shape, array.shards or array.chunks, strict=True)]
    keys = [
        array.metadata.encode_chunk_key(index)
        for index in product(*grid)
        if written is None or written[index[0]]
    ]
    return list_missing(location.joinpath("intensity"), keys), len(keys)


def default_tile_frames(frames: int, height: int, width: int) -> int:
    """Number of frames in a tile of at most about four million pixels, with tiles of about equal size."""
    limit = max(1, TILE_PIXELS // (height * width))
    tiles = -(-frames // limit)
    size = -(-frames // tiles)
    return size if size <= CHUNK_FRAMES else -(-size // CHUNK_FRAMES) * CHUNK_FRAMES


def write_scan(
    store: Store,
    header: xr.Dataset,
    intensity: Any,
    order: NDArray[np.int64],
    tile_frames: int,
    intake: Intake,
    conclude: Callable[[], xr.Dataset],
    progress: ProgressCallback | None = None,
) -> None:
    """Write the variables of a scan into a store, its frames tile by tile.

    Parameters
    ----------
    store : zarr.abc.store.Store
    header : xarray.Dataset
        Everything but `intensity`, in the order of the input.
    intensity : (frame, qy, qx) array
        Indexed by arrays of frame numbers, one tile at a time.
    order : (frame,) int array
        Numbers of the frames in the order in which they are stored.
    tile_frames : int
    intake : Intake
        What all counts pass through.
    conclude : callable
        Returns the variables that follow from the frames, in the order of the input, once all are written.
    progress : callable, optional
        Called with (frames written, all frames) after each tile.
    """
    write_header(store, header.isel(frame=order))
    _write_frames(store, intensity, order, tile_frames, intake, progress)
    found = conclude().assign_attrs(header.attrs)
    if found.variables:
        write_header(store, found.isel(frame=order, missing_dims="ignore"))
    consolidate(store)


def consolidate(store: Store) -> None:
    """Write the metadata of all variables beside those of the root, for readers over a network."""
    with warnings.catch_warnings():
        # xarray.open_zarr warns where consolidated metadata are missing; writing them warns that the
        # specification of Zarr v3 does not have them yet.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)


def write_header(store: Store, header: xr.Dataset) -> None:
    """Write the small variables of a scan, sorted as they are stored; arrays that are there stay."""
    # Without the fill value, xarray would declare NaN to mark missing values.
    encoded = {"_FillValue": None, "compressors": (ZstdCodec(), Crc32cCodec())}
    there = set(zarr.group(store).array_keys())
    encoding = {name: encoded for name in header.variables if name not in there}
    header.to_zarr(store, mode="a", zarr_format=3, consolidated=False, encoding=encoding)


def _write_frames(
    store: Store,
    intensity: Any,
    order: NDArray[np.int64],
    tile_frames: int,
    intake: Intake,
    progress: ProgressCallback | None,
) -> None:
    """Write all frames in the narrowest type that holds every tile, which is found while writing."""
    stored = 0
    start = 0
    array = None
    while start < len(order):
        number = order[start : start + tile_frames]
        tile = intake.admit(_read_frames(intensity, number), number)
        if intake.stale:
            # Pixels were found not to count that earlier tiles still have: start again.
            intake.begin_again()
            stored, start, array = 0, 0, None
            continue
        required = _narrowest_type(tile)
        if required > stored and start > 0:
            # The earlier tiles were written in a narrower type: start again.
            intake.begin_again()
            stored, start, array = required, 0, None
            continue
        stored = max(stored, required)
        dtype = STORED_TYPES[stored][0]
        if array is None:
            array = create_frames(store, intensity.shape, dtype, tile_frames)
        array[start : start + len(number)] = tile.astype(dtype, copy=False)
        start += len(number)
        if progress is not None:
            progress(start, len(order))


def _read_frames(intensity: Any, number: NDArray[np.int64]) -> NDArray[Any]:
    """The frames of these numbers, in memory."""
    if not hasattr(intensity, "__dask_graph__"):
        return np.asarray(intensity[_as_slice(number)])
    # A dask array with query planning takes only slices.
    runs = np.split(number, np.flatnonzero(np.diff(number) != 1) + 1)
    frames = intensity[number] if hasattr(intensity, "blocks") else None
    if frames is None or len(runs) == 1:
        frames = da.concatenate([intensity[run[0] : run[-1] + 1] for run in runs])
    return np.asarray(frames.compute())


def create_frames(
    store: Store,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    tile_frames: int,
    codec: Literal["zstd", "lz4"] = "zstd",
) -> Any:
    """Create the Zarr array of the frames, with one shard for each tile."""
    divisors = [n for n in range(1, 2 * CHUNK_FRAMES + 1) if tile_frames % n == 0]
    chunk = min(divisors, key=lambda n: abs(n - CHUNK_FRAMES))
    return zarr.create_array(
        store,
        name="intensity",
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        shards=(tile_frames, *shape[1:]),
        # Bytes that change on a disk or on the way would otherwise become other counts.
        compressors=(BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle"), Crc32cCodec()),
        fill_value=0,
        dimension_names=VARIABLES["intensity"],
        # Chunks of zeros are written too, so that a missing chunk is always an error. The store does not keep
        # this: see `growing.open_arrays`.
        config={"write_empty_chunks": True},
        overwrite=True,
    )


def _as_slice(number: NDArray[np.int64]) -> Any:
    """The frame numbers as a slice where they are contiguous, which most arrays read faster."""
    first, last = int(number[0]), int(number[-1]) + 1
    return slice(first, last) if np.array_equal(number, np.arange(first, last)) else number


def _narrowest_type(tile: NDArray[Any]) -> int:
    """Index in STORED_TYPES of the narrowest type that holds these counts without loss."""
    if tile.dtype.kind == "f" and not (tile == np.rint(tile)).all():
        return len(STORED_TYPES) - 1
    # Not in the type of the tile, in which the largest number of another type may be rounded.
    maximum = float(tile.max())
    return next(index for index, (_, largest) in enumerate(STORED_TYPES) if maximum <= largest)
