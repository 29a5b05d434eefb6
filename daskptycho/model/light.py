"""The illumination of a tile's own frames: computed by itself, or summed up in a sweep."""

from __future__ import annotations

from typing import Any, NamedTuple

from daskptycho.model.model import TileModel
from daskptycho.model.operators import frame_blocks, illuminate
from daskptycho.tiling import Tile

__all__ = ["LIGHT", "Light", "illuminate_tile"]

Array = Any

# The name of `Light` among the sums of a sweep.
LIGHT = "light"


class Light(NamedTuple):
    """The light on a tile's window, where frames have moved since it was known."""

    illumination: Array
    """(y, x) float32 N of the tile's own frames."""

    def with_images(self, convert: Any) -> Light:
        """The same with `convert` applied to the (y, x) array."""
        return Light(convert(self.illumination))


def illuminate_tile(tile: Tile, at: TileModel) -> Array:
    """Illumination of a tile's own frames on its window, (y, x) float32."""
    out = None
    at, tile = at.place(tile)
    # Block by block, since each frame at a fractional position has its own copy of the probe.
    for frames in frame_blocks(len(tile), at.probe):
        view = at.view(tile, frames)
        out = illuminate(view.probe, view.corner, tile.window.shape, out)
    return out
