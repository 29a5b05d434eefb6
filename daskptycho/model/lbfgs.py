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

With m pairs a sweep measures 3 m + 3 products. Those of earlier arrays are known, those of q with earlier
arrays follow from the products of r before and after the step, and those of s with an earlier s are not
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from daskptycho.backend import add_multiple, inner_products

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
        The inner products of the arrays of these pairs and of r, as far as they are needed.
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
    """The inner products of a tile that its newest arrays need.

    Parameters
    ----------
    memory : Memory
    weight : (y, x) float32 array
        D, divided by the number of tiles that hold the pixel.

    Returns
    -------
    (1 or 3 m + 3,) float64 array
        Those of r with the arrays of the basis; with m pairs, also those of the newest s with q of each pair,
        of this s with itself, and of the newest q with itself.
    """
    basis = memory.basis
    products = [inner_products(weight, basis[-1], basis)]
    if memory.pairs:
        s, q, _ = basis[-3:]
        products += [inner_products(weight, s, [*basis[1::2], s]), inner_products(weight, q, [q])]
    return np.concatenate(products)


def next_step(
    products: NDArray[np.float64], before: Step | None, misfit: float, most: int, turned: bool
) -> Step:
    """Find the next step.

    Parameters
    ----------
    products : (1 or 3 m + 3,) float64 array
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
    misfits = (*(() if before is None else before.misfits[-2:]), misfit)
    gram = _assemble(products, before)
    pairs = len(gram) // 2
    unchanged = np.zeros(len(gram))
    unchanged[-1] = -1
    if before is None or not pairs:
        alone = ((float(gram[-1, -1]),),)
        return Step(tuple(unchanged), gram=alone, misfits=misfits, turned=turned)
    if not before.turned and misfit > (1 + RISEN) * misfits[-2]:
        # Back to where the sweep before would have led without L-BFGS: psi - s - (r - q).
        back = unchanged.copy()
        back[-3:-1] = -1, 1
        alone = ((float(gram[-1, -1]),),)
        return Step(tuple(back), gram=alone, misfits=(misfits[-2],), turned=turned)
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
    arrays = [*(number for pair in kept for number in (2 * pair, 2 * pair + 1)), 2 * pairs]
    return Step(
        tuple(map(float, coefficients)),
        tuple(kept),
        tuple(tuple(map(float, row)) for row in gram[np.ix_(arrays, arrays)]),
        misfits,
        turned,
    )


def _assemble(products: NDArray[np.float64], before: Step | None) -> NDArray[np.float64]:
    """The matrix of inner products of the basis; zero for those of two s, which nothing needs."""
    pairs = (len(products) - 3) // 3 if len(products) > 1 else 0
    size = 2 * pairs + 1
    gram = np.zeros((size, size))
    gram[-1] = gram[:, -1] = products[:size]
    if before is None or not pairs:
        return gram
    s, q, old = size - 3, size - 2, size - 3
    known = np.array(before.gram)
    gram[:old, :old] = known[:old, :old]
    gram[s, 1::2] = gram[1::2, s] = products[size:-2]
    gram[s, s], gram[q, q] = products[-2:]
    # q is the change of r.
    gram[q, :old] = gram[:old, q] = gram[-1, :old] - known[-1, :old]
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
    for coefficient, array in zip(step.coefficients, memory.basis, strict=True):
        if coefficient:
            add_multiple(array, coefficient, image)
    return image
