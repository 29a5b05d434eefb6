r"""The Dask graph of a reconstruction: tiles as tasks, strips between neighbours, phases from `phase_graph`.

`run` and `start` call this module; it puts the eager functions of `algorithms` and `operators`
into tasks and holds no mathematics of its own. One sweep is::

    image of a tile -> sweep_tile -> weighted frames -> block_values  -> H -> phases -> overlap
                                  \> overlap sum ------------------------------------> strips -> merge

Every name that ends in "s" below is a list with one ``dask.delayed`` value for each tile. A sweep's
inputs are results that are already on the workers; a graph holds no array and spans one sweep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.algorithms import (
    Algorithm,
    TileSweep,
    Weighted,
    extrapolate,
    illuminate_tile,
    merge,
    overlap_waves,
    sweep_tile,
    updated_probe,
    weigh_tile,
)
from daskptycho.exchange import over_tiles
from daskptycho.geometry import Tile
from daskptycho.operators import overlap
from daskptycho.phase_graph import if_significant, phases_of_tiles, synchronise
from daskptycho.plan import Plan
from daskptycho.synchronise import Normalisation, Phases, Sync
from daskptycho.tasks import task
from daskptycho.two_level import inner_sweeps
from daskptycho.two_level_graph import synchronise_two_level

__all__ = [
    "Report",
    "State",
    "illuminations",
    "images_of",
    "overlap_sums",
    "summarise",
    "sweep",
    "synchronised_images",
]

Array = Any


@dataclass(frozen=True)
class State:
    """What one sweep hands to the next; every value delayed, one for each tile but the probes."""

    images: list[Delayed]
    illuminations: list[Delayed]
    probe: Delayed
    previous_images: list[Delayed] | None = None
    previous_probe: Delayed | None = None
    stacks: list[Delayed] | None = None
    phases: list[Delayed] | None = None


class Report(NamedTuple):
    """What the client learns of a sweep: scalars alone."""

    misfit: float
    consensus: float
    spread: float
    localisation: float


def illuminations(plan: Plan, probe: Delayed) -> list[Delayed]:
    """N on each tile's window, summed over all tiles."""
    return over_tiles([task(illuminate_tile, tile, probe) for tile in plan.tiles], plan.tiling)


def _overlap_tile(tile: Tile, weighted: Weighted, phase: Array | None) -> Array:
    return overlap(weighted.frames, tile.corner, tile.window.shape, phase)


def images_of(plan: Plan, sums: list[Delayed], lit: list[Delayed], probe: Delayed) -> list[Delayed]:
    """The tiles' images from their overlap sums, neighbours' strips added."""
    totals = over_tiles(sums, plan.tiling)
    return [task(merge, *of_tile, probe) for of_tile in zip(totals, lit, strict=True)]


def overlap_sums(plan: Plan, weighted: list[Delayed], phases: Sequence[Delayed | None]) -> list[Delayed]:
    """Overlap sums of weighted frames, turned by their phases."""
    return [task(_overlap_tile, *of_tile) for of_tile in zip(plan.tiles, weighted, phases, strict=True)]


def _weigh_swept(tile: Tile, swept: TileSweep, probe: Array) -> Weighted:
    return weigh_tile(tile, swept.waves, probe) if swept.weighted is None else swept.weighted


def _overlap_swept(tile: Tile, swept: TileSweep, probe: Array) -> Array:
    return overlap_waves(tile, swept.waves, probe) if swept.image_sum is None else swept.image_sum


def _misfit(swept: TileSweep) -> float:
    return swept.misfit


def _stack(swept: TileSweep) -> Array:
    return swept.stack


def _probe_sums(swept: TileSweep) -> Any:
    return swept.probe_sums


def synchronised_images(
    plan: Plan,
    weighted: list[Delayed],
    lit: list[Delayed],
    probe: Delayed,
    sync: Sync,
    normalisation: Normalisation,
    misfits: list[Delayed],
    counts: float,
) -> tuple[list[Delayed], list[Delayed], Delayed]:
    """The tiles' images from weighted frames that are synchronised, the frames' phases, and `Phases`."""
    if sync.method == "two-level":
        return synchronise_two_level(plan, weighted, lit, probe, sync, normalisation, misfits, counts)
    found = synchronise(plan, weighted, lit, probe, sync, normalisation)
    if sync.only_significant(normalisation):
        found = if_significant(found, misfits, counts)
    phases = phases_of_tiles(plan, found)
    return images_of(plan, overlap_sums(plan, weighted, phases), lit, probe), phases, found


