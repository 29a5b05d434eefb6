"""The part of the Dask graph that finds the phases: blocks of H, the eigenvector, a phase for each frame.

Only `graph` and `start` call this module; it puts the functions of `gramian` and `synchronise` into tasks.
Lanczos and LOBPCG run in one task on the assembled H, as long as one worker can hold it; beyond that LOBPCG,
and power iteration always, run on the blocks where they lie (`blockwise`).
"""

from __future__ import annotations

from typing import Any

from dask.delayed import Delayed

from daskptycho.backend import array_module
from daskptycho.model.algorithms import Weighted
from daskptycho.model.operators import inverse_illumination
from daskptycho.sync.gramian import Border, GramianBlock, assemble, block_matrix, block_values
from daskptycho.sync.phases import Normalisation, Phases, Sync, frame_phases, normalise, significant, solve
from daskptycho.tasks.blockwise import lobpcg_iteration, power_iteration
from daskptycho.tasks.plan import Plan
from daskptycho.tasks.spec import task
from daskptycho.tiling import Tile

__all__ = ["if_significant", "phases_of_tiles", "synchronise"]

Array = Any

# Pairs of overlapping frames up to which H is assembled in one task: about two gigabytes with what
# its assembly and its solution take. Beyond, no worker need hold it.
MOST_ASSEMBLED = 2**25


def _border_frames(weighted: Weighted, block: GramianBlock) -> Border:
    return Border(weighted.frames, block.border)


def _block(
    block: GramianBlock, weighted: Weighted, border: Border, tile: Tile, illumination: Array, probe: Array
) -> Any:
    weight = inverse_illumination(illumination, probe)
    return block_matrix(block, block_values(block, weighted.frames, border, tile.corner, weight))


def _power(weighted: Weighted) -> Array:
    return weighted.power


def _matrices(plan: Plan, weighted: list[Delayed], lit: list[Delayed], probe: Delayed) -> list[Delayed]:
    """The upper blocks of H, each in a task beside its first tile."""
    matrices = []
    for block, pairs in zip(plan.outline, plan.pairs, strict=True):
        border = task(_border_frames, weighted[block.column], pairs)
        matrices.append(
            task(_block, pairs, weighted[block.row], border, plan.tiles[block.row], lit[block.row], probe)
        )
    return matrices


def synchronise(
    plan: Plan,
    weighted: list[Delayed],
    lit: list[Delayed],
    probe: Delayed,
    sync: Sync,
    normalisation: Normalisation,
) -> Delayed:
    """`Phases` of all frames, from their weighted frames and the illumination of each tile."""
    matrices = _matrices(plan, weighted, lit, probe)
    powers = [task(_power, tile) for tile in weighted]
    iterations = sync.steps(len(plan.tiling.corner))
    if sync.eigensolver == "power":
        return power_iteration(plan, matrices, powers, iterations, normalisation)
    if plan.overlaps > MOST_ASSEMBLED:
        return lobpcg_iteration(plan, matrices, powers, iterations, normalisation)
    return task(_solve_assembled, plan.outline, matrices, powers, sync, normalisation)


def _solve_assembled(
    blocks: list[GramianBlock],
    matrices: list[Any],
    powers: list[Array],
    sync: Sync,
    normalisation: Normalisation,
) -> Phases:
    power = array_module(powers[0]).concatenate(powers)
    return frame_phases(solve(normalise(assemble(blocks, matrices), power, normalisation), sync), power)


def _phase_of(found: Phases, frames: slice) -> Array:
    return found.phase[frames].copy()


def _only_significant(found: Phases, misfits: list[float], counts: float) -> Phases:
    return significant(found, sum(misfits) / counts)


def if_significant(synced: Delayed, misfits: list[Delayed], counts: float) -> Delayed:
    """The phases found, or ones where the misfit of the sweep does not bear them out."""
    return task(_only_significant, synced, misfits, counts)


def phases_of_tiles(plan: Plan, synced: Delayed) -> list[Delayed]:
    """Each tile's own phases."""
    return [task(_phase_of, synced, tile.frames) for tile in plan.tiling.tiles]
