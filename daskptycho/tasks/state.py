"""Where a run stands between two sweeps, and what the coming sweep does about it.

A sweep leaves overlap sums and the phases of the tiles. The image follows from them and from the neighbours'
strips in the coming sweep's own tasks, which saves a task for each tile and sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from daskptycho.model.algorithms import AP, Algorithm
from daskptycho.model.model import TileModel
from daskptycho.model.sweep import Leave, OverlapSum, Stack
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value
from daskptycho.tasks.strips import Pieces, cut_strips

__all__ = [
    "State",
    "SweepSettings",
    "TileState",
    "Unmerged",
    "merge_image",
    "model_on_tiles",
    "previous_image",
    "stack_of",
]

Array = Any


@dataclass(frozen=True)
class State:
    """What one sweep hands to the next.

    Attributes
    ----------
    shared : Value
        The parameters of the model with one value for all frames, a dictionary.
    tiles : list of TileState
        Of values.
    previous_shared : Value or None
        One sweep before.
    """

    shared: Value
    tiles: list[TileState]
    previous_shared: Value | None = None


@dataclass(frozen=True)
class SweepSettings:
    """What one sweep does, the same for all tiles.

    Attributes
    ----------
    algorithm : Algorithm
    how : Synchronisation
    counts : float
        sum a^2 over all valid pixels.
    momentum : float
        The sweep starts from ``psi + momentum (psi - psi_previous)``, parameters that have momentum likewise.
    keeps_image : bool
        A later sweep has momentum and needs the image of this one.
    due : set of str
        Names of the parameters that the sweep updates.
    """

    algorithm: Algorithm = field(default_factory=AP)
    how: Synchronisation = field(default_factory=lambda: Synchronisation(Sync(), "degree"))
    counts: float = 1.0
    momentum: float = 0.0
    keeps_image: bool = False
    due: frozenset[str] = frozenset()

    @property
    def leave(self) -> Leave:
        """What a sweep leaves of its frames where no parameter is updated."""
        return "overlap sum" if self.how.normalisation is None else "weighted frames"

    @property
    def two_level(self) -> bool:
        """Whether the sweep synchronises on two levels."""
        return self.how.normalisation is not None and self.how.sync.method == "two-level"


class Unmerged(NamedTuple):
    """What makes a tile's image: its own overlap sum, its neighbours' strips, and the tiles' phases."""

    swept: Any
    """`TileSweep`"""
    pieces: Pieces
    phases: Any
    """`Phases` of all tiles; None where the frames are turned already."""


class TileState(NamedTuple):
    """What a sweep needs to know of a tile from the sweeps before; in a graph, of values."""

    image: Any
    """(y, x) complex64 array, or `Unmerged`."""
    illumination: Any
    """(y, x) float32 N on the tile's window, summed over all tiles."""
    own: Any
    """Values of the parameters with one for each frame, a dictionary."""
    previous: Any = None
    """(y, x) the image one sweep before, beside a merged image."""
    stack: Stack | None = None
    """Beside a merged image."""


def merge_image(data: TileData, state: TileState, at: TileModel) -> Array:
    """The tile's image."""
    source = state.image
    if not isinstance(source, Unmerged):
        return source[...]
    phases = None if source.phases is None else source.phases.phase
    image_sum = source.swept.left.image_sum[...]
    total = image_sum.copy() if phases is None else image_sum * phases[data.tile.index]
    for strip, pixels in zip(data.strips, cut_strips(source.pieces, data.strips), strict=True):
        total[strip.to_target] += pixels if phases is None else pixels * phases[strip.source]
    total *= at.inverse_illumination(state.illumination[...])
    return total


def previous_image(state: TileState) -> Array | None:
    """The tile's image one sweep before, where it is kept."""
    kept = state.image.swept.image if isinstance(state.image, Unmerged) else state.previous
    return None if kept is None else kept[...]


def stack_of(data: TileData, state: TileState) -> Stack | None:
    """The stack that an algorithm carries, where it has one."""
    if not isinstance(state.image, Unmerged):
        return state.stack
    swept, _, phases = state.image
    if swept.carried is None:
        return None
    left = swept.left
    if isinstance(left, TileSum) and phases is not None:
        return Stack(swept.carried, left.found.phase * phases.phase[data.tile.index])
    return Stack(swept.carried, left.phase if isinstance(left, OverlapSum) else None)


def model_on_tiles(
    layout: Layout, shared: Value, own: Sequence[Any], due: frozenset[str] = frozenset()
) -> list[TileModel]:
    """The model on each tile, of values."""
    model: Any = layout.tile_model
    values: Any = shared
    return [TileModel(model, values, of_tile, due) for of_tile in own]
