"""L-BFGS from inner products: the textbook's two loops, sums over tiles, and its decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError
from daskptycho.model.algorithms import LBFGS
from daskptycho.model.lbfgs import (
    REST,
    RISEN,
    Memory,
    Step,
    make_step,
    measure_products,
    next_step,
    remember,
)
from tests.plain import complex_noise, relative

SHAPE = (7, 9)


def inner(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    return float((weight * (a.conj() * b).real).sum(dtype=np.float64))


def direction_by_the_textbook(
    change: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]], weight: np.ndarray
) -> np.ndarray:
    """Nocedal and Wright, Numerical Optimization, algorithm 7.4, on vectors."""
    d, alphas = change.astype(complex), []
    for s, q in reversed(pairs):
        alphas.append(inner(s, d, weight) / inner(s, q, weight))
        d = d - alphas[-1] * q
    if pairs:
        s, q = pairs[-1]
        d = d * inner(s, q, weight) / inner(q, q, weight)
    for (s, q), alpha in zip(pairs, reversed(alphas), strict=True):
        d = d + s * (alpha - inner(q, d, weight) / inner(s, q, weight))
    return -d


class Quadratic:
    """A quadratic misfit: r = A (psi - solution), with A symmetric in the weighted inner product."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        size = SHAPE[0] * SHAPE[1]
        mixing = np.linalg.qr(complex_noise(random, (size, size)))[0]
        self.matrix = (mixing * np.geomspace(0.02, 1, size)) @ mixing.conj().T
        self.weight = random.uniform(0.1, 3, SHAPE).astype(np.float32)
        self.solution = complex_noise(random, SHAPE)

    def change(self, image: np.ndarray) -> np.ndarray:
        root = np.sqrt(self.weight)
        error = self.matrix @ ((image - self.solution) * root).ravel()
        return (error.reshape(SHAPE) / root).astype(np.complex64)

    def misfit(self, image: np.ndarray) -> float:
        return inner(image - self.solution, self.change(image), self.weight)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), most=st.integers(1, 5))
def test_steps_are_those_of_the_textbook(seed: int, most: int) -> None:
    problem = Quadratic(seed)
    image = np.zeros(SHAPE, dtype=np.complex64)
    memory: Memory | None = None
    step: Step | None = None
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(8):
        change = problem.change(image)
        if memory is not None:
            pairs = [*pairs, (image - memory.image, change - memory.change)][-most:]
        memory = remember(image, change, memory, step)
        assert len(memory.pairs) == min(number, most)
        products = measure_products(memory, problem.weight)
        step = next_step(products, step, problem.misfit(image), most, turned=False)
        expected = image + direction_by_the_textbook(change, pairs, problem.weight)
        image = make_step(memory, step)
        assert image.dtype == np.complex64
        assert relative(image, expected) < 1e-3


def test_steps_reach_the_solution_of_a_quadratic_misfit_where_plain_ones_do_not() -> None:
    problem = Quadratic(3)
    image = plainly = np.zeros(SHAPE, dtype=np.complex64)
    memory, step = None, None
    for _ in range(60):
        memory = remember(image, problem.change(image), memory, step)
        products = measure_products(memory, problem.weight)
        step = next_step(products, step, problem.misfit(image), 5, turned=False)
        image = make_step(memory, step)
        plainly = plainly - problem.change(plainly)
    assert relative(image, problem.solution) < 1e-3
    assert relative(plainly, problem.solution) > 1e-2


@given(seed=st.integers(0, 999), pairs=st.integers(0, 3), at=st.integers(2, 5))
@settings(deadline=None)
def test_products_of_tiles_add_up(seed: int, pairs: int, at: int) -> None:
    """Two tiles that both hold two rows, which each counts by half."""
    random = np.random.default_rng(seed)
    arrays = [complex_noise(random, SHAPE) for _ in range(2 * pairs + 2)]
    weight = random.uniform(0, 2, SHAPE).astype(np.float32)

    def cut(rows: slice) -> Memory:
        image, change, *others = (array[rows] for array in arrays)
        return Memory(image, change, list(zip(others[::2], others[1::2], strict=True)))

    whole = measure_products(cut(slice(None)), weight)
    basis = cut(slice(None)).basis
    needed = [(basis[-1], other) for other in basis]
    if pairs:
        s, q, _ = basis[-3:]
        needed += [*((s, other) for other in basis[1::2]), (s, s), (q, q)]
    expected = [inner(*two, weight) for two in needed]
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
    held_twice = np.ones(SHAPE, dtype=np.float32)
    held_twice[at - 1 : at + 1] = 0.5
    parts = [
        measure_products(cut(rows), (weight * held_twice)[rows])
        for rows in (slice(0, at + 1), slice(at - 1, None))
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-4)


def after_two_sweeps(seed: int = 0) -> tuple[Memory, Step, np.ndarray]:
    problem = Quadratic(seed)
    image = np.zeros(SHAPE, dtype=np.complex64)
    first = remember(image, problem.change(image), None, None)
    step = next_step(measure_products(first, problem.weight), None, 10.0, 5, turned=False)
    image = make_step(first, step)
    memory = remember(image, problem.change(image), first, step)
    return memory, step, measure_products(memory, problem.weight)


def test_a_risen_misfit_takes_the_step_back() -> None:
    memory, step, products = after_two_sweeps()
    kept = next_step(products, step, (1 + RISEN / 2) * 10, 5, turned=False)
    assert kept.kept == (0,)
    back = next_step(products, step, (1 + 2 * RISEN) * 10, 5, turned=False)
    assert back.kept == ()
    s, q = memory.pairs[-1]
    before, change_before = memory.image - s, memory.change - q
    np.testing.assert_allclose(make_step(memory, back), before - change_before, atol=1e-5)
    # Phases of a synchronisation may raise it: that step is not taken back.
    turned = replace(step, turned=True)
    assert next_step(products, turned, (1 + 2 * RISEN) * 10, 5, turned=False).kept == (0,)


def test_a_pair_without_curvature_is_dropped() -> None:
    memory, step, products = after_two_sweeps()
    concave = products.copy()
    # The product of s with q of the only pair.
    concave[3] = -1.0
    found = next_step(concave, step, 5.0, 5, turned=False)
    assert found.kept == ()
    np.testing.assert_allclose(make_step(memory, found), memory.image - memory.change, atol=1e-6)


def test_a_misfit_at_rest_is_followed_without_acceleration() -> None:
    memory, step, products = after_two_sweeps()
    rests = replace(step, misfits=(10.0, 10.0))
    found = next_step(products, rests, 10 * (1 - REST / 2), 5, turned=False)
    np.testing.assert_allclose(make_step(memory, found), memory.image - memory.change, atol=1e-6)
    moves = next_step(products, rests, 10 * (1 - 2 * REST), 5, turned=False)
    assert relative(make_step(memory, moves), memory.image - memory.change) > 1e-3


@pytest.mark.parametrize("pairs", [0, -1, 1.5, True, "5"])
def test_impossible_numbers_of_pairs_are_refused(pairs: object) -> None:
    with pytest.raises(OptionError, match="pairs"):
        LBFGS(pairs)  # type: ignore[arg-type]
