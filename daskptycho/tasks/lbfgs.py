"""The part of a sweep's graph for L-BFGS: what each tile measures, and the step of all tiles.

The task that computes the tile's row of G, if the sweep synchronises on two levels, also measures the
products for the step: both need the strips of neighbouring tiles. One task for all tiles finds the phases and
the step. The tasks of the coming sweep make it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from daskptycho.backend import array_module, find_change
from daskptycho.model.lbfgs import measure_products, next_step, remember
from daskptycho.model.likelihood import Likelihood
from daskptycho.model.model import TileModel
from daskptycho.model.operators import brightest, neighbour_differences, overlap
from daskptycho.model.sweep import OverlapSum, TileSweep, Weighted
from daskptycho.sync.phases import Phases
from daskptycho.sync.two_level import TileSum
from daskptycho.tasks.layout import Layout, TileData
from daskptycho.tasks.spec import Value, flatten, gather, task
from daskptycho.tasks.state import (
    Joined,
    Measured,
    State,
    Stepped,
    SweepSettings,
    TileState,
    Unmerged,
    image_before,
    memory_of,
    model_on_tiles,
    sum_turned,
)
from daskptycho.tasks.strips import Pieces, add_unturned, share_neighbours, share_pixels
from daskptycho.tasks.two_level import find_phases, measure_row

__all__ = ["add_unturned_sum", "measure_change", "prepare_polish", "relative_change", "step_tiles"]

Array = Any

# Share of the prior that differences of neighbours are normally distributed. With all of it, detail is lost.
SMOOTHNESS = 0.2


def add_unturned_sum(
    data: TileData, swept: TileSweep, at: TileModel, illumination: Array, settings: SweepSettings
) -> TileSweep:
    """Add to a sweep the sums that phases must not multiply; see `TileSweep.unturned`."""
    total: Array | None = None
    if settings.pairs and isinstance(swept.left, Weighted):
        total = overlap(swept.left.frames, at.locate(data.tile).corner, data.tile.window.shape)
    elif settings.pairs and settings.two_level and isinstance(swept.left, OverlapSum):
        total = swept.left.image_sum
    if settings.smoothing and swept.start is not None:
        differences = neighbour_differences(swept.start, _share_lit(data, illumination[...]))
        differences *= np.float32(settings.smoothing) * brightest(at.probe)
        total = differences if total is None else total + differences
    return swept if total is None else swept._replace(unturned=total, smoothing=settings.smoothing)


def _share_lit(data: TileData, illumination: Array, above: Array | float = 0.0) -> tuple[Array, Array]:
    """`share_neighbours` for neighbours that frames cover, zero for others, which not every tile holds."""
    down, across = share_neighbours(illumination, data.strips)
    covered = illumination > above
    down *= covered[1:]
    down *= covered[:-1]
    across *= covered[:, 1:]
    across *= covered[:, :-1]
    return down, across


def measure_change(data: TileData, image: Array, state: TileState) -> tuple[float, float]:
    """What the last sweep changed of the object, and the object; see `TileSweep.moved`."""
    before = image_before(state)
    if before is None:
        return 0.0, 0.0
    illumination = state.illumination[...]
    xp = array_module(illumination)
    weight = illumination * share_pixels(illumination, data.strips)
    sums = [(weight * xp.abs(part) ** 2).sum(dtype=np.float64) for part in (image - before, image)]
    return float(sums[0]), float(sums[1])


def relative_change(moved: Sequence[tuple[float, float]]) -> float:
    """The relative change of the object, from `measure_change` of all tiles; NaN if it was not measured."""
    change, total = np.sum(np.array(moved), axis=0)
    return float(np.sqrt(change / total)) if total else np.nan


def prepare_polish(
    at: TileModel, joined: Joined | None, settings: SweepSettings, likelihood: Likelihood
) -> tuple[TileModel, SweepSettings]:
    """The model with the likelihood of counts, and the settings with the smoothing that fits the object.

    Differences of neighbours are taken to be normally distributed, with the variance that the object has.
    """
    assert joined is not None
    variance = max(joined.roughness, float(np.finfo(np.float32).tiny))
    smoothing = SMOOTHNESS / (2 * variance * float(brightest(at.probe)))
    model = replace(at.model, likelihood=likelihood)
    return at._replace(model=model), replace(settings, smoothing=smoothing)


class _TileInput(NamedTuple):
    """What a tile's products are measured from. Its fields are values in a graph, and arrays in a task."""

    data: TileData
    at: TileModel
    illumination: Array
    before: TileState
    """The state of the tile before the sweep."""
    swept: TileSweep
    pieces: Pieces


