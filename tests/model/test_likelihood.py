"""Likelihoods: what they make small, and the waves that they ask for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings

from daskptycho.model.forward import FarField
from daskptycho.model.likelihood import Amplitude, Likelihood, Poisson, Stabilised
from daskptycho.model.operators import project_data
from tests import plain
from tests.plain import Case, cases

Objective = Callable[[np.ndarray, np.ndarray], float]


def of_roots(expected: np.ndarray, counts: np.ndarray) -> float:
    """sum (sqrt(|Fz|^2 + b) - a)^2."""
    return float(((np.sqrt(expected) - np.sqrt(counts)) ** 2).sum())


def stabilised(expected: np.ndarray, counts: np.ndarray) -> float:
    """sum (sqrt(|Fz|^2 + b + 0.1) - sqrt(I + 0.1))^2."""
    return float(((np.sqrt(expected + 0.1) - np.sqrt(counts + 0.1)) ** 2).sum())


def quarter_of_the_deviance(expected: np.ndarray, counts: np.ndarray) -> float:
    """Of Poisson counts, to which a tenth of a photon is added."""
    mean, counts = expected + 0.1, counts + 0.1
    return float((mean - counts + counts * np.log(counts / mean)).sum() / 2)


def added_up(objective: Objective, waves: np.ndarray, amplitude: np.ndarray, background: float) -> float:
    """Over valid pixels."""
    expected = (abs(plain.transform(waves.astype(complex))) ** 2).sum(axis=1) + background
    valid = amplitude >= 0
    return objective(expected[valid], amplitude[valid].astype(float) ** 2)


@pytest.mark.parametrize(
    ("likelihood", "objective"), [(Stabilised(), stabilised), (Poisson(), quarter_of_the_deviance)]
)
@pytest.mark.parametrize("background", [0.0, 0.7])
@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_waves_go_down_the_slope_of_what_is_made_small(
    likelihood: Likelihood, objective: Objective, background: float, case: Case
) -> None:
    """z - p is the gradient, by differences along a random direction."""
    if background:
        likelihood = likelihood.above(np.full(case.amplitude.shape[1:], background, dtype=np.float32))
    waves, amplitude = case.waves, case.amplitude
    projected, (misfit, found) = project_data(waves.copy(), amplitude, FarField(), likelihood)
    assert projected.dtype == np.complex64
    assert misfit == pytest.approx(added_up(of_roots, waves, amplitude, background), rel=1e-4, abs=1e-4)
    assert found == pytest.approx(added_up(objective, waves, amplitude, background), rel=1e-4, abs=1e-4)
    random = np.random.default_rng(1)
    along = plain.complex_noise(random, waves.shape).astype(complex)
    step = 1e-4
    above, below = (
        added_up(objective, waves + sign * step * along, amplitude, background) for sign in (1, -1)
    )
    expected = 2 * float((along.conj() * (waves - projected)).real.sum())
    assert expected == pytest.approx((above - below) / (2 * step), rel=1e-2, abs=2e-2)


def test_at_the_truth_counts_pull_nowhere_on_average() -> None:
    """However few: the square root of a count is too small on average."""
    random = np.random.default_rng(2)
    truth = plain.complex_noise(random, (1, 1, 16, 16)) / 2
    expected = abs(plain.transform(truth.astype(complex))[:, 0]) ** 2
    amplitude = np.sqrt(random.poisson(expected, (4_000, 16, 16))).astype(np.float32)
    waves = np.broadcast_to(truth, (4_000, 1, 16, 16)).copy()
    kept = {}
    for likelihood in (Poisson(), Stabilised(), Amplitude()):
        mean = project_data(waves.copy(), amplitude, FarField(), likelihood)[0].mean(axis=0)
        kept[type(likelihood)] = np.vdot(truth, mean).real / np.vdot(truth, truth).real
    assert kept[Poisson] == pytest.approx(1, abs=0.005)
    assert kept[Amplitude] < kept[Stabilised] < 0.97


def test_the_likelihood_of_many_counts_is_the_misfit_of_amplitudes() -> None:
    random = np.random.default_rng(3)
    waves = 1000 * plain.complex_noise(random, (2, 1, 16, 16))
    expected = abs(plain.transform(waves.astype(complex))[:, 0]) ** 2
    amplitude = np.sqrt(random.poisson(expected)).astype(np.float32)
    _, (misfit, objective) = project_data(waves, amplitude, FarField(), Poisson())
    assert objective == pytest.approx(misfit, rel=0.02)
    assert objective == pytest.approx(amplitude.size / 4, rel=0.2)
