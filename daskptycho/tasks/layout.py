"""What a run keeps on the workers from its first sweep to its last: the model, and what stays of tiles.

On a GPU all of it is brought to the device once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal, NamedTuple

import xarray as xr

from daskptycho.backend import Device
from daskptycho.model.amplitudes import Amplitudes
from daskptycho.model.model import Model, move_tile
from daskptycho.sync.gramian import GramianBlock, block_within, gramian_blocks
from daskptycho.tasks.frames import StoredAmplitudes, confirm_counts, lay_out_amplitudes
from daskptycho.tasks.spec import Home, Value, place, task
from daskptycho.tasks.spill import StoringImages
from daskptycho.tiling import Shape, Strip, Tile, Tiling

__all__ = ["Layout", "PairsToFind", "Residency", "TileData", "confirm_layout", "find_pairs", "lay_out"]

Array = Any
Method = Literal["two-level", "full"] | None


class Residency(Enum):
    """What stays in memory from task to task, in the order in which a run gives up memory."""

    HELD = "amplitudes held"
    WAVES_TWICE = "amplitudes held, waves computed twice"
    """Waves do not wait for a parameter of the model: they are computed a second time."""
    STREAMED = "amplitudes streamed"
    """Amplitudes stay in the scan's store and are read by each task that needs them; waves as above."""
    ON_DISK = "amplitudes streamed, images on disk"
    """Images, illuminations and overlap sums lie on disk from task to task besides."""

    @property
    def waves_twice(self) -> bool:
        return self is not Residency.HELD

    @property
    def streamed(self) -> bool:
        return self in (Residency.STREAMED, Residency.ON_DISK)

    @property
    def images_on_disk(self) -> bool:
        return self is Residency.ON_DISK


@dataclass(frozen=True)
class PairsToFind:
    """The pairs of frames within a tile, found again by each task that needs them, on the host.

    A frame that overlaps with a hundred others would have pairs as large as a quarter of its counts.
    """

    frame_shape: Shape
    period: Shape | None


def find_pairs(pairs: GramianBlock | PairsToFind, tile: Tile) -> GramianBlock:
    """The block within a tile, with its pairs."""
    return block_within(tile, pairs.frame_shape, pairs.period) if isinstance(pairs, PairsToFind) else pairs


class TileData(NamedTuple):
    """What stays of a tile over a run."""

    tile: Tile
    strips: list[Strip]
    """What it takes over from its neighbours."""
    amplitudes: Amplitudes | StoredAmplitudes
    pairs: GramianBlock | PairsToFind | None
    """Within the tile, where it is synchronised by itself."""


@dataclass(frozen=True)
class Layout:
    """What stays the same over a run.

    Attributes
    ----------
    tiling : Tiling
    model : Model
        On the host.
    tile_model : Value
        The model where the tiles are.
    tiles : list of Value
        `TileData` of each tile.
    outline : list of GramianBlock
        Which blocks H has, without their pairs; empty unless H is assembled.
    blocks : list of Value
        Those blocks with their pairs.
    amplitudes : list of Value
        Of each tile, as in `tiles`.
    residency : Residency
    device : "cpu" or "gpu"
        Where the arrays of all tasks live.
    """

    tiling: Tiling
    model: Model
    tile_model: Value
    tiles: list[Value]
    outline: list[GramianBlock]
    blocks: list[Value]
    amplitudes: list[Value]
    residency: Residency = Residency.HELD
    device: Device = "cpu"

    def storing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that leaves an image, for a task: it leaves it where this run keeps images."""
        return StoringImages(function) if self.residency.images_on_disk else function

    def home(self, tile: int) -> Home:
        """Where the tasks of a tile run."""
        return Home(tile, len(self.tiling.tiles))


def lay_out(
    scan: xr.Dataset,
    tiling: Tiling,
    model: Model,
    method: Method,
    *,
    residency: Residency = Residency.HELD,
    device: Device = "cpu",
) -> Layout:
    """Lay out a run; nothing is computed yet.

    Parameters
    ----------
    scan : xarray.Dataset
    tiling : Tiling
        Of the scan's own chunks.
    model : Model
    method : "two-level", "full" or None
        How frames are synchronised, which decides the overlapping pairs of frames to look for.
    residency : Residency
        Images are kept on disk on a CPU only.
    device : "cpu" or "gpu"
    """
    tiles = [place(tile, Home(tile.index, len(tiling.tiles))) for tile in tiling.tiles]
    blocks = gramian_blocks(tiling) if method == "full" else []
    pairs: list[Value | None] = [None] * len(tiles)
    if method == "two-level" and residency.streamed and device == "cpu":
        pairs = [place(PairsToFind(tiling.frame_shape, tiling.period))] * len(tiles)
    elif method == "two-level":
        # Each tile finds its own: the client need not know any pair.
        pairs = [task(_find_pairs_on, device, tile, tiling.frame_shape, tiling.period) for tile in tiles]
    if device == "gpu":
        tiles = [task(move_tile, tile, device) for tile in tiles]
    amplitudes = lay_out_amplitudes(scan, tiling, model.forward, streamed=residency.streamed, device=device)
    placed = place(model)
    return Layout(
        tiling=tiling,
        model=model,
        tile_model=placed if device == "cpu" else task(_move_model, placed),
        tiles=[
            task(TileData, tile, tiling.strips_into(index), own, within)
            for index, (tile, own, within) in enumerate(zip(tiles, amplitudes, pairs, strict=True))
        ],
        outline=[block.outline() for block in blocks],
        blocks=[task(_move_pairs, device, place(block)) for block in blocks],
        amplitudes=amplitudes,
        residency=residency,
        device=device,
    )


def confirm_layout(layout: Layout, counts: Sequence[float]) -> Layout:
    """The same layout; a tile whose frames are read once more has to have the counts of the first time."""
    return replace(
        layout,
        tiles=[task(_confirm, tile, own) for tile, own in zip(layout.tiles, counts, strict=True)],
        amplitudes=[],
    )


def _confirm(data: TileData, counts: float) -> TileData:
    return data._replace(amplitudes=confirm_counts(data.amplitudes, counts))


def _find_pairs_on(device: Device, tile: Tile, frame_shape: Shape, period: Shape | None) -> GramianBlock:
    return block_within(tile, frame_shape, period).to(device)


def _move_pairs(device: Device, block: GramianBlock) -> GramianBlock:
    return block.to(device)


def _move_model(model: Model) -> Model:
    return model.to("gpu")
