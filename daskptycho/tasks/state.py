"""The state of a run between two sweeps, and the settings of a sweep.

A sweep leaves overlap sums and the phases of tiles. The tasks of the coming sweep merge the image from them
and from the strips of neighbouring tiles, which saves one task for each tile and sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.model.algorithms import AP, LBFGS, Algorithm
from daskptycho.model.gain import Gain
from daskptycho.model.lbfgs import Memory, Step, make_step
from daskptycho.model.light import illuminate_tile
from daskptycho.model.likelihood import Likelihood
from daskptycho.model.model import TileModel
from daskptycho.model.positions import Positions
from daskptycho.model.sweep import Leave, OverlapSum, Stack, merge
from daskptycho.sync.gains import GainPace
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.phases import Phases
from daskptycho.sync.positions import Pace
from daskptycho.sync.two_level import GalerkinRow, TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, task
from daskptycho.tasks.strips import Pieces, add_neighbours, add_unturned, cut_labels, cut_strips

__all__ = [
    "Joined",
    "Measured",
    "State",
    "Stepped",
    "SweepSettings",
    "TileState",
    "Unmerged",
    "illuminate_tiles",
    "image_before",
    "light_tiles",
    "memory_of",
    "merge_image",
    "merge_images",
    "model_on_tiles",
    "previous_image",
    "stack_of",
    "sum_turned",
    "with_light",
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
    joined : Value or None
        The `Joined` of the last sweep, if it was one of L-BFGS.
    """

    shared: Value
    tiles: list[TileState]
    previous_shared: Value | None = None
    joined: Value | None = None


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
    gain_pace : GainPace or None
        Whether gains change after the sweep; None if they are not refined after it.
    smoothing : float
        Weight of the penalty on differences of neighbouring pixels; see `model.sweep.merge`.
    begins_anew : bool
        Whether L-BFGS forgets its earlier steps.
    measures_change : bool
        Whether to measure what the sweep before changed of the object.
    measures_roughness : bool
        Whether L-BFGS measures how much neighbouring pixels differ, for a polish.
    polish : Likelihood or None
        That of counts, in the sweeps of a polish, which smooth the object as strongly as that fits it.
    share : float
        The share of each update that is applied.
    variation_opens_above : float
        Significance above which modes of a varying probe come into use; see `sync.variation`.
    """

    algorithm: Algorithm = field(default_factory=AP)
    how: Synchronisation = field(default_factory=lambda: Synchronisation(Sync(), "degree"))
    counts: float = 1.0
    momentum: float = 0.0
    keeps_image: bool = False
    due: frozenset[str] = frozenset()
    smoothing: float = 0.0
    begins_anew: bool = False
    measures_change: bool = False
    measures_roughness: bool = False
    polish: Likelihood | None = None
    share: float = 1.0
    variation_opens_above: float = np.inf

    @property
    def pairs(self) -> int:
        """Most pairs of L-BFGS; 0 if the sweep is not one of it."""
        return self.algorithm.pairs if isinstance(self.algorithm, LBFGS) else 0

    pace: Pace | None = None
    gain_pace: GainPace | None = None

    @property
    def tested(self) -> frozenset[str]:
        """Names of the parameters that are tested, and updated if that is significant, after the sweep."""
        paces = {Positions.name: self.pace, Gain.name: self.gain_pace}
        return frozenset(name for name, pace in paces.items() if pace is not None)

    @property
    def leave(self) -> Leave:
        """The form in which the sweep that updates the object returns its frames; see `sweep_tile`."""
        return "overlap sum" if self.how.normalisation is None else "weighted frames"

    @property
    def begins_with_light(self) -> bool:
        """Whether the illumination is needed before all frames are swept."""
        inner = self.how.sync.inner > 1
        return inner or self.measures_change or self.pairs > 0 or self.smoothing > 0

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
    """`TilePhases` of all tiles; None if the phases are in the overlap sums already."""


class Measured(NamedTuple):
    """What L-BFGS measured in a tile after a sweep."""

    memory: Memory | None
    """None where only the numbers are sent to the task for all tiles."""
    products: NDArray[np.float64]
    """From `measure_products`."""
    misfit: float
    row: GalerkinRow | None = None
    """The tile's row of G, if the sweep synchronised on two levels."""
    moved: tuple[float, float] = (0.0, 0.0)
    """See `TileSweep`."""
    objective: float = 0.0
    """What L-BFGS makes small."""
    roughness: tuple[float, float] = (0.0, 0.0)
    """Sums of squared differences of neighbours in the light, and of their weights."""


class Joined(NamedTuple):
    """What one task for all tiles found after a sweep of L-BFGS."""

    step: Step
    misfit: float
    """That of the sweep, over all tiles."""
    phases: Phases | None = None
    """Those of the tiles or of the frames, if the sweep synchronised."""
    change: float = np.nan
    """See `reports.Report`."""
    roughness: float = 0.0
    """Mean squared difference of neighbours in the light, before any polish."""


class Stepped(NamedTuple):
    """All that is needed for a tile's image after a step of L-BFGS; `merge_image` makes the step."""

    measured: Any
    """The tile's `Measured`."""
    joined: Any
    """The `Joined` of all tiles."""
    turned: Unmerged | None = None
    """The overlap sums with the phases of a synchronisation, which are added to the step."""


