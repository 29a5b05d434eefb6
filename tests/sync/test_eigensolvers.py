"""Power iteration, LOBPCG and Lanczos against a dense eigensolver."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.sync.eigensolvers import Eigenpair, lanczos, lobpcg, power

solvers = pytest.mark.parametrize("solver", [power, lobpcg, lanczos])


def hermitian(random: np.random.Generator, eigenvalues: np.ndarray) -> np.ndarray:
    size = len(eigenvalues)
    noise = random.normal(size=(size, size)) + 1j * random.normal(size=(size, size))
    basis, _ = np.linalg.qr(noise)
    matrix = (basis * eigenvalues) @ basis.conj().T
    return (matrix + matrix.conj().T) / 2


def ring(frames: int) -> sp.csr_array:
    """The mean of neighbours on a ring, a random phase on each frame; the gap closes as 1 / frames^2."""
    theta = np.random.default_rng(frames).uniform(-np.pi, np.pi, frames)
    following = sp.diags_array([np.ones(frames - 1)], offsets=[1]).tolil()
    following[frames - 1, 0] = 1
    plain_ring = sp.eye_array(frames) * 0.5 + (following + following.T) * 0.25
    turn = sp.diags_array(np.exp(-1j * theta))
    return sp.csr_array(turn @ plain_ring @ turn.conj())


@solvers
@settings(max_examples=25)
@given(size=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_leading_eigenpair_is_that_of_eigh(solver, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    eigenvalues = np.concatenate([random.uniform(0, 0.6, size - 1), [1.0]])
    matrix = hermitian(random, eigenvalues)
    start = random.normal(size=size) + 1j * random.normal(size=size)
    found = solver(sp.csr_array(matrix), start, 200)
    value, vectors = (part[..., -1] for part in np.linalg.eigh(matrix))
    assert found.value == pytest.approx(value, abs=1e-8)
    assert abs(np.vdot(vectors, found.vector)) == pytest.approx(1, abs=1e-8)
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert found.residual < 1e-6


@solvers
@settings(max_examples=25)
@given(size=st.integers(1, 12), iterations=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_value_and_residual_belong_to_the_vector(solver, size: int, iterations: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = hermitian(random, random.uniform(0, 1, size))
    start = random.normal(size=size) + 1j * random.normal(size=size)
    found = solver(sp.csr_array(matrix), start, iterations)
    product = matrix @ found.vector
    assert found.value == pytest.approx(np.vdot(found.vector, product).real, abs=1e-10)
    assert found.residual == pytest.approx(np.linalg.norm(product - found.value * found.vector), abs=1e-10)
    # Neither solver falls behind its start.
    unit = start / np.linalg.norm(start)
    assert found.value >= np.vdot(unit, matrix @ unit).real - 1e-10


@settings(max_examples=25)
@given(size=st.integers(1, 12), iterations=st.integers(1, 7), seed=st.integers(0, 2**32))
def test_power_makes_as_many_steps_as_asked(size: int, iterations: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = hermitian(random, random.uniform(0.1, 1, size))
    start = random.normal(size=size) + 1j * random.normal(size=size)
    expected = np.linalg.matrix_power(matrix, iterations) @ start
    found = power(sp.csr_array(matrix), start, iterations).vector
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-10)


def test_power_stops_at_its_tolerance() -> None:
    matrix, start = ring(12), np.ones(12, dtype=complex)
    exact = power(matrix, start, 5000)
    early = power(matrix, start, 5000, tolerance=1e-3)
    assert exact.residual < 1e-10 < early.residual < 1e-3


@solvers
def test_start_at_the_solution_stays_there(solver) -> None:
    matrix = ring(40)
    vector = np.linalg.eigh(matrix.toarray())[1][:, -1]
    found = solver(matrix, vector, 20)
    assert abs(np.vdot(vector, found.vector)) == pytest.approx(1, abs=1e-12)
    assert found.value == pytest.approx(1, abs=1e-12)


def test_lobpcg_needs_far_fewer_steps_than_power() -> None:
    """On a ring of 64 frames the gap is 0.0024: hundreds of power steps, tens of LOBPCG's."""
    matrix, start = ring(64), np.ones(64, dtype=complex)
    truth = np.linalg.eigh(matrix.toarray())[1][:, -1]

    def wrong(found: Eigenpair) -> float:
        return 1 - abs(np.vdot(truth, found.vector))

    assert wrong(lobpcg(matrix, start, 60)) < 1e-3
    assert wrong(power(matrix, start, 60)) > 1e-2


def test_lobpcg_is_quiet_where_it_stops_at_its_limit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lobpcg(ring(64), np.ones(64, dtype=complex), 3)
    assert 0 < found.value < 1


@solvers
def test_frames_without_counts_stay_at_zero(solver) -> None:
    """A row of zeros, as `normalise` leaves it for a frame without a count."""
    matrix = sp.csr_array(sp.block_diag([ring(20), sp.csr_array((2, 2))]))
    start = np.concatenate([np.ones(20), [0, 0]]).astype(complex)
    found = solver(matrix, start, 300)
    assert abs(found.vector[20:]).max() < 1e-12
    assert found.value == pytest.approx(1, abs=1e-6)


@settings(max_examples=25)
@given(steps=st.integers(3, 12), seed=st.integers(0, 2**32))
def test_lanczos_finds_the_best_vector_of_its_krylov_space(steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = hermitian(random, random.uniform(-0.5, 1, 40))
    vector = random.normal(size=40) + 1j * random.normal(size=40)
    krylov = np.empty((40, 0))
    for _ in range(steps):
        krylov, _ = np.linalg.qr(np.column_stack([krylov, vector]))
        vector = matrix @ krylov[:, -1]
    best = np.linalg.eigvalsh(krylov.conj().T @ matrix @ krylov)[-1]
    assert lanczos(sp.csr_array(matrix), krylov[:, 0], steps).value == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("gap", [0.001, 0.03, 0.3, 0.9])
def test_lanczos_stays_at_what_it_has_found(gap: float) -> None:
    """Steps beyond convergence would bring the leading vector a second time, as rounding lets it."""
    random = np.random.default_rng(0)
    matrix = hermitian(random, np.append(random.uniform(0, 1 - gap, 299), 1.0))
    start = random.normal(size=300) + 1j * random.normal(size=300)
    found = lanczos(sp.csr_array(matrix), start, 280)
    assert found.value == pytest.approx(1, abs=1e-9)
    assert found.residual < 1e-5