def summarise(misfits: list[float], found: Phases | None) -> Report:
    """The scalars of a sweep, brought together."""
    if found is None:
        return Report(sum(misfits), np.nan, np.nan, np.nan)
    return Report(sum(misfits), found.consensus, found.spread, found.localisation)


def sweep(
    plan: Plan,
    state: State,
    algorithm: Algorithm,
    *,
    counts: float,
    sync: Sync,
    normalisation: Normalisation | None,
    momentum: float = 0.0,
    update_probe: bool = False,
) -> tuple[State, Delayed]:
    """The graph of one sweep over all tiles.

    Parameters
    ----------
    plan, state : Plan, State
    algorithm : Algorithm
    counts : float
        sum a^2 over all valid pixels.
    sync : Sync
    normalisation : "frame", "degree" or None
        None: no synchronisation in this sweep.
    momentum : float
        The sweep starts from ``psi + momentum (psi - psi_previous)``, the probe likewise.
    update_probe : bool

    Returns
    -------
    state : State
    report : Delayed
        Of a `Report`.
    """
    images, probe, lit = state.images, state.probe, state.illuminations
    if momentum and state.previous_images is not None:
        pairs = zip(images, state.previous_images, strict=True)
        images = [task(extrapolate, now, before, momentum) for now, before in pairs]
        if update_probe and state.previous_probe is not None:
            probe = task(extrapolate, probe, state.previous_probe, momentum)
    swept = _swept(plan, state, algorithm, images, probe, sync, normalisation, update_probe)
    misfits = [task(_misfit, tile) for tile in swept]
    if update_probe:
        probe = task(updated_probe, probe, [task(_probe_sums, tile) for tile in swept])
        lit = illuminations(plan, probe)
    found: Delayed | None = None
    phases: list[Delayed] | None = None
    if normalisation is None:
        sums = [task(_overlap_swept, tile, own, probe) for tile, own in zip(plan.tiles, swept, strict=True)]
        images = images_of(plan, sums, lit, probe)
    else:
        weighted = [task(_weigh_swept, tile, own, probe) for tile, own in zip(plan.tiles, swept, strict=True)]
        images, phases, found = synchronised_images(
            plan, weighted, lit, probe, sync, normalisation, misfits, counts
        )
    following = State(
        images=images,
        illuminations=lit,
        probe=probe,
        previous_images=state.images,
        previous_probe=state.probe,
        stacks=[task(_stack, tile) for tile in swept] if algorithm.has_stack else None,
        phases=phases if algorithm.has_stack else None,
    )
    return following, task(summarise, misfits, found)


def _swept(
    plan: Plan,
    state: State,
    algorithm: Algorithm,
    images: list[Delayed],
    probe: Delayed,
    sync: Sync,
    normalisation: Normalisation | None,
    update_probe: bool,
) -> list[Delayed]:
    """A `TileSweep` of each tile."""
    nothing: list[Delayed | None] = [None] * len(plan.tiles)
    stacks, phases = nothing, nothing
    if algorithm.has_stack:
        stacks, phases = list(state.stacks or nothing), list(state.phases or nothing)
    swept = []
    for index, (tile, amplitude, image, stack, phase) in enumerate(
        zip(plan.tiles, plan.amplitudes, images, stacks, phases, strict=True)
    ):
        given = (algorithm, tile, amplitude, image, probe)
        options = {"stack": stack, "phase": phase, "update_probe": update_probe}
        if sync.method == "two-level":
            inside = (state.illuminations[index], plan.pairs[index])
            swept.append(
                task(inner_sweeps, *given, *inside, sync=sync, normalisation=normalisation, **options)
            )
        else:
            swept.append(task(sweep_tile, *given, keep_frames=normalisation is not None, **options))
    return swept
