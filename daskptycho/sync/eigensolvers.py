"""Leading eigenvector of the normalised Gramian: Lanczos, LOBPCG and power iteration.

Solvers are plain functions that return an `Eigenpair`. `PowerIterate` and `LobpcgIterate` are single steps of
two of them, for a matrix that is never assembled. The matrix is sparse, Hermitian and has no eigenvalue above
one. For a matrix on a GPU the vectors stay there too: only scalars are copied to the host.
"""

from __future__ import annotations

import functools
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import lobpcg as scipy_lobpcg
from threadpoolctl import ThreadpoolController

from daskptycho.backend import array_module, kernels, parts_of_sums, to_host

__all__ = ["Eigenpair", "LobpcgIterate", "PowerIterate", "lanczos", "lobpcg", "power"]

Array = Any
Vector = Any
"""A (frame,) complex128 array."""
Matrix = Any
"""A (frame, frame) sparse Hermitian matrix, SciPy's or CuPy's."""


@dataclass(frozen=True)
class Eigenpair:
    """An approximate leading eigenpair.

    Attributes
    ----------
    value : float
        Rayleigh quotient of `vector`.
    vector : (frame,) complex128 array
        Of unit norm; zero if the start vector was zero.
    residual : float
        Norm of ``matrix @ vector - value * vector``.
    """

    value: float
    vector: Vector
    residual: float


def _norm(vector: Vector) -> Any:
    """The norm to divide by: one if it is zero."""
    xp = array_module(vector)
    norm = xp.linalg.norm(vector)
    return xp.where(norm > 0, norm, 1)


def _normalise(vector: Vector) -> Vector:
    """The vector divided by its norm; zero stays zero."""
    return vector / _norm(vector)


def _eigenpair(matrix: Matrix, vector: Vector) -> Eigenpair:
    vector = _normalise(vector)
    return _conclude(vector, matrix @ vector)


@dataclass(frozen=True)
class PowerIterate:
    """An iterate of power iteration. Each step needs the product of the matrix with `vector`.

    Attributes
    ----------
    vector : (frame,) complex128 array
        Of unit norm; zero if the start vector was zero.
    """

    vector: Vector

    @staticmethod
    def begin(start: Vector) -> PowerIterate:
        """The iterate before the first step."""
        return PowerIterate(_normalise(start.astype(np.complex128)))

    def advance(self, product: Vector) -> PowerIterate:
        """The iterate after one more step."""
        return PowerIterate(_normalise(product))

    def conclude(self, product: Vector) -> Eigenpair:
        """The eigenpair of the current vector."""
        return _conclude(self.vector, product)


def _conclude(vector: Vector, product: Vector) -> Eigenpair:
    xp = array_module(vector)
    value = float(xp.vdot(vector, product).real)
    return Eigenpair(value, vector, float(xp.linalg.norm(product - value * vector)))


# Smallest eigenvalue of the Gram matrix of normalised vectors for which their direction counts as
# independent.
INDEPENDENT = 1e-12


@dataclass(frozen=True)
class LobpcgIterate:
    """An iterate of LOBPCG with one vector: about the square root of the steps of power iteration.

    Each step solves a Rayleigh-Ritz problem in three vectors (A. V. Knyazev, SIAM J. Sci. Comput. 23, 517
    (2001)), without a preconditioner. It needs the product of the matrix with `vector`, the residual of the
    iterate.

    Attributes
    ----------
    vectors : (3, frame) array
        The Ritz vector, its residual, and the direction of the last step.
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
        """The vector whose product with the matrix the next step needs."""
        return self.vectors[1]

    @staticmethod
    def begin(start: Vector) -> LobpcgIterate:
        """The iterate before the first step."""
        vectors = array_module(start).zeros((3, len(start)), dtype=np.complex128)
        # The start vector takes the place of the residual, whose product is computed next.
        vectors[1] = start
        return LobpcgIterate(vectors, array_module(start).zeros_like(vectors))

    def advance(self, product: Vector) -> LobpcgIterate:
        """The iterate after one more step."""
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
    """The largest Ritz value of three vectors and its weights; dependent directions are left out."""
    norm = np.sqrt(np.diag(gram).real)
    inverse = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    scale = np.outer(inverse, inverse)
    sizes, basis = np.linalg.eigh(gram * scale)
    basis = basis[:, sizes > INDEPENDENT] / np.sqrt(sizes[sizes > INDEPENDENT])
    inside = basis.conj().T @ (matrix * scale) @ basis
    values, weights = np.linalg.eigh((inside + inside.conj().T) / 2)
    return float(values[-1]), inverse * (basis @ weights[:, -1])


class _Products:
    """Products of a matrix with vectors whose norms are sums of parts, so that nothing waits for a GPU.

    Attributes
    ----------
    vectors : list of (frame,) complex128 arrays
        Not normalised.
    squares, dots : (vector, part) float64 arrays
        Parts of ``|v|^2`` of each vector, and of ``<v, w> / |v|`` of each with its product w.
    """

    def __init__(self, matrix: Matrix, start: Vector, count: int) -> None:
        xp, frames = array_module(start), len(start)
        parts = parts_of_sums(frames, start)
        self._matrix = (matrix.indptr, matrix.indices, matrix.data)
        self._kernels = kernels(start)
        self.basis = xp.empty((count, frames), dtype=np.complex128)
        self.vectors = list(self.basis)
        self._sums = xp.zeros((2, count, parts))
        self.squares, self.dots = self._sums
        self.basis[0] = start
        self.squares[0, 0] = xp.vdot(self.basis[0], self.basis[0]).real

    def multiply(self, source: int, target: int, before: int | None = None) -> None:
        """Write the product with the normalised vector `source` to `target`, without ``|source| before``."""
        behind = (None, None) if before is None else (self.vectors[before], self.squares[before])
        own, out = (self.vectors[source], self.squares[source]), self.vectors[target]
        self._kernels.multiply_matrix(
            *self._matrix, *own, *behind, out, self.dots[source], self.squares[target]
        )

    def orthogonalise(self, source: int, target: int) -> None:
        """Subtract from the product `target` its component along `source`."""
        self._kernels.subtract_component(
            self.vectors[target],
            self.vectors[source],
            self.squares[source],
            self.dots[source],
            self.squares[target],
        )

    def read(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Norms of the first vectors, and ``<v, w> / |v|`` with their products, on the host."""
        squares, dots = to_host(self._sums[:, :count].sum(axis=2))
        return np.sqrt(squares), dots


