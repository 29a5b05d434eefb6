"""Eigensolvers on the Dask blocks of H where they lie: only vectors and 3x3 matrices travel between tiles.

Only `phase_graph` calls this module. The steps are those of `eigensolvers`, for matrices that no worker
should hold; they cost some tasks a tile each, so that a matrix which fits into one task is better solved
there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from dask.delayed import Delayed

from daskptycho.backend import array_module, to_host
from daskptycho.sync.eigensolvers import Eigenpair
from daskptycho.sync.phases import Normalisation, Phases, frame_phases
from daskptycho.tasks.plan import Plan
from daskptycho.tasks.spec import task

__all__ = ["lobpcg_iteration", "power_iteration"]

Array = Any

# A direction counts as one of its own where it leaves the plane of the others by so much.
INDEPENDENT = 1e-12


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


def _rows(
    plan: Plan, matrices: list[Delayed], powers: list[Delayed], normalisation: Normalisation
) -> tuple[list[Delayed], list[list[int]]]:
    """The rows of each tile, and the tiles whose vectors they are multiplied with."""
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
    return rows, neighbours


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


def _divided(values: Array, by: Array) -> Array:
    """The quotient, zero where a frame without a count would make it nothing by nothing."""
    xp = array_module(values)
    return xp.where(by > 0, values / xp.where(by > 0, by, 1), 0)


def _first_vector(row: _Row) -> _Scaled:
    # v = D x starts as the consensus vector D, so x as ones.
    return _Scaled((row.consensus_squared > 0).astype(np.complex128), 0)


def _power_step(row: _Row, vectors: list[_Scaled]) -> _Scaled:
    """One step of ``x -> D^-2 H x``, the power iteration of ``D^-1 H D^-1`` on ``v = D x``."""
    values, exponent = _aligned(vectors)
    product = sum(matrix @ vector for matrix, vector in zip(row.matrices, values, strict=True))
    return _rescaled(_divided(product, row.consensus_squared), exponent)


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


def power_iteration(
    plan: Plan, matrices: list[Delayed], powers: list[Delayed], iterations: int, normalisation: Normalisation
) -> Delayed:
    """Power iteration on the blocks of H where they lie: only vectors travel between tiles."""
    rows, neighbours = _rows(plan, matrices, powers, normalisation)
    vectors = [task(_first_vector, row) for row in rows]
    # The last product is for the Rayleigh quotient: the vector that it belongs to is the result.
    for _ in range(iterations + 1):
        previous = vectors
        vectors = [
            task(_power_step, row, [previous[t] for t in own])
            for row, own in zip(rows, neighbours, strict=True)
        ]
    return task(_collect_vector, rows, previous, vectors, powers)


class _Subspace(NamedTuple):
    """A tile's part of the three vectors of LOBPCG, (3, frame), and of their products with the matrix."""

    vectors: Array
    """The iterate, its residual, and the direction of the last step."""
    products: Array


class _Ritz(NamedTuple):
    """The best vector in the subspace of all tiles."""

    value: float
    weights: Array
    """Of the three vectors."""


def _scaled(row: _Row, vector: Array) -> Array:
    """The vector divided by the consensus vector."""
    return _divided(vector, array_module(vector).sqrt(row.consensus_squared))


def _first_subspace(row: _Row) -> _Subspace:
    xp = array_module(row.consensus_squared)
    vectors = xp.zeros((3, len(row.consensus_squared)), dtype=np.complex128)
    # The consensus vector stands where residuals do: its product is computed next.
    vectors[1] = xp.sqrt(row.consensus_squared)
    return _Subspace(vectors, xp.zeros_like(vectors))


def _sent(row: _Row, subspace: _Subspace) -> Array:
    return _scaled(row, subspace.vectors[1])


def _multiplied(row: _Row, subspace: _Subspace, sent: list[Array]) -> _Subspace:
    """The residual's product with ``D^-1 H D^-1``, from what the neighbours sent of theirs."""
    products = subspace.products.copy()
    product = sum(matrix @ vector for matrix, vector in zip(row.matrices, sent, strict=True))
    products[1] = _scaled(row, product)
    return subspace._replace(products=products)


def _grams(subspace: _Subspace) -> tuple[Array, Array]:
    """Of the tile's part: inner products of the vectors, and with their products, nine numbers each."""
    conjugate = subspace.vectors.conj()
    return to_host(conjugate @ subspace.vectors.T), to_host(conjugate @ subspace.products.T)


def _rayleigh_ritz(grams: list[tuple[Array, Array]]) -> _Ritz:
    """The largest Ritz value of the three vectors; those that depend on others take no part."""
    gram, matrix = (sum(parts) for parts in zip(*grams, strict=True))
    norm = np.sqrt(np.diag(gram).real)
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    scale = np.outer(inverse, inverse)
    sizes, basis = np.linalg.eigh(gram * scale)
    basis = basis[:, sizes > INDEPENDENT] / np.sqrt(sizes[sizes > INDEPENDENT])
    inside = basis.conj().T @ (matrix * scale) @ basis
    values, weights = np.linalg.eigh((inside + inside.conj().T) / 2)
    return _Ritz(float(values[-1]), inverse * (basis @ weights[:, -1]))


def _stepped(subspace: _Subspace, ritz: _Ritz) -> _Subspace:
    """The Ritz vector, its residual, and the step that led to it."""
    xp = array_module(subspace.vectors)
    weights, along = xp.asarray(ritz.weights), xp.asarray(ritz.weights * [0, 1, 1])

    def moved(three: Array) -> tuple[Array, Array]:
        return weights @ three, along @ three

    vector, step = moved(subspace.vectors)
    product, step_product = moved(subspace.products)
    residual = product - ritz.value * vector
    return _Subspace(
        xp.stack([vector, residual, step]), xp.stack([product, xp.zeros_like(product), step_product])
    )


def _collect_ritz(subspaces: list[_Subspace], ritz: _Ritz, powers: list[Array]) -> Phases:
    xp = array_module(powers[0])
    vector, residual = (xp.concatenate([own.vectors[part] for own in subspaces]) for part in (0, 1))
    error = float(xp.linalg.norm(residual) / xp.linalg.norm(vector))
    return frame_phases(Eigenpair(ritz.value, vector, error), xp.concatenate(powers))


def lobpcg_iteration(
    plan: Plan, matrices: list[Delayed], powers: list[Delayed], iterations: int, normalisation: Normalisation
) -> Delayed:
    """LOBPCG with one vector: about the square root of the steps of `power_iteration`.

    Each step waits for all tiles once, for a Rayleigh-Ritz problem of three vectors (A. V. Knyazev, SIAM J.
    Sci. Comput. 23, 517, 2001), solved in one task; there is no preconditioner.
    """
    rows, neighbours = _rows(plan, matrices, powers, normalisation)
    subspaces = [task(_first_subspace, row) for row in rows]
    # The first step has the consensus vector alone to choose from.
    for _ in range(iterations + 1):
        sent = [task(_sent, row, own) for row, own in zip(rows, subspaces, strict=True)]
        multiplied = [
            task(_multiplied, row, own, [sent[t] for t in near])
            for row, own, near in zip(rows, subspaces, neighbours, strict=True)
        ]
        ritz = task(_rayleigh_ritz, [task(_grams, own) for own in multiplied])
        subspaces = [task(_stepped, own, ritz) for own in multiplied]
    return task(_collect_ritz, subspaces, ritz, powers)
