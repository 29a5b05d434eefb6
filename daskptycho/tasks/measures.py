"""How well each frame fits, and how far others confirm it, measured at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from daskptycho.model.model import TileModel
from daskptycho.model.sweep import FrameMeasures, measure_tile
from daskptycho.tasks.frames import load_amplitudes
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.state import State, model_on_tiles

__all__ = ["measure_frames"]

Array = Any


def _measure(data: TileData, at: TileModel, image: Array, illumination: Array) -> FrameMeasures:
    return measure_tile(at, data.tile, load_amplitudes(data.amplitudes), image[...], illumination[...])


def measure_frames(layout: Layout, state: State, images: Sequence[Value]) -> list[Value]:
    """The `FrameMeasures` of each tile with its image, as from `merge_images`."""
    models = model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles])
    illuminations = [tile.illumination for tile in state.tiles]
    inputs = zip(layout.tiles, models, images, illuminations, strict=True)
    return [task(_measure, *of_tile) for of_tile in inputs]
