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
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.model.algorithms import (
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
from daskptycho.model.operators import Amplitudes, overlap
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.phases import Normalisation, Phases, Sync
from daskptycho.sync.two_level import TileSum, inner_sweeps
from daskptycho.tasks.exact import if_significant, phases_of_tiles, synchronise
from daskptycho.tasks.plan import PairsToFind, Plan, StoredAmplitudes, in_passing, pairs_within, resident
from daskptycho.tasks.spec import task
from daskptycho.tasks.strips import over_tiles
from daskptycho.tasks.two_level import join_tiles, synchronised_tile
from daskptycho.tiling import Tile

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
    return over_tiles(plan, [task(plan.leaving(illuminate_tile), tile, probe) for tile in plan.tiles])


def _overlap_tile(tile: Tile, weighted: Weighted, phase: Array | None) -> Array:
    return overlap(weighted.frames, tile.corner, tile.window.shape, phase)


def _merge(image_sum: Array, illumination: Array, probe: Array) -> Array:
    return merge(image_sum[...], illumination[...], probe)


def images_of(plan: Plan, sums: list[Delayed], lit: list[Delayed], probe: Delayed) -> list[Delayed]:
    """The tiles' images from their overlap sums, neighbours' strips added."""
    totals = over_tiles(plan, sums)
    return [task(plan.leaving(_merge), *of_tile, probe) for of_tile in zip(totals, lit, strict=True)]


def overlap_sums(plan: Plan, weighted: list[Delayed], phases: Sequence[Delayed | None]) -> list[Delayed]:
    """Overlap sums of weighted frames, turned by their phases."""
    overlapped = plan.leaving(_overlap_tile)
    return [task(overlapped, *of_tile) for of_tile in zip(plan.tiles, weighted, phases, strict=True)]


def _weigh_swept(tile: Tile, swept: TileSweep, probe: Array) -> Weighted:
    return weigh_tile(tile, swept.waves, probe) if swept.weighted is None else swept.weighted


def _synchronise_swept(
    tile: Tile,
    swept: TileSweep,
    pairs: GramianBlock,
    illumination: Array,
    probe: Array,
    sync: Sync,
    normalisation: Normalisation,
) -> TileSum:
    if swept.synchronised is not None:
        return swept.synchronised
    weighted = _weigh_swept(tile, swept, probe)
    return synchronised_tile(tile, weighted, pairs, illumination, probe, swept.misfit, sync, normalisation)


def _overlap_swept(tile: Tile, swept: TileSweep, probe: Array) -> Array:
    return overlap_waves(tile, swept.waves, probe) if swept.image_sum is None else swept.image_sum


def _sweep(
    tile: Tile,
    amplitude: Amplitudes | StoredAmplitudes,
    image: Array,
    previous_image: Array | None,
    illumination: Array,
    pairs: GramianBlock | PairsToFind | None,
    merging: Array | None,
    stack: Array | None,
    phase: Array | None,
    *,
    algorithm: Algorithm,
    probe: Array,
    momentum: float,
    sync: Sync,
    normalisation: Normalisation | None,
    following_probe: Array | None = None,
    **options: Any,
) -> TileSweep:
    image = extrapolate(image[...], None if previous_image is None else previous_image[...], momentum)
    read, misfit = isinstance(amplitude, StoredAmplitudes), None
    amplitude = resident(amplitude)
    if pairs is not None and sync.inner > 1:
        block = None if normalisation is None else pairs_within(pairs, tile)
        image, stack, phase, misfit = inner_sweeps(
            *(algorithm, tile, amplitude, image, probe, illumination[...], block, stack, phase),
            sync=sync,
            normalisation=normalisation,
        )
    if read:
        amplitude = in_passing(amplitude)
    swept = sweep_tile(
        *(algorithm, tile, amplitude, image, probe),
        stack=stack,
        phase=phase,
        keep_frames=normalisation is not None,
        following_probe=following_probe,
        **options,
    )
    # What was read for this task goes before the Gramian needs room.
    del amplitude, image
    if merging is not None and pairs is not None and swept.weighted is not None and normalisation is not None:
        merging_probe = probe if following_probe is None else following_probe
        given = (tile, swept.weighted, pairs, merging, merging_probe, swept.misfit, sync, normalisation)
        swept = swept._replace(weighted=None, synchronised=synchronised_tile(*given))
    return swept if misfit is None else swept._replace(misfit=misfit)


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
        sums = [
            task(plan.leaving(synchronised_tile), *of_tile, probe, misfit, sync, normalisation)
            for *of_tile, misfit in zip(plan.tiles, weighted, plan.pairs, lit, misfits, strict=True)
        ]
        return join_tiles(plan, sums, lit, probe, sync, normalisation, misfits, counts)
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
    probe, lit = state.probe, state.illuminations
    if momentum and update_probe and state.previous_probe is not None:
        probe = task(extrapolate, probe, state.previous_probe, momentum)
    sweep_tiles = partial(_swept, plan, state, algorithm, probe, momentum, sync, normalisation)
    if update_probe:
        swept = sweep_tiles(update_probe=True, keep_waves=not plan.waves_twice)
        sums_of_probe = [task(_probe_sums, tile) for tile in swept]
        probe = task(updated_probe, probe, sums_of_probe, plan.fractional)
        lit = illuminations(plan, probe)
        if plan.waves_twice:
            # The waves of all tiles found no room while the probe waited for the last of them.
            swept = sweep_tiles(merging=lit, following_probe=probe)
    else:
        swept = sweep_tiles(merging=lit)
    misfits = [task(_misfit, tile) for tile in swept]
    found: Delayed | None = None
    phases: list[Delayed] | None = None
    if normalisation is None:
        sums = [task(_overlap_swept, tile, own, probe) for tile, own in zip(plan.tiles, swept, strict=True)]
        images = images_of(plan, sums, lit, probe)
    elif sync.method == "two-level":
        given = zip(plan.tiles, swept, plan.pairs, lit, strict=True)
        sums = [task(_synchronise_swept, *of_tile, probe, sync, normalisation) for of_tile in given]
        images, phases, found = join_tiles(plan, sums, lit, probe, sync, normalisation, misfits, counts)
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
    probe: Delayed,
    momentum: float,
    sync: Sync,
    normalisation: Normalisation | None,
    *,
    merging: list[Delayed] | None = None,
    **options: Any,
) -> list[Delayed]:
    """A `TileSweep` of each tile; `merging` is N of the coming merge where that is known already."""
    nothing: list[Delayed | None] = [None] * len(plan.tiles)
    stacks, phases = (state.stacks, state.phases) if algorithm.has_stack else (None, None)
    of_tiles = zip(
        plan.tiles,
        plan.amplitudes,
        state.images,
        (state.previous_images if momentum else None) or nothing,
        state.illuminations,
        plan.pairs if sync.method == "two-level" else nothing,
        (merging if sync.method == "two-level" else None) or nothing,
        stacks or nothing,
        phases or nothing,
        strict=True,
    )
    common: dict[str, Any] = {"algorithm": algorithm, "probe": probe, "momentum": momentum}
    common |= {"sync": sync, "normalisation": normalisation, **options}
    return [task(plan.leaving(_sweep), *of_tile, **common) for of_tile in of_tiles]
