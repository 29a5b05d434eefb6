"""The part of the Dask graph that finds the phases: blocks of H, the eigenvector, a phase for each frame.

Only `graph` and `start` call this module; it puts the functions of `gramian` and `synchronise` into tasks.
Lanczos and LOBPCG run in one task on the assembled H; power iteration runs on the blocks where they lie, and
only vectors travel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.algorithms import Weighted
from daskptycho.backend import array_module
from daskptycho.eigensolvers import Eigenpair
from daskptycho.geometry import Tile
from daskptycho.gramian import Border, GramianBlock, assemble, block_matrix, block_values
from daskptycho.operators import inverse_illumination
from daskptycho.plan import Plan
from daskptycho.synchronise import Normalisation, Phases, Sync, frame_phases, normalise, significant, solve
from daskptycho.tasks import task

__all__ = ["if_significant", "phases_of_tiles", "synchronise"]

Array = Any


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
    if sync.eigensolver != "power":
        return task(_solve_assembled, plan.outline, matrices, powers, sync, normalisation)
    return _power_iteration(plan, matrices, powers, sync.steps(len(plan.tiling.corner)), normalisation)


def _solve_assembled(
    blocks: list[GramianBlock],
    matrices: list[Any],
    powers: list[Array],
    sync: Sync,
    normalisation: Normalisation,
) -> Phases:
    power = array_module(powers[0]).concatenate(powers)
    return frame_phases(solve(normalise(assemble(blocks, matrices), power, normalisation), sync), power)


class _Row(NamedTuple):
    """The blocks of H in the rows of one tile, and the consensus vector's square there."""

    matrices: list[Any]
    consensus_squared: Array


def _row(upper: list[Any], lower: list[Any], power: Array, normalisation: Normalisation) -> _Row:
    matrices = [*upper, *(matrix.conj().T.tocsr() for matrix in lower)]
    if normalisation == "frame":
        return _Row(matrices, power)
    xp = array_module(power)
    return _Row(matrices, sum(abs(matrix) @ xp.ones(matrix.shape[1]) for matrix in matrices))


class _Scaled(NamedTuple):
    """A tile's part of a vector, ``values * 2**exponent``: hundreds of steps would leave floating point."""

    values: Array
    exponent: int


def _rescaled(values: Array, exponent: int) -> _Scaled:
    largest = float(abs(values).max())
    shift = 0 if largest == 0 else int(np.frexp(largest)[1])
    return _Scaled(values * 2.0**-shift, exponent + shift)


def _aligned(parts: list[_Scaled]) -> tuple[list[Array], int]:
    """The parts' values at the exponent of the largest."""
    top = max(part.exponent for part in parts)
    return [part.values * np.ldexp(1.0, part.exponent - top) for part in parts], top


def _first_vector(row: _Row) -> _Scaled:
    # v = D x starts as the consensus vector D, so x as ones.
    return _Scaled((row.consensus_squared > 0).astype(np.complex128), 0)


def _power_step(row: _Row, vectors: list[_Scaled]) -> _Scaled:
    """One step of ``x -> D^-2 H x``, the power iteration of ``D^-1 H D^-1`` on ``v = D x``."""
    values, exponent = _aligned(vectors)
    product = sum(matrix @ vector for matrix, vector in zip(row.matrices, values, strict=True))
    squared = row.consensus_squared
    xp = array_module(squared)
    return _rescaled(xp.where(squared > 0, product / xp.where(squared > 0, squared, 1), 0), exponent)


def _collect_vector(
    rows: list[_Row], vectors: list[_Scaled], products: list[_Scaled], powers: list[Array]
) -> Phases:
    xp = array_module(powers[0])
    squared = xp.concatenate([row.consensus_squared for row in rows])
    parts, exponent = _aligned(vectors)
    product_parts, product_exponent = _aligned(products)
    x, image = xp.concatenate(parts), xp.concatenate(product_parts)
    quotient = float((xp.vdot(x, squared * image) / xp.vdot(x, squared * x)).real)
    value = float(np.ldexp(quotient, product_exponent - exponent))
    return frame_phases(Eigenpair(value, xp.sqrt(squared) * x, np.nan), xp.concatenate(powers))


def _power_iteration(
    plan: Plan, matrices: list[Delayed], powers: list[Delayed], iterations: int, normalisation: Normalisation
) -> Delayed:
    """Power iteration on the blocks of H where they lie: only vectors travel between tiles."""
    upper: list[list[tuple[int, Delayed]]] = [[] for _ in plan.tiles]
    lower: list[list[tuple[int, Delayed]]] = [[] for _ in plan.tiles]
    for block, matrix in zip(plan.outline, matrices, strict=True):
        upper[block.row].append((block.column, matrix))
        if block.row != block.column:
            lower[block.column].append((block.row, matrix))
    neighbours = [[t for t, _ in [*up, *low]] for up, low in zip(upper, lower, strict=True)]
    rows = [
        task(_row, [m for _, m in up], [m for _, m in low], power, normalisation)
        for up, low, power in zip(upper, lower, powers, strict=True)
    ]
    vectors = [task(_first_vector, row) for row in rows]
    # The last product is for the Rayleigh quotient: the vector that it belongs to is the result.
    for _ in range(iterations + 1):
        previous = vectors
        vectors = [
            task(_power_step, row, [previous[t] for t in own])
            for row, own in zip(rows, neighbours, strict=True)
        ]
    return task(_collect_vector, rows, previous, vectors, powers)


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
