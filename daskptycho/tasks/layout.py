"""The layout of a run: the model and the data of tiles that stay on the workers from first to last sweep.

On a GPU they are copied to the device once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr

from daskptycho.backend import Device
from daskptycho.model.amplitudes import Amplitudes
from daskptycho.model.model import Model, move_tile
from daskptycho.scan.dataset import frame_numbers
from daskptycho.sync.frame_graph import Frames
from daskptycho.sync.gramian import GramianBlock, block_within, gramian_blocks
from daskptycho.sync.parts import Groups, find_overlaps
from daskptycho.tasks.frames import StoredAmplitudes, confirm_counts, lay_out_amplitudes
from daskptycho.tasks.spec import Home, Value, place, task
from daskptycho.tasks.spill import StoringImages
from daskptycho.tiling import Shape, Strip, Tile, Tiling

__all__ = ["Layout", "PairsToFind", "Residency", "TileData", "confirm_layout", "find_pairs", "lay_out"]

Array = Any
Method = Literal["two-level", "full"] | None


class Residency(Enum):
    """What is held in memory between tasks, from most memory to least."""

    HELD = "amplitudes held"
    """Amplitudes, images, and waves that wait for an update of the model."""
    WAVES_TWICE = "amplitudes held, waves computed twice"
    """Waves are not held during an update of the model, but computed a second time."""
    STREAMED = "amplitudes streamed"
    """Amplitudes are not held either: each task that needs them reads them from the scan's store."""
    ON_DISK = "amplitudes streamed, images on disk"
    """Images, illuminations and overlap sums are not held either, but kept on disk between tasks."""

    @property
    def waves_twice(self) -> bool:
        return self is not Residency.HELD

    @property
    def merges_at_once(self) -> bool:
        """Whether images are merged as soon as they can be, by tasks of their own.

        Otherwise the coming sweep merges them. That saves a task for each tile, and holds an overlap sum
        where an image would be enough.
        """
        return self is not Residency.HELD

    @property
    def streamed(self) -> bool:
        return self in (Residency.STREAMED, Residency.ON_DISK)

    @property
    def images_on_disk(self) -> bool:
        return self is Residency.ON_DISK


@dataclass(frozen=True)
class PairsToFind:
    """In place of the pairs of frames within a tile: each task that needs them finds them again, on the host.

    The pairs of a frame that overlaps a hundred others would need a quarter of the memory of its counts; and
    they change if frames move.
    """

    frame_shape: Shape
    period: Shape | None
    device: Device = "cpu"


def find_pairs(pairs: GramianBlock | PairsToFind, tile: Tile) -> GramianBlock:
    """The block of H within a tile with its pairs, found if need be."""
    if not isinstance(pairs, PairsToFind):
        return pairs
    return block_within(tile, pairs.frame_shape, pairs.period).to(pairs.device)


class TileData(NamedTuple):
    """The data of a tile that stay the same for a whole run."""

    tile: Tile
    strips: list[Strip]
    """The parts of its window where tiles overlap it."""
    amplitudes: Amplitudes | StoredAmplitudes
    pairs: GramianBlock | PairsToFind | None
    """The pairs of frames within the tile; None unless synchronisation is two-level."""


