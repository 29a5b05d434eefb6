"""Leading eigenvector of the normalised Gramian: Lanczos, LOBPCG and power iteration.

`synchronise` and `graph` call this module; it calls `backend`. Solvers are plain functions
that return value, vector and statistics, and print nothing. The matrix is sparse, Hermitian and has no
eigenvalue above one, which is what lets the power iteration go without rescaling. They run where the
matrix lies: nothing but scalars leaves a GPU.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from daskptycho.backend import array_module, sparse_solvers

__all__ = ["Eigenpair", "lanczos", "lobpcg", "power"]

Vector = Any
"""A (frame,) complex128 array."""
Matrix = Any
"""A (frame, frame) sparse Hermitian matrix, SciPy's or CuPy's."""


@dataclass(frozen=True)
class Eigenpair:
    """A leading eigenpair, as far as the steps went.

    Attributes
    ----------
    value : float
        Rayleigh quotient of `vector`.
    vector : (frame,) complex128 array
        Of unit norm; zero where the start was zero.
    residual : float
        Norm of ``matrix @ vector - value * vector``.
    """

    value: float
    vector: Vector
    residual: float


def _normed(vector: Vector) -> Vector:
    """The vector with a norm of one; zero stays zero."""
    xp = array_module(vector)
    norm = xp.linalg.norm(vector)
    return vector / xp.where(norm > 0, norm, 1)


def _eigenpair(matrix: Matrix, vector: Vector) -> Eigenpair:
    xp = array_module(vector)
    vector = _normed(vector)
    product = matrix @ vector
    value = float(xp.vdot(vector, product).real)
    return Eigenpair(value, vector, float(xp.linalg.norm(product - value * vector)))


def power(matrix: Matrix, start: Vector, iterations: int, tolerance: float = 0.0) -> Eigenpair:
    """Power iteration: about as many steps as there are frames to cross the scan.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
    tolerance : float
        Stop once a step changes the normalised vector by less.
    """
    vector = _normed(start)
    for _ in range(iterations):
        following = _normed(matrix @ vector)
        # Not asked of a GPU in vain: it would have to be waited for at every step.
        settled = tolerance > 0 and float(array_module(vector).linalg.norm(following - vector)) < tolerance
        vector = following
        if settled:
            break
    return _eigenpair(matrix, vector)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_blas_thread() -> AbstractContextManager[object]:
    # On vectors this short, BLAS threads that wait for a busy core cost fifty times the arithmetic.
    return _blas().limit(limits=1, user_api="blas")


# Vectors that Lanczos keeps at most; more steps are taken in rounds, each from the vector of the one before.
LANCZOS_BASIS = 64
# Norm, relative to the matrix's of about one, below which a step has found nothing new but rounding.
NOTHING_NEW = 1e-12


def lanczos(matrix: Matrix, start: Vector, iterations: int) -> Eigenpair:
    """Lanczos iteration: the steps of `lobpcg` at a third of their cost or less.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        At least three.
    """
    vector = start.astype(np.complex128)
    if len(vector) <= max(iterations, 3):
        _, vectors = array_module(vector).linalg.eigh(matrix.toarray())
        return _eigenpair(matrix, vectors[:, -1])
    rounds = -(-iterations // LANCZOS_BASIS)
    steps = max(-(-iterations // rounds), 3)
    with _one_blas_thread():
        for _ in range(rounds):
            vector = _ritz_vector(matrix, vector, steps)
    return _eigenpair(matrix, vector)


def _ritz_vector(matrix: Matrix, start: Vector, steps: int) -> Vector:
    """The best vector for the largest eigenvalue among those that so many steps from the start reach.

    Every vector is made orthogonal to all before it, not to the last two alone: left to rounding, the largest
    eigenvalue would appear again and again (Golub and Van Loan, Matrix Computations, 10.3). In exact
    arithmetic, the vector is ARPACK's after as many steps.
    """
    xp = array_module(start)
    basis = xp.zeros((steps + 1, len(start)), dtype=np.complex128)
    diagonal, beside = xp.zeros(steps + 1), xp.zeros(steps + 1)
    vector = _normed(start)
    for step in range(steps + 1):
        basis[step] = vector
        known = basis[: step + 1]
        product = matrix @ vector
        shares = (known @ product.conj()).conj()
        diagonal[step] = shares[step].real
        product = product - shares @ known
        # Once more: what cancelled in the first subtraction has left an error behind.
        product = product - (known @ product.conj()).conj() @ known
        size = xp.linalg.norm(product)
        is_new = size > NOTHING_NEW
        # The branch is an array: a GPU need not be waited for.
        beside[step] = xp.where(is_new, size, 0)
        vector = product * xp.where(is_new, 1 / xp.where(is_new, size, 1), 0)
    tridiagonal = xp.diag(diagonal) + xp.diag(beside[:-1], 1) + xp.diag(beside[:-1], -1)
    _, mixture = xp.linalg.eigh(tridiagonal)
    return mixture[:, -1] @ basis


def lobpcg(matrix: Matrix, start: Vector, iterations: int, tolerance: float = 1e-10) -> Eigenpair:
    """SciPy's or CuPy's LOBPCG with one vector: about the square root of the steps of `power`.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
    tolerance : float
        Residual norm at which to stop. The libraries' own default grows with the matrix and would stop
        far short of the long-range phases that a synchronisation is for.
    """
    with warnings.catch_warnings(), _one_blas_thread():
        # It warns where it stops short of the tolerance, which is what a limit on the steps asks for.
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = sparse_solvers(start).lobpcg(
            matrix, start.astype(np.complex128)[:, None], largest=True, maxiter=iterations, tol=tolerance
        )
    return _eigenpair(matrix, vectors[:, 0])
