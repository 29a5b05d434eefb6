"""Synchronisation apart from H: normalisations, phases, localisation, cadence, options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError
from daskptycho.sync.eigensolvers import Eigenpair
from daskptycho.sync.options import Cadence, Sync
from daskptycho.sync.phases import (
    Phases,
    extract_phases,
    keep_significant,
    localisation,
    normalise,
    solve,
)

NAN = math.nan


def gramian(random: np.random.Generator, frames: int, noise: float = 0.0) -> sp.csr_array:
    """A positive Gramian of vectors that share their pixels; real and positive but for the noise."""
    vectors = random.uniform(0.1, 1, (frames, 3 * frames)) * (random.random((frames, 3 * frames)) < 0.5)
    vectors = vectors + noise * (random.normal(size=vectors.shape) + 1j * random.normal(size=vectors.shape))
    return sp.csr_array((vectors.conj() @ vectors.T).astype(complex))


# Normalisations


@settings(max_examples=40)
@given(frames=st.integers(1, 20), seed=st.integers(0, 2**32), noise=st.sampled_from([0.0, 0.3]))
def test_normalisations_are_their_formulas(frames: int, seed: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    h = gramian(random, frames, noise)
    power = random.uniform(0.5, 2, frames)
    dense = h.toarray()
    k = normalise(h, power, "frame")
    np.testing.assert_allclose(k.matrix.toarray(), dense / np.sqrt(np.outer(power, power)), rtol=1e-12)
    np.testing.assert_allclose(k.consensus, np.sqrt(power))
    degree = normalise(h, power, "degree")
    d = abs(dense).sum(axis=1)
    np.testing.assert_allclose(degree.matrix.toarray(), dense / np.sqrt(np.outer(d, d)), rtol=1e-12)
    np.testing.assert_allclose(degree.consensus, np.sqrt(d))
    # Gershgorin: no eigenvalue of L is above one, whatever H is.
    assert np.linalg.eigvalsh(degree.matrix.toarray())[-1] < 1 + 1e-12


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
def test_a_frame_without_a_count_has_no_say(normalisation: str) -> None:
    h = np.zeros((4, 4), dtype=complex)
    h[:3, :3] = gramian(np.random.default_rng(0), 3).toarray()
    power = np.array([1.0, 2.0, 1.0, 0.0])
    normalised = normalise(sp.csr_array(h), power, normalisation)
    assert np.isfinite(normalised.matrix.toarray()).all()
    assert not normalised.matrix.toarray()[3].any()
    found = extract_phases(solve(normalised, Sync()), power)
    assert np.isfinite(found.phase).all()
    assert math.isfinite(found.spread)
    np.testing.assert_allclose(abs(found.phase), 1, rtol=1e-6)


@pytest.mark.parametrize("eigensolver", ["lanczos", "lobpcg", "power"])
@pytest.mark.parametrize("normalisation", ["frame", "degree"])
def test_solve_finds_the_leading_eigenvector_from_the_consensus(eigensolver: str, normalisation: str) -> None:
    random = np.random.default_rng(4)
    h = gramian(random, 15, 0.1)
    normalised = normalise(h, h.diagonal().real, normalisation)
    found = solve(normalised, Sync(eigensolver=eigensolver, iterations=300))
    values, vectors = np.linalg.eigh(normalised.matrix.toarray())
    assert found.value == pytest.approx(values[-1], abs=1e-9)
    assert abs(np.vdot(vectors[:, -1], found.vector)) == pytest.approx(1, abs=1e-6)


def test_more_steps_come_nearer() -> None:
    h = gramian(np.random.default_rng(1), 30, 0.5)
    normalised = normalise(h, h.diagonal().real, "degree")
    for eigensolver in ("lanczos", "lobpcg", "power"):
        residuals = [
            solve(normalised, Sync(eigensolver=eigensolver, iterations=n)).residual for n in (1, 5, 60)
        ]
        assert residuals[0] > residuals[1] > residuals[2]


@given(frames=st.integers(1, 10**6), solver=st.sampled_from(["lanczos", "lobpcg", "power"]))
def test_automatic_steps_grow_with_the_scan(frames: int, solver: str) -> None:
    sync = Sync(eigensolver=solver)
    assert isinstance(sync.steps(frames), int)
    assert 1 <= sync.steps(frames) <= sync.steps(4 * frames)
    assert Sync(eigensolver=solver, iterations=7).steps(frames) == 7


# Phases


vectors = st.builds(
    lambda size, seed: (lambda r: r.normal(size=size) + 1j * r.normal(size=size))(
        np.random.default_rng(seed)
    ),
    st.integers(1, 40),
    st.integers(0, 2**32),
)


@given(vectors, st.floats(-3, 3))
def test_phases_are_those_of_the_vector_without_their_mean(vector: np.ndarray, turn: float) -> None:
    power = abs(vector) ** 2
    found = extract_phases(Eigenpair(0.9, vector, 0.0), power)
    assert found.phase.dtype == np.complex64
    np.testing.assert_allclose(abs(found.phase), 1, rtol=1e-6)
    relative = found.phase * abs(vector) / vector
    np.testing.assert_allclose(relative, relative[0], atol=1e-5)
    mean = (found.phase * power).sum()
    assert mean.imag == pytest.approx(0, abs=1e-4 * power.sum())
    assert mean.real >= -1e-4 * power.sum()
    assert found.disagreement == pytest.approx(0.1)
    assert found.localisation == pytest.approx(localisation(vector))
    # The phase of the eigenvector as a whole means nothing.
    other = extract_phases(Eigenpair(0.9, vector * np.exp(1j * turn), 0.0), power)
    if abs(mean) > 1e-2 * power.sum():
        np.testing.assert_allclose(other.phase, found.phase, atol=1e-3)


@given(frames=st.integers(2, 50), width=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_spread_is_the_weighted_root_mean_square(frames: int, width: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    angle, power = random.uniform(-width, width, frames), random.uniform(0.5, 2, frames)
    weight = power / power.sum()
    vector = np.sqrt(power) * np.exp(1j * angle)
    found = extract_phases(Eigenpair(1.0, vector, 0.0), power)
    mean = np.angle((weight * np.exp(1j * angle)).sum())
    assert found.spread == pytest.approx(np.sqrt((weight * (angle - mean) ** 2).sum()), rel=1e-6, abs=1e-9)


@given(vectors)
def test_localisation_lies_between_one_and_the_number_of_frames(vector: np.ndarray) -> None:
    found = localisation(vector)
    assert 1 - 1e-9 <= found <= len(vector) * (1 + 1e-9)
    assert localisation(3j * vector) == pytest.approx(found)


@given(frames=st.integers(1, 50), part=st.integers(1, 50))
def test_localisation_counts_the_frames_that_take_part(frames: int, part: int) -> None:
    vector = np.zeros(frames, dtype=complex)
    vector[:part] = 1j
    assert localisation(vector) == pytest.approx(frames / min(part, frames))


def test_phases_that_the_misfit_does_not_bear_out_are_left_alone() -> None:
    phase = np.exp(1j * np.linspace(-1, 1, 5)).astype(np.complex64)
    found = Phases(phase, 0.2, 0.3, 1.5)
    np.testing.assert_array_equal(keep_significant(found, 1e-4).phase, phase)
    ignored = keep_significant(found, 1e4)
    np.testing.assert_array_equal(ignored.phase, np.ones(5))
    assert ignored.phase.dtype == np.complex64
    # What was found is still told.
    assert (ignored.disagreement, ignored.spread, ignored.localisation) == (0.2, 0.3, 1.5)


# Cadence


# Spreads far below and far above anything that the misfit of the frames (R2 of a hundredth) leaves open.
AGREE, DRIFT = 1e-9, 1.0


def go_on(cadence: Cadence, spreads: list[float], local: float = 1.0) -> tuple[list[int], Cadence]:
    """Numbers of the sweeps that synchronised, the spread found being that of the list; the last cadence."""
    done = []
    for number, spread in enumerate(spreads, start=1):
        due = cadence.due()
        coming = cadence.coming()
        assert (coming.sync, coming.normalisation) == (cadence.sync, cadence.normalisation if due else None)
        if due:
            done.append(number)
        cadence = cadence.after(0.01, spread if due else NAN, local if due else NAN)
    return done, cadence


def synchronised_sweeps(cadence: Cadence, spreads: list[float], local: float = 1.0) -> list[int]:
    """Numbers of the sweeps that synchronised."""
    return go_on(cadence, spreads, local)[0]


def test_syncs_thin_out_where_phases_agree() -> None:
    done = synchronised_sweeps(Cadence.begin(Sync(), growing=False), [AGREE] * 200)
    gaps = np.diff(done)
    assert (gaps[1:] == 2 * gaps[:-1]).all()
    assert done[0] < 10
    assert len(done) <= 9


def test_syncs_return_to_every_sweep_where_phases_drift() -> None:
    _, cadence = go_on(Cadence.begin(Sync(), growing=False), [AGREE] * 40)
    done = synchronised_sweeps(cadence, [DRIFT] * 100)
    assert (np.diff(done, n=2) <= 0).all()
    assert done[-20:] == list(range(81, 101))


def test_drifting_phases_synchronise_every_sweep() -> None:
    done = synchronised_sweeps(Cadence.begin(Sync(), growing=False), [DRIFT] * 20)
    assert done[0] < 10
    assert done == list(range(done[0], 21))


def test_near_neighbours_are_enough_only_where_phases_stand_out_from_the_noise() -> None:
    cadence = Cadence.begin(Sync(), growing=False)
    assert not cadence.coming().near_pairs
    _, drifting = go_on(cadence, [DRIFT] * 5)
    assert drifting.coming().near_pairs
    assert not go_on(drifting, [AGREE])[1].coming().near_pairs
    assert not go_on(Cadence.begin(Sync(every=1), growing=False), [DRIFT] * 5)[1].coming().near_pairs
    _, growing = go_on(Cadence.begin(Sync(), growing=True), [DRIFT] * 5, local=400.0)
    assert not growing.coming().near_pairs


@pytest.mark.parametrize("spread", [AGREE, DRIFT])
@pytest.mark.parametrize("every", [1, 3, 10])
def test_a_fixed_cadence_looks_at_nothing(every: int, spread: float) -> None:
    done = synchronised_sweeps(Cadence.begin(Sync(every=every), growing=False), [spread] * 40)
    assert done == list(range(1, 41, every))


def test_no_method_never_synchronises() -> None:
    assert synchronised_sweeps(Cadence.begin(Sync(method=None), growing=False), [DRIFT] * 20) == []


def test_a_random_start_grows_on_frames_and_goes_over_to_degrees_for_good() -> None:
    cadence = Cadence.begin(Sync(), growing=True)
    assert cadence.normalisation == "frame"
    # Localised on a few frames: still growing, every sweep, however small the spread.
    done, cadence = go_on(cadence, [AGREE] * 6, local=400.0)
    assert done == [1, 2, 3, 4, 5, 6]
    assert cadence.normalisation == "frame"
    _, cadence = go_on(cadence, [AGREE] * 2, local=1.1)
    assert cadence.normalisation == "degree"
    _, cadence = go_on(cadence, [DRIFT] * 3, local=400.0)
    assert cadence.normalisation == "degree"


@pytest.mark.parametrize(
    ("local", "spread", "grown"), [(2.6, 0.018, True), (2.6, 0.025, False), (5.0, 0.018, False)]
)
def test_noise_that_keeps_the_eigenvector_localised_ends_the_growth(
    local: float, spread: float, grown: bool
) -> None:
    cadence = Cadence.begin(Sync(), growing=True).after(0.1, spread, local)
    assert cadence.growing == (not grown)


@pytest.mark.parametrize("growing", [True, False])
@pytest.mark.parametrize("normalisation", ["frame", "degree"])
def test_a_normalisation_that_is_asked_for_stays(growing: bool, normalisation: str) -> None:
    cadence = Cadence.begin(Sync(normalisation=normalisation), growing=growing)
    _, cadence = go_on(cadence, [DRIFT, AGREE, DRIFT], local=1.1)
    assert cadence.normalisation == normalisation


# Options


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inner": 0}, "inner is 0"),
        ({"inner": True}, "inner is True"),
        ({"inner": 2, "method": "full"}, "expected 1, or method 'two-level'"),
        ({"inner": 2, "method": None}, "expected 1, or method 'two-level'"),
        ({"method": "fast"}, "method is 'fast'"),
        ({"method": True}, "method is True"),
        ({"eigensolver": "arnoldi"}, "eigensolver is 'arnoldi'; expected"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"iterations": "many"}, "iterations is 'many'"),
        ({"every": 0}, "every is 0"),
        ({"every": -1}, "every is -1"),
        ({"every": 1.5}, "every is 1.5"),
        ({"every": "never"}, "every is 'never'; expected 'auto' or a whole number of sweeps"),
        ({"every": None}, "every is None"),
        ({"normalisation": "none"}, "normalisation is 'none'"),
    ],
)
def test_nonsense_is_refused(options: dict, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        Sync(**options)
    assert said in str(refused.value)
    assert "expected" in str(refused.value)


@pytest.mark.parametrize("eigensolver", ["lanczos", "lobpcg", "power"])
def test_frames_without_any_count_keep_their_phases(eigensolver: str) -> None:
    """A tile that the beam missed."""
    empty = sp.csr_array((40, 40), dtype=complex)
    for normalisation in ("frame", "degree"):
        found = solve(normalise(empty, np.zeros(40), normalisation), Sync(eigensolver=eigensolver))
        assert found.value == 0
        assert np.allclose(found.vector, found.vector[0])
        assert np.linalg.norm(found.vector) == pytest.approx(1)
        assert extract_phases(found, np.zeros(40)).spread == 0
