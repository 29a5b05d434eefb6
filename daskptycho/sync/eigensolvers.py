"""Leading eigenvector of the normalised Gramian: Lanczos, LOBPCG and power iteration.

Solvers are plain functions that return value, vector and statistics, and print nothing; `PowerIterate` and
`LobpcgIterate` are the steps of two of them, for a matrix that nobody has as a whole. The matrix is sparse,
Hermitian and has no eigenvalue above one. They run where the matrix lies: nothing but scalars leaves a GPU.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from threadpoolctl import ThreadpoolController

from daskptycho.backend import array_module, sparse_solvers, to_host

__all__ = ["Eigenpair", "LobpcgIterate", "PowerIterate", "lanczos", "lobpcg", "power"]

Array = Any
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


def _norm(vector: Vector) -> Any:
    """The norm, or one where it is zero, so that one can divide by it."""
    xp = array_module(vector)
    norm = xp.linalg.norm(vector)
    return xp.where(norm > 0, norm, 1)


def _normalise(vector: Vector) -> Vector:
    """The vector with a norm of one; zero stays zero."""
    return vector / _norm(vector)


def _eigenpair(matrix: Matrix, vector: Vector) -> Eigenpair:
    vector = _normalise(vector)
    return _conclude(vector, matrix @ vector)


@dataclass(frozen=True)
class PowerIterate:
    """Where a power iteration stands: each step takes the product of the matrix with `vector`.

    Attributes
    ----------
    vector : (frame,) array
        Of unit norm; zero where the start was zero.
    """

    vector: Vector

    @staticmethod
    def begin(start: Vector) -> PowerIterate:
        """Before the first step."""
        return PowerIterate(_normalise(start.astype(np.complex128)))

    def advance(self, product: Vector) -> PowerIterate:
        """One step."""
        return PowerIterate(_normalise(product))

    def conclude(self, product: Vector) -> Eigenpair:
        """The eigenpair of the vector as it is."""
        return _conclude(self.vector, product)


def _conclude(vector: Vector, product: Vector) -> Eigenpair:
    xp = array_module(vector)
    value = float(xp.vdot(vector, product).real)
    return Eigenpair(value, vector, float(xp.linalg.norm(product - value * vector)))


# A direction counts as one of its own where it leaves the plane of the others by so much.
INDEPENDENT = 1e-12


@dataclass(frozen=True)
class LobpcgIterate:
    """Where LOBPCG with one vector stands: about the square root of the steps of a power iteration.

    Each step solves a Rayleigh-Ritz problem in three vectors (A. V. Knyazev, SIAM J. Sci. Comput. 23, 517,
    2001); there is no preconditioner. A step takes the product of the matrix with `vector`, the residual of
    the iterate.

    Attributes
    ----------
    vectors : (3, frame) array
        The iterate, its residual, and the direction of the last step.
    products : (3, frame) array
        Their products with the matrix.
    value : float
        The Ritz value.
    """

    vectors: Array
    products: Array
    value: float = 0.0

    @property
    def vector(self) -> Vector:
        """What to multiply with the matrix for the next step."""
        return self.vectors[1]

    @staticmethod
    def begin(start: Vector) -> LobpcgIterate:
        """Before the first step, which has only the start to choose from."""
        vectors = array_module(start).zeros((3, len(start)), dtype=np.complex128)
        # The start stands where residuals do: its product is computed next.
        vectors[1] = start
        return LobpcgIterate(vectors, array_module(start).zeros_like(vectors))

    def advance(self, product: Vector) -> LobpcgIterate:
        """The Ritz vector, its residual, and the step that led to it."""
        xp = array_module(product)
        products = self.products.copy()
        products[1] = product
        conjugate = self.vectors.conj()
        value, along = _rayleigh_ritz(to_host(conjugate @ self.vectors.T), to_host(conjugate @ products.T))
        weights, step_weights = xp.asarray(along), xp.asarray(along * [0, 1, 1])
        vector, image = weights @ self.vectors, weights @ products
        step, step_image = step_weights @ self.vectors, step_weights @ products
        return LobpcgIterate(
            xp.stack([vector, image - value * vector, step]),
            xp.stack([image, xp.zeros_like(image), step_image]),
            value,
        )

    def conclude(self, product: Vector) -> Eigenpair:
        """The eigenpair after one more step."""
        last = self.advance(product)
        norm = _norm(last.vectors[0])
        return _conclude(last.vectors[0] / norm, last.products[0] / norm)


def _rayleigh_ritz(gram: Array, matrix: Array) -> tuple[float, Array]:
    """The largest Ritz value of three vectors and its weights; vectors that depend on others take no part."""
    norm = np.sqrt(np.diag(gram).real)
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    scale = np.outer(inverse, inverse)
    sizes, basis = np.linalg.eigh(gram * scale)
    basis = basis[:, sizes > INDEPENDENT] / np.sqrt(sizes[sizes > INDEPENDENT])
    inside = basis.conj().T @ (matrix * scale) @ basis
    values, weights = np.linalg.eigh((inside + inside.conj().T) / 2)
    return float(values[-1]), inverse * (basis @ weights[:, -1])


def _difference_norm(first: Vector, second: Vector) -> float:
    return float(array_module(first).linalg.norm(first - second))


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
    iterate = PowerIterate.begin(start)
    for _ in range(iterations):
        following = iterate.advance(matrix @ iterate.vector)
        # Not asked of a GPU in vain: it would have to be waited for at every step.
        settled = tolerance > 0 and _difference_norm(following.vector, iterate.vector) < tolerance
        iterate = following
        if settled:
            break
    return iterate.conclude(matrix @ iterate.vector)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_blas_thread() -> AbstractContextManager[object]:
    # On vectors this short, BLAS threads that wait for a busy core cost fifty times the arithmetic.
    return _blas().limit(limits=1, user_api="blas")


# Vectors that Lanczos keeps at most; more steps are taken in rounds, each from the vector of the one before.
LANCZOS_BASIS = 64
# Residual norm at which Lanczos stops, and how many steps it takes from one look at it to the next.
CONVERGED, LOOK_EVERY = 1e-10, 8


def lanczos(matrix: Matrix, start: Vector, iterations: int) -> Eigenpair:
    """Lanczos iteration: the steps of `lobpcg` at a fifth of their cost.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        Fewer steps are made where the vector has converged.

    Notes
    -----
    The vectors are not made orthogonal anew, which takes ARPACK as long as the products with the matrix:
    they lose their orthogonality only once the leading pair has converged (C. C. Paige, J. Inst. Math.
    Appl. 18, 341 (1976)), and then the iteration ends.
    """
    vector = start.astype(np.complex128)
    if len(vector) <= max(iterations, 3):
        _, vectors = array_module(vector).linalg.eigh(matrix.toarray())
        return _eigenpair(matrix, vectors[:, -1])
    rounds = -(-iterations // LANCZOS_BASIS)
    with _one_blas_thread():
        for _ in range(rounds):
            vector, residual = _lanczos_round(matrix, vector, max(-(-iterations // rounds), 3))
            if residual < CONVERGED:
                break
    return _eigenpair(matrix, vector)


def _lanczos_round(matrix: Matrix, start: Vector, steps: int) -> tuple[Vector, float]:
    """Leading Ritz vector of so many steps, and the norm of its residual."""
    xp = array_module(start)
    basis = xp.empty((steps, len(start)), dtype=np.complex128)
    # The tridiagonal matrix stays on the host: two numbers a step.
    diagonal, beside = np.empty(steps), np.empty(steps)
    following = start / xp.linalg.norm(start)
    for step in range(steps):
        basis[step] = following
        product = matrix @ following
        if step:
            product -= beside[step - 1] * basis[step - 1]
        diagonal[step] = float(xp.vdot(following, product).real)
        product -= diagonal[step] * following
        beside[step] = float(xp.linalg.norm(product))
        # A start of few eigenvectors leaves nothing to go on with.
        exhausted = beside[step] < CONVERGED
        last = step + 1 == steps or exhausted
        if last or (step + 1) % LOOK_EVERY == 0:
            _, ritz = eigh_tridiagonal(
                diagonal[: step + 1], beside[:step], select="i", select_range=(step, step)
            )
            residual = float(beside[step] * abs(ritz[-1, 0]))
            if last or residual < CONVERGED:
                break
        following = product / beside[step]
    return xp.asarray(ritz[:, 0]) @ basis[: step + 1], residual


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