def _measure(own: _TileInput, joined: Joined | None, settings: SweepSettings) -> Measured:
    data, swept, illumination = own.data, own.swept, own.illumination[...]
    turns = settings.how.normalisation is not None
    total = array_module(illumination).zeros(illumination.shape, dtype=np.complex64)
    if not turns:
        total = sum_turned(data, Unmerged(swept, own.pieces, None))
    add_unturned(swept, own.pieces, data.strips, total)
    damped = illumination + at_damping(own.at, swept.smoothing)
    find_change(illumination, damped, swept.start, total)
    step = None if joined is None or settings.begins_anew else joined.step
    memory = remember(swept.start, total, memory_of(own.before), step)
    share = share_pixels(damped, data.strips)
    objective = swept.misfit if swept.objective is None else swept.objective
    if swept.smoothing and swept.start is not None and swept.unturned is not None:
        # The penalty: the sum of squared differences of neighbours.
        objective -= float((swept.start.conj() * swept.unturned).real.sum(dtype=np.float64))
    row = None
    if isinstance(swept.left, TileSum):
        row = measure_row(data, swept, own.pieces, illumination, own.at)
    return Measured(
        memory,
        measure_products(memory, damped * share),
        swept.misfit,
        row,
        swept.moved,
        objective,
        _measure_roughness(data, swept.start, illumination, own.at)
        if settings.measures_roughness
        else (0.0, 0.0),
    )


def _measure_roughness(
    data: TileData, image: Array, illumination: Array, at: TileModel
) -> tuple[float, float]:
    """Sums of squared differences of neighbours that get as much light as the probe's brightest pixel."""
    down, across = _share_lit(data, illumination, brightest(at.probe))
    xp = array_module(image)
    squares = (down * xp.abs(image[1:] - image[:-1]) ** 2).sum(dtype=np.float64)
    squares += (across * xp.abs(image[:, 1:] - image[:, :-1]) ** 2).sum(dtype=np.float64)
    return float(squares), float(down.sum(dtype=np.float64) + across.sum(dtype=np.float64))


def at_damping(at: TileModel, smoothing: float) -> Array:
    """What is added to the illumination, with the weight of the penalty on differences."""
    return at.damping + np.float32(4 * smoothing) * brightest(at.probe) if smoothing else at.damping


def _report_measured(measured: list[Measured]) -> list[Measured]:
    return [own._replace(memory=None) for own in measured]


def _join(
    gathered: list[Measured | list[Measured]],
    joined: Joined | None,
    found: Phases | None,
    settings: SweepSettings,
) -> Joined:
    measured = flatten(gathered)
    misfit = sum(own.misfit for own in measured)
    if settings.two_level:
        found = find_phases([own.row for own in measured if own.row is not None], settings)
    products = np.sum([own.products for own in measured], axis=0)
    before = None if joined is None or settings.begins_anew else joined.step
    objective = sum(own.objective for own in measured)
    step = next_step(products, before, objective, settings.pairs, turned=found is not None)
    squares, weights = np.sum([own.roughness for own in measured], axis=0)
    roughness = float(squares / weights) if weights else 0.0
    if not settings.measures_roughness and joined is not None:
        roughness = joined.roughness
    return Joined(step, misfit, found, relative_change([own.moved for own in measured]), roughness)


def step_tiles(
    layout: Layout,
    swept: list[Value],
    pieces: list[list[Value]],
    after: State,
    before: State,
    settings: SweepSettings,
    found: Value | None,
) -> State:
    """Measure the products of all tiles and find the step.

    Parameters
    ----------
    layout : Layout
    swept : list of Value
        The `TileSweep` of each tile.
    pieces : list of lists of Value
        The strips of each tile, from `bring_strips`.
    after : State
        The model after the sweep, and its illumination.
    before : State
        The state before the sweep.
    settings : SweepSettings
    found : Value or None
        `Phases` of all frames, if they are found already and in the overlap sums.

    Returns
    -------
    State
        `after` with `Stepped` images.
    """
    models = model_on_tiles(layout, after.shared, [tile.own for tile in after.tiles])
    illuminations = [tile.illumination for tile in after.tiles]
    joined = before.joined
    inputs = zip(layout.tiles, models, illuminations, before.tiles, swept, pieces, strict=True)
    measured = [task(_measure, _TileInput(*of_tile), joined, settings) for of_tile in inputs]
    reports = gather(measured, _report_measured)
    joined = task(_join, reports, joined, found, settings)
    synchronised = settings.how.normalisation is not None
    phases = joined if settings.two_level else None
    tiles = [
        tile._replace(
            image=Stepped(own, joined, Unmerged(of_tile, brought, phases) if synchronised else None)
        )
        for tile, own, of_tile, brought in zip(after.tiles, measured, swept, pieces, strict=True)
    ]
    return State(after.shared, tiles, before.shared, joined)
