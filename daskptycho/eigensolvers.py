"""Leading eigenvector of the normalised Gramian: Lanczos, LOBPCG and power iteration.

`synchronise` and `graph` call this module; it calls nothing of the package. Solvers are plain functions
that return value, vector and statistics, and print nothing. The matrix is sparse, Hermitian and has no
eigenvalue above one, which is what lets the power iteration go without rescaling.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh
from scipy.sparse.linalg import lobpcg as scipy_lobpcg
from threadpoolctl import ThreadpoolController

__all__ = ["Eigenpair", "lanczos", "lobpcg", "power"]

Vector = NDArray[np.complex128]


@dataclass(frozen=True)
class Eigenpair:
    """A leading eigenpair, as far as the steps went.

    Attributes
    ----------
    value : float
        Rayleigh quotient of `vector`.
    vector : (frame,) complex128 array
        Of unit norm.
    residual : float
        Norm of ``matrix @ vector - value * vector``.
    """

    value: float
    vector: Vector
    residual: float


def _eigenpair(matrix: sp.csr_array, vector: Vector) -> Eigenpair:
    vector = vector / np.linalg.norm(vector)
    product = matrix @ vector
    value = float(np.vdot(vector, product).real)
    return Eigenpair(value, vector, float(np.linalg.norm(product - value * vector)))


def power(matrix: sp.csr_array, start: Vector, iterations: int, tolerance: float = 0.0) -> Eigenpair:
    """Power iteration: about as many steps as there are frames to cross the scan.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
    tolerance : float
        Stop once a step changes the normalised vector by less.
    """
    vector = start / np.linalg.norm(start)
    for _ in range(iterations):
        following = matrix @ vector
        following /= np.linalg.norm(following)
        change = np.linalg.norm(following - vector)
        vector = following
        if change < tolerance:
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


def lanczos(matrix: sp.csr_array, start: Vector, iterations: int) -> Eigenpair:
    """Lanczos iteration by ARPACK: the steps of `lobpcg` at a third of their cost or less.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        At least three.
    """
    vector = start.astype(np.complex128)
    if len(vector) <= max(iterations, 3):
        _, vectors = np.linalg.eigh(matrix.toarray())
        return _eigenpair(matrix, vectors[:, -1])
    rounds = -(-iterations // LANCZOS_BASIS)
    basis = max(-(-iterations // rounds), 3)
    for _ in range(rounds):
        # The loose tolerance ends a round when its basis is full, which is what a limit on the steps asks
        # for; ARPACK would otherwise restart until it met the tolerance, or give nothing.
        with _one_blas_thread():
            _, vectors = eigsh(matrix, k=1, which="LA", v0=vector, ncv=basis, tol=0.5)
        vector = vectors[:, 0]
    return _eigenpair(matrix, vector)


def lobpcg(matrix: sp.csr_array, start: Vector, iterations: int, tolerance: float = 1e-10) -> Eigenpair:
    """SciPy's LOBPCG with one vector: about the square root of the steps of `power`.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
    tolerance : float
        Residual norm at which to stop. SciPy's own default grows with the matrix and would stop
        far short of the long-range phases that a synchronisation is for.
    """
    with warnings.catch_warnings(), _one_blas_thread():
        # It warns where it stops short of the tolerance, which is what a limit on the steps asks for.
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = scipy_lobpcg(
            matrix, start.astype(np.complex128)[:, None], largest=True, maxiter=iterations, tol=tolerance
        )
    return _eigenpair(matrix, vectors[:, 0])