class TileState(NamedTuple):
    """The state of a tile between two sweeps. Its fields are values in a graph, and arrays in a task."""

    image: Any
    """(y, x) complex64 array, `Unmerged` or `Stepped`."""
    illumination: Any
    """(y, x) float32 N on the tile's window, summed over all tiles; None if frames have moved since it was
    known. See `light_tiles`."""
    own: Any
    """A dictionary: the values, for the tile's frames, of parameters that have one for each frame."""
    previous: Any = None
    """(y, x) complex64 image one sweep before, if `image` is merged; see `previous_image`."""
    stack: Any = None
    """`Stack` of the algorithm or None, if `image` is merged; see `stack_of`."""
    measured: Any = None
    """The tile's `Measured` of L-BFGS, if `image` is merged; see `memory_of`."""


def merge_image(data: TileData, state: TileState, at: TileModel) -> Array:
    """The tile's image, (y, x) complex64: merged from the last sweep unless it is merged already."""
    source = state.image
    if isinstance(source, Stepped):
        return _step_image(data, state, at, source)
    if not isinstance(source, Unmerged):
        return source[...]
    swept, total = source.swept, sum_turned(data, source)
    add_unturned(swept, source.pieces, data.strips, total)
    start = None if swept.start is None else swept.start[...]
    return merge(total, state.illumination[...], at, start, swept.smoothing)


def sum_turned(data: TileData, source: Unmerged) -> Array:
    """The overlap sum of all tiles with the phases of the synchronisation, if any, (y, x) complex64."""
    phases: Any = source.phases.phases if isinstance(source.phases, Joined) else source.phases
    image_sum = source.swept.left.image_sum[...]
    if phases is None:
        total = image_sum.copy()
        for strip, pixels in zip(data.strips, cut_strips(source.pieces, data.strips), strict=True):
            total[strip.to_target] += pixels
    else:
        total = image_sum * phases.on_pixels(data.tile.index, source.swept.left.labels, image_sum)
        cut = zip(
            *(data.strips, cut_strips(source.pieces, data.strips), cut_labels(source.pieces, data.strips)),
            strict=True,
        )
        for strip, pixels, labels in cut:
            total[strip.to_target] += pixels * phases.on_pixels(strip.source, labels, pixels)
    return total


def _step_image(data: TileData, state: TileState, at: TileModel, source: Stepped) -> Array:
    memory, illumination = memory_of(state), state.illumination[...]
    assert memory is not None
    image = make_step(memory, source.joined.step)
    if source.turned is not None:
        # The change of the sum by the phases is added to the step. The sum without phases is N psi - D r.
        damped = illumination + at.damping
        turned = sum_turned(data, source.turned)
        turned -= illumination * memory.image
        turned *= np.float32(1) / damped
        image += turned
        image += memory.change
    return image


def image_before(state: TileState) -> Array | None:
    """The tile's image before the last sweep, or where momentum took that; None if it was not kept."""
    if (memory := memory_of(state)) is not None:
        return memory.image
    if (previous := previous_image(state)) is not None:
        return previous
    start = state.image.swept.start if isinstance(state.image, Unmerged) else None
    return None if start is None else start[...]


def memory_of(state: TileState) -> Memory | None:
    """What L-BFGS knows of the tile; None if the last sweep was not one of it."""
    measured = state.image.measured if isinstance(state.image, Stepped) else state.measured
    return None if measured is None else measured.memory


def previous_image(state: TileState) -> Array | None:
    """The tile's image one sweep before; None if it was not kept."""
    if isinstance(state.image, Stepped):
        return None
    kept = state.image.swept.image if isinstance(state.image, Unmerged) else state.previous
    return None if kept is None else kept[...]


def stack_of(data: TileData, state: TileState) -> Stack | None:
    """The stack of the algorithm; None if it has none."""
    if isinstance(state.image, Stepped):
        return None
    if not isinstance(state.image, Unmerged):
        return state.stack
    swept, phases = state.image.swept, state.image.phases
    if swept.carried is None:
        return None
    left = swept.left
    if isinstance(left, TileSum) and phases is not None:
        found = left.found
        return Stack(swept.carried, found.phase * phases.on_frames(data.tile.index, found.part, found.phase))
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


def light_tiles(layout: Layout, state: State) -> State:
    """The same state with the illumination known on all tiles; it is computed where frames have moved since.

    The coming sweep sums it up at little cost. It is needed earlier for a checkpoint or a picture.
    """
    if all(tile.illumination is not None for tile in state.tiles):
        return state
    found = illuminate_tiles(layout, model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles]))
    return replace(state, tiles=with_light(state.tiles, found))


def with_light(tiles: Sequence[TileState], illuminations: Sequence[Value]) -> list[TileState]:
    """The same tiles with N, (y, x) float32, summed over all tiles."""
    return [tile._replace(illumination=lit) for tile, lit in zip(tiles, illuminations, strict=True)]


def merge_images(layout: Layout, state: State) -> list[Value]:
    """The object on each tile's window, (y, x) complex64; merged if need be."""
    models = model_on_tiles(layout, state.shared, [tile.own for tile in state.tiles])
    merge = layout.storing(merge_image)
    return [
        task(merge, *of_tile) if isinstance(of_tile[1].image, Unmerged | Stepped) else of_tile[1].image
        for of_tile in zip(layout.tiles, state.tiles, models, strict=True)
    ]
