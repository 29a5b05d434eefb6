"""The Dask graph of a reconstruction: tiles as tasks, strips between neighbours, phases from `phase_graph`.

`reconstruct` and `start` call this module; it puts the eager functions of `algorithms` and `operators`
into tasks and holds no mathematics of its own. One sweep is::

    image of a tile -> sweep_tile -> weighted frames -> block_values  -> H -> phases -> overlap
                                  \\> overlap sum ------------------------------------> strips -> merge

Every name that ends in "s" below is a list with one ``dask.delayed`` value for each tile. A sweep's
inputs are results that are already on the workers; a graph holds no array and spans one sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.algorithms import Algorithm, TileSweep, extrapolate, merge, sweep_tile, updated_probe
from daskptycho.geometry import Tile, Tiling
from daskptycho.operators import frame_blocks, illuminate, overlap, shift_probe
from daskptycho.phase_graph import phases_of_tiles, synchronise
from daskptycho.plan import Plan
from daskptycho.synchronise import Normalisation, Phases, Sync
from daskptycho.tasks import task

__all__ = ["Report", "State", "illuminations", "next_images", "report", "sweep"]

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


def _cut(image: Array, part: tuple[slice, slice]) -> Array:
    return image[part].copy()


def _add_strips(own: Array, strips: list[Array], parts: list[tuple[slice, slice]]) -> Array:
    total = own.copy()
    for strip, part in zip(strips, parts, strict=True):
        total[part] += strip
    return total


def _over_tiles(sums: list[Delayed], tiling: Tiling) -> list[Delayed]:
    """Each tile's sum with its neighbours' strips added: what the whole canvas holds on its window."""
    totals = []
    for tile, own in zip(tiling.tiles, sums, strict=True):
        strips = tiling.strips_into(tile.index)
        if not strips:
            totals.append(own)
            continue
        pieces = [task(_cut, sums[strip.source], strip.from_source) for strip in strips]
        totals.append(task(_add_strips, own, pieces, [strip.to_target for strip in strips]))
    return totals


def _illuminate_tile(tile: Tile, probe: Array) -> Array:
    out = None
    # Each frame at a fraction of a pixel has its own copy of the probe: not all at once.
    for frames in frame_blocks(len(tile), math.prod(probe.shape)):
        own_probe = shift_probe(probe, tile.fraction[frames])
        out = illuminate(own_probe, tile.corner[frames], tile.window.shape, out)
    return out


def illuminations(plan: Plan, probe: Delayed) -> list[Delayed]:
    """N on each tile's window, summed over all tiles."""
    return _over_tiles([task(_illuminate_tile, tile, probe) for tile in plan.tiles], plan.tiling)


def _overlap_tile(tile: Tile, swept: TileSweep, phase: Array | None) -> Array:
    if swept.weighted is None:
        return swept.image_sum
    return overlap(swept.weighted, tile.corner, tile.window.shape, phase)


def next_images(
    plan: Plan, swept: list[Delayed], phases: list[Delayed | None], lit: list[Delayed]
) -> list[Delayed]:
    sums = [task(_overlap_tile, *of_tile) for of_tile in zip(plan.tiles, swept, phases, strict=True)]
    return [task(merge, *of_tile) for of_tile in zip(_over_tiles(sums, plan.tiling), lit, strict=True)]


def _misfit(swept: TileSweep) -> float:
    return swept.misfit


def _stack(swept: TileSweep) -> Array:
    return swept.stack


def _probe_sums(swept: TileSweep) -> Any:
    return swept.probe_sums


def _summarise(misfits: list[float], found: Phases | None) -> Report:
    if found is None:
        return Report(sum(misfits), np.nan, np.nan, np.nan)
    return Report(sum(misfits), found.consensus, found.spread, found.localisation)


def report(swept: list[Delayed], synced: Delayed | None) -> Delayed:
    """The scalars of a sweep, brought together."""
    return task(_summarise, [task(_misfit, tile) for tile in swept], synced)


def sweep(
    plan: Plan,
    state: State,
    algorithm: Algorithm,
    *,
    sync: Sync,
    normalisation: Normalisation | None,
    momentum: float = 0.0,
    probe_relaxation: float = 0.0,
) -> tuple[State, Delayed]:
    """The graph of one sweep over all tiles.

    Parameters
    ----------
    plan, state : Plan, State
    algorithm : Algorithm
    sync : Sync
    normalisation : "frame", "degree" or None
        None: no synchronisation in this sweep.
    momentum : float
        The sweep starts from ``psi + momentum (psi - psi_previous)``, the probe likewise.
    probe_relaxation : float
        Share of the probe's full update; 0 keeps the probe.

    Returns
    -------
    state : State
    report : Delayed
        Of a `Report`.
    """
    images, probe, lit = state.images, state.probe, state.illuminations
    update_probe = probe_relaxation > 0
    if momentum and state.previous_images is not None:
        images = [
            task(extrapolate, now, before, momentum)
            for now, before in zip(images, state.previous_images, strict=True)
        ]
        if update_probe and state.previous_probe is not None:
            probe = task(extrapolate, probe, state.previous_probe, momentum)
    if update_probe:
        lit = illuminations(plan, probe)
    nothing: list[Delayed | None] = [None] * len(plan.tiles)
    swept = [
        task(
            sweep_tile,
            algorithm,
            *of_tile[:3],
            probe,
            stack=of_tile[3],
            phase=of_tile[4],
            keep_frames=normalisation is not None,
            update_probe=update_probe,
        )
        for of_tile in zip(
            plan.tiles, plan.amplitudes, images, state.stacks or nothing, state.phases or nothing, strict=True
        )
    ]
    synced = None if normalisation is None else synchronise(plan, swept, lit, sync, normalisation)
    phases = phases_of_tiles(plan, synced)
    following = State(
        images=next_images(plan, swept, phases, lit),
        illuminations=lit,
        probe=probe,
        previous_images=state.images,
        previous_probe=state.probe,
        stacks=[task(_stack, tile) for tile in swept] if algorithm.has_stack else None,
        phases=[p for p in phases if p is not None] if algorithm.has_stack and synced is not None else None,
    )
    if update_probe:
        terms = [task(_probe_sums, tile) for tile in swept]
        following = replace(following, probe=task(updated_probe, probe, terms, probe_relaxation))
    return following, report(swept, synced)
