r"""The Dask graph of a reconstruction: tiles as tasks, strips between neighbours, phases from `phase_graph`.

`run` and `start` call this module; it puts the eager functions of `algorithms` and `operators`
into tasks and holds no mathematics of its own. One sweep is::

    image of a tile -> sweep_tile -> weighted frames -> block_values  -> H -> phases -> overlap
                                  \> overlap sum ------------------------------------> strips -> merge

Every name that ends in "s" below is a list with one ``dask.delayed`` value for each tile. A sweep's
inputs are results that are already on the workers; a graph holds no array and spans one sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.algorithms import (
    Algorithm,
    TileSweep,
    Weighted,
    extrapolate,
    merge,
    overlap_waves,
    sweep_tile,
    updated_probe,
    weigh_tile,
)
from daskptycho.geometry import Tile, Tiling
from daskptycho.operators import frame_blocks, illuminate, overlap, shift_probe
from daskptycho.phase_graph import if_significant, phases_of_tiles, synchronise
from daskptycho.plan import Plan
from daskptycho.synchronise import Normalisation, Phases, Sync
from daskptycho.tasks import task

__all__ = ["Report", "State", "illuminations", "images_of", "overlap_sums", "summarise", "sweep"]

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


def _overlap_tile(tile: Tile, weighted: Weighted, phase: Array | None) -> Array:
    return overlap(weighted.frames, tile.corner, tile.window.shape, phase)


def images_of(plan: Plan, sums: list[Delayed], lit: list[Delayed], probe: Delayed) -> list[Delayed]:
    """The tiles' images from their overlap sums, neighbours' strips added."""
    totals = _over_tiles(sums, plan.tiling)
    return [task(merge, *of_tile, probe) for of_tile in zip(totals, lit, strict=True)]


def overlap_sums(plan: Plan, weighted: list[Delayed], phases: list[Delayed | None]) -> list[Delayed]:
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
    nothing: list[Delayed | None] = [None] * len(plan.tiles)
    stacks, old_phases = (
        (state.stacks or nothing, state.phases or nothing) if algorithm.has_stack else (nothing, nothing)
    )
    swept = [
        task(
            sweep_tile,
            algorithm,
            *of_tile,
            probe,
            stack=stack,
            phase=phase,
            keep_frames=normalisation is not None,
            update_probe=update_probe,
        )
        for *of_tile, stack, phase in zip(
            plan.tiles, plan.amplitudes, images, stacks, old_phases, strict=True
        )
    ]
    misfits = [task(_misfit, tile) for tile in swept]
    if update_probe:
        probe = task(updated_probe, probe, [task(_probe_sums, tile) for tile in swept])
        lit = illuminations(plan, probe)
    synced, phases = None, nothing
    if normalisation is None:
        sums = [task(_overlap_swept, tile, own, probe) for tile, own in zip(plan.tiles, swept, strict=True)]
    else:
        weighted = [task(_weigh_swept, tile, own, probe) for tile, own in zip(plan.tiles, swept, strict=True)]
        synced = synchronise(plan, weighted, lit, probe, sync, normalisation)
        if sync.every == "auto" and normalisation == "degree":
            synced = if_significant(synced, misfits, counts)
        phases = phases_of_tiles(plan, synced)
        sums = overlap_sums(plan, weighted, phases)
    following = State(
        images=images_of(plan, sums, lit, probe),
        illuminations=lit,
        probe=probe,
        previous_images=state.images,
        previous_probe=state.probe,
        stacks=[task(_stack, tile) for tile in swept] if algorithm.has_stack else None,
        phases=[p for p in phases if p is not None] if algorithm.has_stack and synced is not None else None,
    )
    return following, task(summarise, misfits, synced)
