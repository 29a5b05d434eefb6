"""`daskptycho.ScanWriter`: writes the frames of a scan that grows, in any order, tile by tile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import OptionError, ScanError, warn_caller
from daskptycho.scan.calibration import position_in_pixels
from daskptycho.scan.dataset import open_scan, tile_chunks
from daskptycho.scan.findings import describe_intake
from daskptycho.scan.growing import FRAMES_WRITTEN, NOT_YET, count_written
from daskptycho.scan.intake import Intake
from daskptycho.scan.left_out import FRAME_USED, list_numbers
from daskptycho.storage.store import (
    claim_part,
    open_dataset,
    open_zarr_store,
    parse_location,
    release_part,
    retry_store,
)

__all__ = ["ScanWriter"]

# The variables of which each tile has a chunk, in the order in which they are written.
PARTS = ("position", FRAME_USED, "intensity", FRAMES_WRITTEN)


class _Tile:
    """The frames of a tile that have come, until all of them have."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        # Not filled: pages that no frame has come to take no memory yet.
        self.counts = np.empty(shape, dtype=dtype)
        self.there = np.zeros(shape[0], dtype=bool)


class ScanWriter:
    """Writes the frames of a scan that `create_scan` has laid out by its planned positions.

    Frames come in blocks of any size and in any order. They are in memory until their tile is complete; its
    shard is then written whole, and readers see it. A writer that is killed leaves a scan that can be opened,
    and a new one goes on: frames of tiles that were not complete have to be written once more (`missing`).

    As a context manager it closes the scan at its end, unless an error ends it.

    Parameters
    ----------
    url : str or Path
        The location of the scan.
    tiles : sequence of int, optional
        Numbers of the tiles that this writer writes, consecutive; all of them by default. Frames of other
        tiles are passed over, so that several writers may be given the same frames.
    mask_value : float or sequence of float, optional
        See `create_scan`.
    clip_negative : bool
        See `create_scan`.

    Attributes
    ----------
    written : int
        Number of frames in the store, from this writer and from earlier ones.
    pending : int
        Number of frames in memory, whose tiles are not complete.
    outside : int
        Number of frames that are not in the plan, and are left out.
    repeated : int
        Number of frames that came once more, and are passed over.

    Warns
    -----
    UserWarning
        A frame is outside the plan; the counts of a tile or its positions are doubtful, as in `create_scan`,
        said once for each kind; or frames are missing at the end.

    Raises
    ------
    ScanError
        There is no scan at `url` that was laid out by its planned positions, or another process writes these
        tiles.
    StoreError
        The server does not answer, or denies access.
    OptionError
        `tiles` are not consecutive numbers of tiles.

    Examples
    --------
    >>> scan = dp.create_scan("scan.zarr", planned_position=plan, frame_shape=(128, 128), dtype="uint16")
    >>> with dp.ScanWriter("scan.zarr") as writer:
    ...     for number, frame in detector:
    ...         writer.write(frame, number)
    """

    def __init__(
        self,
        url: str | Path,
        *,
        tiles: Sequence[int] | None = None,
        mask_value: float | Sequence[float] = (),
        clip_negative: bool = False,
    ) -> None:
        self._location = parse_location(url)
        scan = open_scan(url)
        written = count_written(self._location, open_dataset(self._location))
        if written is None:
            raise ScanError(f"{url} was written at once; expected a scan laid out by its planned positions")
        self._own = _check_tiles(tiles, len(written))
        self._mask_value, self._clip_negative = mask_value, clip_negative
        self._header = scan.drop_vars(["intensity", FRAME_USED]).load()
        self._position = self._header["position"].values.copy()
        planned = position_in_pixels(scan)
        self._shape, self._dtype = scan["intensity"].shape, scan["intensity"].dtype
        self._low, self._high = planned.min(axis=0) - self._shape[1:], planned.max(axis=0) + self._shape[1:]
        self._starts = np.cumsum((0, *tile_chunks(scan)))
        self._numbers = self._header["frame_number"].values
        self._sorted = np.argsort(self._numbers)
        self._valid = self._header["valid"].values.copy()
        self._counts = written
        self._tiles: dict[int, _Tile] = {}
        self._said: set[str] = set()
        self.outside = self.repeated = 0
        self._note = claim_part(self._location, PARTS, self._own[0], self._own[-1])
        self._store = zarr.open_group(open_zarr_store(self._location, read_only=False), mode="r+")

    @property
    def written(self) -> int:
        """Number of frames in the store."""
        return int(self._counts[self._counts > 0].sum())

    @property
    def pending(self) -> int:
        """Number of frames in memory."""
        return sum(int(tile.there.sum()) for tile in self._tiles.values())

    @property
    def missing(self) -> NDArray[np.int64]:
        """Numbers of the planned frames of this writer's tiles that have not come, in ascending order."""
        parts = [np.empty(0, dtype=np.int64)]
        for tile in self._own:
            if self._counts[tile] == NOT_YET:
                numbers = self._numbers[self._frames_of(tile)]
                parts.append(numbers[~self._tiles[tile].there] if tile in self._tiles else numbers)
        return np.sort(np.concatenate(parts))

    def write(self, frames: ArrayLike, numbers: ArrayLike, position: ArrayLike | None = None) -> int:
        """Take frames over, and write the tiles that they complete.

        Parameters
        ----------
        frames : (frame, qy, qx) or (qy, qx) array
            Counts.
        numbers : (frame,) int array or int
            Numbers of the frames, as in the plan.
        position : (frame, 2) array, optional
            Measured positions in the unit of the plan. NaN, or no position: the planned one holds.

        Returns
        -------
        int
            Number of frames that were taken over.

        Raises
        ------
        ScanError
            Shapes do not fit, or counts do not fit into the type of the plan, or are impossible.
        StoreError
            The server does not answer, or denies access.
        """
        counts, number = np.asarray(frames), np.atleast_1d(np.asarray(numbers))
        counts = counts[np.newaxis] if counts.ndim == 2 else counts
        if counts.shape != (len(number), *self._shape[1:]) or number.dtype.kind not in "iu":
            raise ScanError(
                f"frames have the shape {counts.shape}, for {len(number)} numbers of type {number.dtype}; "
                f"expected frames of {self._shape[1]} x {self._shape[2]} pixels, and a whole number for each"
            )
        counts = self._convert(counts)
        index = self._find(number)
        if position is not None:
            self._place(index, position)
        return sum(self._take(int(own), of_frame) for own, of_frame in zip(index, counts, strict=True))

    def write_position(self, numbers: ArrayLike, position: ArrayLike) -> None:
        """Take measured positions over that come before or after their frames.

        Those of tiles that have been written are changed in the store; a run that follows takes them up with
        the next tile.

        Parameters
        ----------
        numbers : (frame,) int array
            Numbers of the frames.
        position : (frame, 2) array
            In the unit of the plan.
        """
        index = self._find(np.atleast_1d(np.asarray(numbers)))
        self._place(index, position)
        tiles = np.unique(self._tile_of(index[index >= 0]))
        for tile in tiles[np.isin(tiles, self._own)]:
            if self._counts[tile] > 0:
                self._write_part("position", self._frames_of(tile), self._position[self._frames_of(tile)])

    def close(self) -> None:
        """End the scan, or this writer's tiles of it: what is in memory is written, the rest is missing.

        Frames that are missing stay in the scan, with ``frame_used`` False.
        """
        missing = self.missing
        for tile in self._own:
            if self._counts[tile] == NOT_YET and tile in self._tiles:
                self._write_tile(tile)
            elif self._counts[tile] == NOT_YET:
                self._record(tile, 0)
        if self.outside:
            warn_caller(f"{self.outside} frames were outside the plan, and are left out")
        if missing.size:
            warn_caller(
                f"{list_numbers(missing)} of {len(self._numbers)} planned frames never came, and "
                f"{'is' if missing.size == 1 else 'are'} left out"
            )
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._release()

    def _release(self) -> None:
        self._tiles.clear()
        release_part(self._note)

    def _convert(self, counts: NDArray[Any]) -> NDArray[Any]:
        """The counts in the type of the plan."""
        if np.can_cast(counts.dtype, self._dtype):
            return counts
        with np.errstate(invalid="ignore"):
            converted = counts.astype(self._dtype)
        if not np.array_equal(converted, counts):
            raise ScanError(
                f"frames of type {counts.dtype} hold {counts.min()} to {counts.max()}; expected counts that "
                f"fit into {self._dtype}, the type of the plan"
            )
        return converted

    def _find(self, number: NDArray[Any]) -> NDArray[np.int64]:
        """Where these frames are in the scan; -1 for those that are not in the plan, which are counted."""
        at = np.minimum(np.searchsorted(self._numbers, number, sorter=self._sorted), len(self._sorted) - 1)
        index = self._sorted[at]
        index = np.where(self._numbers[index] == number, index, -1)
        unknown = number[index < 0]
        if unknown.size:
            self.outside += len(unknown)
            self._say(
                f"{list_numbers(unknown)} {'is' if unknown.size == 1 else 'are'} outside the plan of "
                f"{len(self._numbers)} frames, and left out",
                kind="outside",
            )
        return index

    def _place(self, index: NDArray[np.int64], position: ArrayLike) -> None:
        """Keep measured positions; where there is none, the planned one holds."""
        measured = np.asarray(position, dtype=np.float64).reshape(-1, 2)
        if len(measured) != len(index):
            raise ScanError(f"position has {len(measured)} places; expected {len(index)}, one for each frame")
        known = (index >= 0) & np.isfinite(measured).all(axis=1)
        self._position[index[known]] = measured[known]

    def _tile_of(self, index: Any) -> Any:
        return np.searchsorted(self._starts, index, side="right") - 1

    def _frames_of(self, tile: int) -> slice:
        return slice(int(self._starts[tile]), int(self._starts[tile + 1]))

    def _take(self, index: int, counts: NDArray[Any]) -> bool:
        """Take one frame over; whether it is new."""
        tile = int(self._tile_of(index))
        if index < 0 or tile not in self._own:
            return False
        if self._counts[tile] != NOT_YET:
            self.repeated += 1
            return False
        frames = self._frames_of(tile)
        held = self._tiles.get(tile)
        if held is None:
            held = self._tiles[tile] = _Tile((frames.stop - frames.start, *self._shape[1:]), self._dtype)
        own = index - frames.start
        if held.there[own]:
            self.repeated += 1
            return False
        held.counts[own], held.there[own] = counts, True
        if held.there.all():
            self._write_tile(tile)
        return True

    def _write_tile(self, tile: int) -> None:
        """Write a tile: positions, which frames are used, the shard, and last the number of its frames."""
        held, frames = self._tiles[tile], self._frames_of(tile)
        used = held.there & self._is_on_canvas(frames, held.there)
        there = np.flatnonzero(used)
        came = held.counts if used.all() else held.counts[there]
        intake = Intake(came.shape, came.dtype, self._valid, self._mask_value, self._clip_negative)
        counts = intake.admit(came, np.arange(len(there)))
        header = self._header.isel(frame=frames.start + there)
        header["position"] = header["position"].copy(data=self._position[frames][there])
        header["valid"] = (("qy", "qx"), self._valid)
        header["intensity"] = (("frame", "qy", "qx"), counts)
        found, said = describe_intake(header, intake)
        if FRAME_USED in found:
            used[there] = found[FRAME_USED].values
        self._mask(intake.valid)
        for sentence in said:
            self._say(sentence)
        if counts is not held.counts:
            held.counts[:] = 0
            held.counts[there] = counts
        self._write_part("position", frames, self._position[frames])
        self._write_part(FRAME_USED, frames, used)
        self._write_part("intensity", frames, held.counts)
        self._record(tile, int(held.there.sum()))
        del self._tiles[tile]

    def _is_on_canvas(self, frames: slice, there: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which positions of a tile are on the canvas of the plan, with a frame of room around it."""
        own = self._header.isel(frame=frames)
        own["position"] = own["position"].copy(data=self._position[frames])
        position = position_in_pixels(own)
        inside: NDArray[np.bool_] = ((position >= self._low) & (position <= self._high)).all(axis=1)
        lost = there & ~inside
        if lost.any():
            self.outside += int(lost.sum())
            numbers = list_numbers(self._numbers[frames][lost])
            self._say(f"{numbers} lie off the canvas of the plan, and are left out", kind="off the canvas")
        return inside

    def _mask(self, valid: NDArray[np.bool_]) -> None:
        """Mask pixels that were found not to count, in the store too."""
        self._valid &= valid
        stored: Any = self._store["valid"]
        now = retry_store(lambda: np.asarray(stored[...]), f"reading {self._location}", self._location)
        self._valid &= now
        if not np.array_equal(self._valid, now):
            self._write_part("valid", slice(None), self._valid)

    def _record(self, tile: int, frames: int) -> None:
        self._write_part(FRAMES_WRITTEN, slice(tile, tile + 1), np.int32(frames))
        self._counts[tile] = frames

    def _write_part(self, name: str, where: slice, values: Any) -> None:
        """Write a part of a variable, which is a whole chunk or shard."""
        array: Any = self._store[name]

        def write() -> None:
            array[where] = values

        retry_store(write, f"writing {name} to {self._location}", self._location)

    def _say(self, sentence: str, kind: str | None = None) -> None:
        """Warn, once for each kind of sentence: the next tile would say the same with other numbers."""
        kind = re.sub(r"[\d.,]+", "", sentence) if kind is None else kind
        if kind not in self._said:
            self._said.add(kind)
            warn_caller(sentence)


def _check_tiles(tiles: Iterable[int] | None, count: int) -> range:
    if tiles is None:
        return range(count)
    own = [int(tile) for tile in tiles]
    if not own or own != list(range(own[0], own[0] + len(own))) or own[0] < 0 or own[-1] >= count:
        raise OptionError(f"tiles are {own}; expected consecutive ones of the scan's {count}, from 0")
    return range(own[0], own[-1] + 1)
