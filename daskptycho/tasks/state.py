"""The state of a run between two sweeps, and the settings of a sweep.

A sweep leaves overlap sums and the phases of tiles. The tasks of the coming sweep merge the image from them
and from the strips of neighbouring tiles, which saves one task for each tile and sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from daskptycho.model.algorithms import AP, Algorithm
from daskptycho.model.model import TileModel
from daskptycho.model.sweep import Leave, OverlapSum, Stack, illuminate_tile
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.positions import Pace
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.strips import Pieces, add_neighbours, cut_strips

__all__ = [
    "State",
    "SweepSettings",
    "TileState",
    "Unmerged",
    "illuminate_tiles",
    "merge_image",
    "model_on_tiles",
    "previous_image",
    "stack_of",
]

Array = Any


@dataclass(frozen=True)
class State:
    """The state of a run between two sweeps, as values.

    Attributes
    ----------
    shared : Value
        A dictionary: the parameters of the model that have one value for all frames, by name.
    tiles : list of TileState
        One for each tile; their fields are values.
    previous_shared : Value or None
        The shared parameters before the last sweep.
    """

    shared: Value
    tiles: list[TileState]
    previous_shared: Value | None = None


@dataclass(frozen=True)
class SweepSettings:
    """The settings of one sweep, the same for all tiles.

    Attributes
    ----------
    algorithm : Algorithm
    how : Synchronisation
    counts : float
        ``sum a^2`` over all valid pixels of all frames.
    momentum : float
        The sweep starts from ``psi + momentum (psi - psi_previous)``. The same holds for parameters that have
        momentum and are due.
    keeps_image : bool
        Whether the sweep keeps the image that it started from, since a later sweep needs it for its momentum.
    due : set of str
        Names of the parameters that the sweep updates.
    pace : Pace or None
        How far frames move after the sweep; None if positions are not refined after it.
    """

    algorithm: Algorithm = field(default_factory=AP)
    how: Synchronisation = field(default_factory=lambda: Synchronisation(Sync(), "degree"))
    counts: float = 1.0
    momentum: float = 0.0
    keeps_image: bool = False
    due: frozenset[str] = frozenset()
    pace: Pace | None = None

    @property
    def leave(self) -> Leave:
        """The form in which the sweep that updates the object returns its frames; see `sweep_tile`."""
        return "overlap sum" if self.how.normalisation is None else "weighted frames"

    @property
    def two_level(self) -> bool:
        """Whether the sweep synchronises on two levels."""
        return self.how.normalisation is not None and self.how.sync.method == "two-level"


class Unmerged(NamedTuple):
    """All that is needed to merge a tile's image; `merge_image` does it."""

    swept: Any
    """The `TileSweep` of the tile, with its overlap sum."""
    pieces: Pieces
    """The strips of neighbouring tiles."""
    phases: Any
    """`Phases` of all tiles; None if the phases are in the overlap sums already."""
    shared: Any
    """The model's shared values after the sweep, whose momentum has not been added."""


class TileState(NamedTuple):
    """The state of a tile between two sweeps. Its fields are values in a graph, and arrays in a task."""

    image: Any
    """(y, x) complex64 array, or `Unmerged`."""
    illumination: Any
    """(y, x) float32 N on the tile's window, summed over all tiles."""
    own: Any
    """A dictionary: the values, for the tile's frames, of parameters that have one for each frame."""
    previous: Any = None
    """(y, x) complex64 image one sweep before, if `image` is merged; see `previous_image`."""
    stack: Any = None
    """`Stack` of the algorithm or None, if `image` is merged; see `stack_of`."""


def merge_image(data: TileData, state: TileState, at: TileModel) -> Array:
    """The tile's image, (y, x) complex64: merged from the last sweep unless it is merged already."""
    source = state.image
    if not isinstance(source, Unmerged):
        return source[...]
    # With momentum the coming sweep extrapolates the probe, and pixels at the limit of light would differ.
    at = at._replace(shared=source.shared)
    phases = None if source.phases is None else source.phases.phase
    image_sum = source.swept.left.image_sum[...]
    total = image_sum.copy() if phases is None else image_sum * phases[data.tile.index]
    for strip, pixels in zip(data.strips, cut_strips(source.pieces, data.strips), strict=True):
        total[strip.to_target] += pixels if phases is None else pixels * phases[strip.source]
    total *= at.inverse_illumination(state.illumination[...])
    return total


def previous_image(state: TileState) -> Array | None:
    """The tile's image one sweep before; None if it was not kept."""
    kept = state.image.swept.image if isinstance(state.image, Unmerged) else state.previous
    return None if kept is None else kept[...]


def stack_of(data: TileData, state: TileState) -> Stack | None:
    """The stack of the algorithm; None if it has none."""
    if not isinstance(state.image, Unmerged):
        return state.stack
    swept, phases = state.image.swept, state.image.phases
    if swept.carried is None:
        return None
    left = swept.left
    if isinstance(left, TileSum) and phases is not None:
        return Stack(swept.carried, left.found.phase * phases.phase[data.tile.index])
    return Stack(swept.carried, left.phase if isinstance(left, OverlapSum) else None)


def model_on_tiles(
    layout: Layout, shared: Any, own: Sequence[Any], due: frozenset[str] = frozenset()
) -> list[TileModel]:
    """The model on each tile; the fields are values, for the arguments of tasks."""
    model: Any = layout.tile_model
    return [TileModel(model, shared, of_tile, due) for of_tile in own]


def _illuminate(data: TileData, at: TileModel) -> Array:
    return illuminate_tile(data.tile, at)


def illuminate_tiles(layout: Layout, models: Sequence[TileModel]) -> list[Value]:
    """N on each tile's window, (y, x) float32, summed over all tiles."""
    illuminate = layout.storing(_illuminate)
    return add_neighbours(
        layout, [task(illuminate, *of_tile) for of_tile in zip(layout.tiles, models, strict=True)]
    )
