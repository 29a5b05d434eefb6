"""L-BFGS: steps of the object by limited-memory quasi-Newton, towards the fixed point of the sweep.

Without momentum, a sweep from the object psi gives ``T psi = (sum_i u_i + e psi) / (N + e)``. The change
``r = psi - T psi`` is the gradient of the misfit divided by ``D = N + e``, and vanishes at the solution. From
the last steps ``s = psi - psi_before`` and the changes ``q = r - r_before`` that belong to them, L-BFGS
estimates how the change depends on the object (Nocedal, Math. Comp. 35, 773 (1980)). The estimate needs inner
products

    <a, b> = sum over pixels of D Re(conj(a) b)

of these arrays and nothing else. Each tile sums over its own pixels, with a share of those that other tiles
hold too, and one task finds the coefficients of the step from the sums of all tiles. Each tile then makes the
step on its own window. A sweep therefore exchanges what it exchanges anyway, and a few numbers for each tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import array_module, pixels_in_flight, to_host

__all__ = ["Memory", "Step", "make_step", "measure_products", "next_step", "remember"]

Array = Any

# A pair is kept if the curvature along it, <s, q> / <s, s>, is above this.
LEAST_CURVATURE = 1e-6
# R2 has risen if it grew by more than this share. Less may be rounding, on which no decision must depend.
RISEN = 1e-3
# R2 is at rest if it changed by less than this share twice in a row: what remains is noise.
REST = 1e-4


class Memory(NamedTuple):
    """What L-BFGS knows of a tile after a sweep."""

    image: Array
    """(y, x) complex64 psi, the object that the sweep began with."""
    change: Array
    """(y, x) complex64 r."""
    pairs: list[tuple[Array, Array]]
    """Pairs s, q of (y, x) complex64 arrays, the oldest first."""

    @property
    def basis(self) -> list[Array]:
        """The arrays of which the next step is a sum: s and q of each pair, and r."""
        return [*(array for pair in self.pairs for array in pair), self.change]


@dataclass(frozen=True)
class Step:
    """The step after a sweep, the same for all tiles.

    Attributes
    ----------
    coefficients : tuple of float
        The factor of each array of `Memory.basis`.
    kept : tuple of int
        Numbers of the pairs that are kept for the next step.
    gram : tuple of tuples of float
        The inner products of the arrays of these pairs.
    misfits : tuple of float
        Misfits of the last sweeps, at most three.
    turned : bool
        Whether the sweep synchronised, so that phases are added to the step.
    """

    coefficients: tuple[float, ...]
    kept: tuple[int, ...] = ()
    gram: tuple[tuple[float, ...], ...] = ()
    misfits: tuple[float, ...] = ()
    turned: bool = False


def remember(image: Array, change: Array, before: Memory | None, step: Step | None) -> Memory:
    """What is known of a tile after a sweep from `image` that found `change`.

    Parameters
    ----------
    image, change : (y, x) complex64 arrays
        psi and r.
    before : Memory, optional
        After the sweep before, if L-BFGS made the step from it.
    step : Step, optional
        That step.
    """
    if before is None or step is None:
        return Memory(image, change, [])
    pairs = [before.pairs[number] for number in step.kept]
    return Memory(image, change, [*pairs, (image - before.image, change - before.change)])


def measure_products(memory: Memory, weight: Array) -> NDArray[np.float64]:
    """Inner products of the newest arrays of a tile with all of its arrays.

    Parameters
    ----------
    memory : Memory
    weight : (y, x) float32 array
        D, divided by the number of tiles that hold the pixel.

    Returns
    -------
    (1 or 3, basis) float64 array
        The rows of r, or of s and q of the newest pair and of r.
    """
    xp, basis = array_module(weight), memory.basis
    newest = basis[-3:]
    total = np.zeros((len(newest), len(basis)))
    for rows in _row_blocks(weight):
        weighted = [_real(array[rows] * weight[rows]) for array in newest]
        columns = [_real(array[rows]) for array in basis]
        # Products of two vectors: libraries are slow at matrices of a few long rows.
        products = xp.stack([row @ column for row in weighted for column in columns])
        total += to_host(products).reshape(total.shape)
    return total


def _row_blocks(image: Array) -> Iterator[slice]:
    """Rows of an image that are processed at once, as many pixels as of exit waves."""
    height, width = image.shape
    rows = max(1, pixels_in_flight(image) // width)
    for start in range(0, height, rows):
        yield slice(start, start + rows)


def _real(array: Array) -> Array:
    """(2 pixels,) float32: real and imaginary parts in turn, whose products sum to Re(conj(a) b)."""
    return array_module(array).ascontiguousarray(array).reshape(-1).view(np.float32)


def next_step(
    products: NDArray[np.float64], before: Step | None, misfit: float, most: int, turned: bool
) -> Step:
    """Find the next step.

    Parameters
    ----------
    products : (1 or 3, basis) float64 array
        From `measure_products`, summed over tiles.
    before : Step, optional
        The step before, if there was one.
    misfit : float
        Misfit of the sweep.
    most : int
        Most pairs to keep.
    turned : bool
        Whether the sweep synchronised.
    """
    size = products.shape[1]
    pairs = size // 2
    misfits = (*(() if before is None else before.misfits[-2:]), misfit)
    gram = _assemble(products, before)
    unchanged = np.zeros(size)
    unchanged[-1] = -1
    if before is None or not pairs:
        return Step(tuple(unchanged), misfits=misfits, turned=turned)
    if not before.turned and misfit > (1 + RISEN) * misfits[-2]:
        # Back to where the sweep before would have led without L-BFGS: psi - s - (r - q).
        back = unchanged.copy()
        back[-3:-1] = -1, 1
        return Step(tuple(back), misfits=(misfits[-2],), turned=turned)
    s, q = 2 * (pairs - 1), 2 * (pairs - 1) + 1
    kept = list(range(pairs))
    if not gram[s, q] > LEAST_CURVATURE * gram[s, s]:
        kept.pop()
    coefficients = _two_loops(gram, kept)
    rests = len(misfits) == 3 and max(abs(np.diff(misfits))) < REST * misfit
    # Where R2 is at rest, quasi-Newton steps would fit the object to noise. Any other step must descend.
    if rests or not coefficients @ gram[-1] < 0:
        coefficients = unchanged
    kept = kept[-(most - 1) :] if most > 1 else []
    arrays = [number for pair in kept for number in (2 * pair, 2 * pair + 1)]
    return Step(
        tuple(map(float, coefficients)),
        tuple(kept),
        tuple(tuple(map(float, row)) for row in gram[np.ix_(arrays, arrays)]),
        misfits,
        turned,
    )


def _assemble(products: NDArray[np.float64], before: Step | None) -> NDArray[np.float64]:
    """The matrix of inner products, from the rows of the newest arrays and what was known of the others."""
    size = products.shape[1]
    gram = np.zeros((size, size))
    known = 0 if before is None else len(before.gram)
    if before is not None and known:
        gram[:known, :known] = before.gram
    gram[-len(products) :] = products
    gram[:, -len(products) :] = products.T
    return gram


def _two_loops(gram: NDArray[np.float64], kept: Sequence[int]) -> NDArray[np.float64]:
    """Coefficients of minus the inverse Hessian applied to r, by the two loops, in inner products only."""
    direction = np.zeros(len(gram))
    direction[-1] = 1
    alphas = {}
    for pair in reversed(kept):
        s, q = 2 * pair, 2 * pair + 1
        alphas[pair] = (direction @ gram[s]) / gram[s, q]
        direction[q] -= alphas[pair]
    if kept:
        s, q = 2 * kept[-1], 2 * kept[-1] + 1
        direction *= gram[s, q] / gram[q, q]
    for pair in kept:
        s, q = 2 * pair, 2 * pair + 1
        direction[s] += alphas[pair] - (direction @ gram[q]) / gram[s, q]
    return -direction


def make_step(memory: Memory, step: Step) -> Array:
    """The object after the step, (y, x) complex64."""
    image = memory.image.copy()
    parts = [pair for pair in zip(step.coefficients, memory.basis, strict=True) if pair[0]]
    for rows in _row_blocks(image):
        for coefficient, array in parts:
            image[rows] += np.float32(coefficient) * array[rows]
    return image
