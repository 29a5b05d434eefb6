"""`daskptycho.ScanWriter`: writes the frames of a scan that grows, in any order, tile by tile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from daskptycho.errors import ScanError, warn_caller
from daskptycho.scan.arriving_tile import ArrivingTile, admit_counts, find_impossible_frames
from daskptycho.scan.dataset import open_scan
from daskptycho.scan.findings import describe_intake
from daskptycho.scan.growing import (
    FRAMES_WRITTEN,
    MASKED,
    NOT_YET,
    count_written,
    describe_growth,
    open_arrays,
)
from daskptycho.scan.intake import Intake
from daskptycho.scan.left_out import FRAME_USED, list_numbers
from daskptycho.scan.planned_frames import PlannedFrames, check_tiles
from daskptycho.storage.store import (
    claim_part,
    open_dataset,
    parse_location,
    release_part,
    retry_store,
)

__all__ = ["ScanWriter"]

# The variables of which each tile has a chunk, in the order in which they are written.
PARTS = (MASKED, "position", FRAME_USED, "intensity", FRAMES_WRITTEN)


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
        growth = describe_growth(open_scan(url))
        if growth is None:
            raise ScanError(f"{url} was written at once; expected a scan laid out by its planned positions")
        self._own = check_tiles(tiles, growth[1])
        self._mask_value, self._clip_negative = mask_value, clip_negative
        self._tiles: dict[int, ArrivingTile] = {}
        self._said: set[str] = set()
        self.outside = self.repeated = 0
        # Before anything is read that another writer may still change.
        self._note = claim_part(self._location, PARTS, self._own[0], self._own[-1])
        try:
            self._read(url)
        except BaseException:
            release_part(self._note)
            raise

    def _read(self, url: str | Path) -> None:
        """Read what is in the store: the plan, and what earlier writers have written."""
        scan, written = open_scan(url), count_written(self._location, open_dataset(self._location))
        if written is None:
            raise ScanError(f"{url} was replaced while it was opened; expected a scan that grows")
        self._counts = written
        self._plan = PlannedFrames(scan)
        self._shape, self._dtype = scan["intensity"].shape, scan["intensity"].dtype
        self._used = scan[FRAME_USED].values.copy()
        self._valid = scan["valid"].values.copy()
        self._arrays = open_arrays(self._location)
        if MASKED not in self._arrays:
            raise ScanError(
                f"{url} was laid out by an older version; expected a scan of this one: lay it out again"
            )

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
                numbers = self._plan.numbers[self._plan.frames_of(tile)]
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
            Measured positions in the unit of the plan. NaN, or no position: the planned one holds. Those of
            frames that have been written are stored as `write_position` does.

        Returns
        -------
        int
            Number of frames that were taken over.

        Raises
        ------
        ScanError
            Shapes do not fit, or counts of a tile that has come do not fit into the type of the plan, or are
            impossible. The frames to blame are given up, and may be written once more; all others are kept.
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
        index = self._find(number)
        if position is not None:
            self._store_position(index, position)
        taken, refused = 0, None
        for own, of_frame in zip(index, counts, strict=True):
            try:
                taken += self._take(int(own), of_frame)
            except ScanError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        return taken

    def write_position(self, numbers: ArrayLike, position: ArrayLike) -> None:
        """Take measured positions over that come before or after their frames.

        Those of tiles that have been written are changed in the store; a run that follows takes them up with
        the next tile. A frame whose position then lies off the canvas of the plan is left out for good.

        Parameters
        ----------
        numbers : (frame,) int array
            Numbers of the frames.
        position : (frame, 2) array
            In the unit of the plan.
        """
        self._store_position(self._find(np.atleast_1d(np.asarray(numbers))), position)

    def _store_position(self, index: NDArray[np.int64], position: ArrayLike) -> None:
        """Keep positions, and write those of tiles that are in the store."""
        index = self._plan.place(index, position)
        tiles = np.unique(self._plan.tile_of(index))
        for tile in tiles[np.isin(tiles, self._own)]:
            if self._counts[tile] > 0:
                frames = self._plan.frames_of(tile)
                lost = self._used[frames] & ~self._plan.are_on_canvas(frames)
                if lost.any():
                    self._say_off_canvas(frames, lost)
                    self._used[frames] &= ~lost
                    # First: a reader in between must not use a frame without a place.
                    self._write_part(FRAME_USED, frames, self._used[frames])
                self._write_part("position", frames, self._plan.position[frames])

    def close(self) -> None:
        """End the scan, or this writer's tiles of it: what is in memory is written, the rest is missing.

        Frames that are missing stay in the scan, with ``frame_used`` False.

        Raises
        ------
        ScanError
            Frames in memory have impossible counts. They are left out; everything else has been written.
        """
        try:
            self._end()
        finally:
            self._release()

    def _end(self) -> None:
        missing, refused = self.missing, []
        for tile in self._own:
            while tile in self._tiles:
                try:
                    self._write_tile(tile)
                except ScanError as error:
                    refused.append(error)
            if self._counts[tile] == NOT_YET:
                self._record(tile, 0)
        if self.outside:
            warn_caller(f"{self.outside} frames were outside the plan, and are left out")
        if missing.size:
            warn_caller(
                f"{list_numbers(missing)} of {len(self._plan.numbers)} planned frames never came, and "
                f"{'is' if missing.size == 1 else 'are'} left out"
            )
        if refused:
            raise refused[0]

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

    def _find(self, number: NDArray[Any]) -> NDArray[np.int64]:
        """Where these frames are in the scan; -1 for those that are not in the plan, which are counted."""
        index = self._plan.find(number)
        unknown = number[index < 0]
        if unknown.size:
            self.outside += len(unknown)
            self._say(
                f"{list_numbers(unknown)} {'is' if unknown.size == 1 else 'are'} outside the plan of "
                f"{len(self._plan.numbers)} frames, and left out",
                kind="outside",
            )
        return index

    def _take(self, index: int, counts: NDArray[Any]) -> bool:
        """Take one frame over; whether it is new."""
        tile = int(self._plan.tile_of(index))
        if index < 0 or tile not in self._own:
            return False
        if self._counts[tile] != NOT_YET:
            self.repeated += 1
            return False
        frames = self._plan.frames_of(tile)
        held = self._tiles.get(tile)
        if held is None:
            shape = (frames.stop - frames.start, *self._shape[1:])
            held = self._tiles[tile] = ArrivingTile(shape, counts.dtype)
        own = index - frames.start
        if held.there[own]:
            self.repeated += 1
            return False
        held.take(own, counts)
        if held.there.all():
            self._write_tile(tile)
        return True

    def _write_tile(self, tile: int) -> None:
        """Write a tile: positions, which frames are used, the shard, and last the number of its frames."""
        held, frames = self._tiles[tile], self._plan.frames_of(tile)
        used = held.there & self._plan.are_on_canvas(frames)
        lost, there = held.there & ~used, np.flatnonzero(used)
        intake, counts = self._admit(tile, there)
        if lost.any():
            self._say_off_canvas(frames, lost)
        header = self._plan.select(frames.start + there)
        header["valid"] = (("qy", "qx"), self._valid)
        header["intensity"] = (("frame", "qy", "qx"), counts)
        found, said = describe_intake(header, intake)
        if FRAME_USED in found:
            used[there] = found[FRAME_USED].values
        self._mask(tile, intake.valid)
        for sentence in said:
            self._say(sentence)
        if len(counts) < len(used):
            some, counts = counts, np.zeros(held.counts.shape, dtype=self._dtype)
            counts[there] = some
        self._used[frames] = used
        self._write_part("position", frames, self._plan.position[frames])
        self._write_part(FRAME_USED, frames, used)
        self._write_part("intensity", frames, counts)
        self._record(tile, int(held.there.sum()))
        del self._tiles[tile]

    def _admit(self, tile: int, there: NDArray[np.int64]) -> tuple[Intake, NDArray[Any]]:
        """The counts of these frames of a tile as they are stored; frames that cannot be are given up."""
        held, numbers = self._tiles[tile], self._plan.numbers[self._plan.frames_of(tile)][there]
        came = held.counts if len(there) == len(held.there) else held.counts[there]
        intake = Intake(came.shape, came.dtype, self._valid, self._mask_value, self._clip_negative)
        try:
            return intake, admit_counts(came, numbers, self._dtype, intake, self._clip_negative)
        except ScanError:
            bad = find_impossible_frames(came, intake.valid, self._dtype, self._clip_negative)
            held.there[there[bad]] = False
            if not held.there.any():
                del self._tiles[tile]
            raise

    def _say_off_canvas(self, frames: slice, lost: NDArray[np.bool_]) -> None:
        self.outside += int(lost.sum())
        numbers = list_numbers(self._plan.numbers[frames][lost])
        self._say(f"{numbers} lie off the canvas of the plan, and are left out", kind="off the canvas")

    def _mask(self, tile: int, valid: NDArray[np.bool_]) -> None:
        """Mask pixels that a tile shows not to count, in the store too: in a chunk of the tile's own."""
        found = self._valid & ~valid
        if found.any():
            self._write_part(MASKED, slice(tile, tile + 1), found[np.newaxis])
            self._valid &= valid

    def _record(self, tile: int, frames: int) -> None:
        self._write_part(FRAMES_WRITTEN, slice(tile, tile + 1), np.int32(frames))
        self._counts[tile] = frames

    def _write_part(self, name: str, where: slice, values: Any) -> None:
        """Write a part of a variable: a whole chunk or shard."""
        array = self._arrays[name]

        def write() -> None:
            array[where] = values

        retry_store(write, f"writing {name} to {self._location}", self._location)

    def _say(self, sentence: str, kind: str | None = None) -> None:
        """Warn, once for each kind of sentence: the next tile would say the same with other numbers."""
        kind = re.sub(r"[\d.,]+", "", sentence) if kind is None else kind
        if kind not in self._said:
            self._said.add(kind)
            warn_caller(sentence)