def power(matrix: Matrix, start: Vector, iterations: int, tolerance: float = 0.0) -> Eigenpair:
    """Power iteration. The number of steps it needs is proportional to the number of frames.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        Most steps to make.
    tolerance : float
        Stop once a step changes the normalised vector by less than this, in norm.
    """
    products = _Products(matrix, start, 2)
    own, other = 0, 1
    for _ in range(iterations):
        products.multiply(own, other)
        own, other = other, own
        # Only computed if needed, since it waits for a GPU at every step.
        if tolerance > 0:
            norms, dots = products.read(2)
            if 2 - 2 * dots[other] / norms[own] < tolerance**2:
                break
    return _eigenpair(matrix, products.vectors[own])


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _one_blas_thread() -> AbstractContextManager[object]:
    # On short vectors, BLAS threads that wait for a busy core take fifty times as long as the arithmetic.
    return _blas().limit(limits=1, user_api="blas")


# Most vectors that Lanczos keeps. More steps are made in rounds, each starting from the result of the last.
LANCZOS_BASIS = 64
# Residual norm at which Lanczos stops, and the number of steps from one check of it to the next.
CONVERGED, LOOK_EVERY = 1e-10, 8


def lanczos(matrix: Matrix, start: Vector, iterations: int) -> Eigenpair:
    """Lanczos iteration: needs as many steps as `lobpcg`, each in a fifth of the time.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        Number of steps; fewer are made if the vector converges.

    Notes
    -----
    The vectors are not orthogonalised again, as ARPACK does, which would take as long as the products with
    the matrix. They lose their orthogonality only once the leading pair has converged (C. C. Paige, J. Inst.
    Math. Appl. 18, 341 (1976)), and then the iteration ends.
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
    """Leading Ritz vector after this number of steps, and the norm of its residual."""
    products = _Products(matrix, start, steps + 1)
    for step in range(steps):
        products.multiply(step, step + 1, before=step - 1 if step else None)
        products.orthogonalise(step, step + 1)
        last = step + 1 == steps
        if last or (step + 1) % LOOK_EVERY == 0:
            # The tridiagonal matrix comes to the host: two numbers for each step.
            norms, diagonal = products.read(step + 2)
            # A start vector that is a sum of few eigenvectors spans no further directions.
            exhausted = np.flatnonzero(norms[1:] < CONVERGED)
            kept = 1 + int(exhausted[0]) if len(exhausted) else step + 1
            _, ritz = eigh_tridiagonal(
                diagonal[:kept], norms[1:kept], select="i", select_range=(kept - 1, kept - 1)
            )
            residual = float(norms[kept] * abs(ritz[-1, 0]))
            if last or len(exhausted) or residual < CONVERGED:
                break
    weights = array_module(start).asarray(ritz[:, 0] / norms[:kept])
    return weights @ products.basis[:kept], residual


def lobpcg(matrix: Matrix, start: Vector, iterations: int, tolerance: float = 1e-10) -> Eigenpair:
    """LOBPCG with one vector, which needs about the square root of the steps of `power`.

    SciPy's on the host. CuPy's forgets a conjugate for complex matrices (up to 14.2 at least): on a GPU it is
    the iteration of `LobpcgIterate`.

    Parameters
    ----------
    matrix : (frame, frame) sparse Hermitian array
    start : (frame,) array
    iterations : int
        Most steps to make.
    tolerance : float
        Residual norm at which to stop. The libraries' default grows with the matrix and would stop before the
        long-range phases, which synchronisation is for, have converged.
    """
    if array_module(start) is not np:
        iterate = LobpcgIterate.begin(start)
        for _ in range(iterations):
            iterate = iterate.advance(matrix @ iterate.vector)
            if float(array_module(start).linalg.norm(iterate.vectors[1])) < tolerance:
                break
        return iterate.conclude(matrix @ iterate.vector)
    with warnings.catch_warnings(), _one_blas_thread():
        # The libraries warn if the steps end before the tolerance is reached, which is intended here.
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = scipy_lobpcg(
            matrix, start.astype(np.complex128)[:, None], largest=True, maxiter=iterations, tol=tolerance
        )
    return _eigenpair(matrix, vectors[:, 0])