@dataclass(frozen=True)
class Layout:
    """The model and the data of all tiles, as values on the workers.

    Attributes
    ----------
    tiling : Tiling
    model : Model
        The model on the client, with its arrays on the host.
    tile_model : Value
        The same model on the device of the tiles.
    tiles : list of Value
        The `TileData` of each tile.
    outline : list of GramianBlock
        The blocks of H without their pairs; empty unless synchronisation is full.
    blocks : list of Value
        The same blocks with their pairs.
    amplitudes : list of Value
        The amplitudes of each tile, as in `tiles`; empty once their counts are known (`confirm_layout`).
    parts : Groups or None
        The parts that frames fall into, if synchronisation is full; None if there is only one.
    residency : Residency
    device : "cpu" or "gpu"
        Where the arrays of all tasks are.
    frames : Value or None
        `Frames`, if any parameter of the model has a value for each of them.
    """

    tiling: Tiling
    model: Model
    tile_model: Value
    tiles: list[Value]
    outline: list[GramianBlock]
    blocks: list[Value]
    amplitudes: list[Value]
    parts: Groups | None = None
    residency: Residency = Residency.HELD
    device: Device = "cpu"
    frames: Value | None = None

    def storing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the function of a task that returns images, to store them on disk if this run does so."""
        return StoringImages(function) if self.residency.images_on_disk else function

    def home(self, tile: int) -> Home:
        """The home of the tasks of a tile."""
        return Home(tile, len(self.tiling.tiles))


def lay_out(
    scan: xr.Dataset,
    tiling: Tiling,
    model: Model,
    method: Method,
    *,
    residency: Residency = Residency.HELD,
    device: Device = "cpu",
    earlier: Mapping[int, Value] | None = None,
) -> Layout:
    """Lay out a run lazily: nothing is computed yet.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
        Each of its tiles has whole chunks of the scan, which is chunked anew otherwise.
    model : Model
    method : "two-level", "full" or None
        The method of synchronisation, which determines the pairs of frames to find.
    residency : Residency
        Images can be kept on disk only with ``device="cpu"``.
    device : "cpu" or "gpu"
    earlier : dictionary, optional
        For tiles with the frames and positions that a tile of an earlier layout had, the `TileData` of that
        one: their frames are not read again.
    """
    earlier = earlier or {}
    tiles = [place(tile, Home(tile.index, len(tiling.tiles))) for tile in tiling.tiles]
    blocks = gramian_blocks(tiling, model.reach(tiling.frame_shape)) if method == "full" else []
    pairs: list[Value | None] = [None] * len(tiles)
    if method == "two-level" and (model.moves_frames or (residency.streamed and device == "cpu")):
        pairs = [place(PairsToFind(tiling.frame_shape, tiling.period, device))] * len(tiles)
    elif method == "two-level":
        # Found by a task for each tile: the client does not need the pairs.
        pairs = [
            task(_take_pairs, earlier[index])
            if index in earlier
            else task(_find_pairs_on, device, tile, tiling.frame_shape, tiling.period)
            for index, tile in enumerate(tiles)
        ]
    if device == "gpu" and not model.moves_frames:
        tiles = [task(move_tile, tile, device) for tile in tiles]
    amplitudes = lay_out_amplitudes(scan, tiling, model.forward, streamed=residency.streamed, device=device)
    for index, data in earlier.items():
        amplitudes[index] = task(_take_amplitudes, data, home=Home(index, len(tiling.tiles)))
    placed = place(model)
    return Layout(
        tiling=tiling,
        model=model,
        tile_model=placed if device == "cpu" else task(_move_model, placed),
        tiles=[
            task(TileData, tile, tiling.strips_into(index), held, within)
            for index, (tile, held, within) in enumerate(zip(tiles, amplitudes, pairs, strict=True))
        ],
        outline=[block.outline() for block in blocks],
        blocks=[task(_move_pairs, device, place(block)) for block in blocks],
        amplitudes=amplitudes,
        parts=find_overlaps(blocks) if blocks else None,
        residency=residency,
        device=device,
        frames=place(_describe_frames(scan, tiling)) if model.per_frame else None,
    )


def _describe_frames(scan: xr.Dataset, tiling: Tiling) -> Frames:
    fraction = np.concatenate([tile.fraction for tile in tiling.tiles])
    valid = scan["valid"].values.mean() if "valid" in scan else 1.0
    pixels = float(valid * scan["intensity"].size)
    return Frames(tiling.corner + fraction, frame_numbers(scan), tiling.period, pixels)


def confirm_layout(layout: Layout, counts: Sequence[float]) -> Layout:
    """The same layout, which checks the sum of a tile's counts whenever its frames are read again.

    Parameters
    ----------
    layout : Layout
    counts : sequence of float
        Sum of the counts of each tile, from the first reading.
    """
    return replace(
        layout,
        tiles=[task(_confirm, *of_tile) for of_tile in zip(layout.tiles, counts, strict=True)],
        amplitudes=[],
    )


def _take_pairs(data: TileData) -> GramianBlock | PairsToFind | None:
    return data.pairs


def _take_amplitudes(data: TileData) -> Amplitudes | StoredAmplitudes:
    return data.amplitudes


def _confirm(data: TileData, counts: float) -> TileData:
    return data._replace(amplitudes=confirm_counts(data.amplitudes, counts))


def _find_pairs_on(device: Device, tile: Tile, frame_shape: Shape, period: Shape | None) -> GramianBlock:
    return block_within(tile, frame_shape, period).to(device)


def _move_pairs(device: Device, block: GramianBlock) -> GramianBlock:
    return block.to(device)


def _move_model(model: Model) -> Model:
    return model.to("gpu")
