"""Likelihoods: what they make small, and the waves that they ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from daskptycho.model.forward import FarField
from daskptycho.model.likelihood import Stabilised
from daskptycho.model.operators import project_data
from tests import plain
from tests.plain import Case, cases


def stabilised(waves: np.ndarray, amplitude: np.ndarray) -> float:
    """sum (sqrt(|Fz|^2 + 3/8) - sqrt(I + 3/8))^2 over valid pixels."""
    power = (abs(plain.transform(waves.astype(complex))) ** 2).sum(axis=1)
    valid = amplitude >= 0
    return float(((np.sqrt(power + 0.375) - np.sqrt(amplitude.astype(float) ** 2 + 0.375))[valid] ** 2).sum())


@settings(max_examples=25, deadline=None)
@given(cases())
def test_stabilised_waves_go_down_the_slope_of_what_they_make_small(case: Case) -> None:
    """z - p is the gradient, by differences along a random direction."""
    projected, (misfit, objective) = project_data(case.waves.copy(), case.amplitude, FarField(), Stabilised())
    assert projected.dtype == np.complex64
    assert misfit == pytest.approx(plain.misfit(case.waves, case.amplitude), rel=1e-4, abs=1e-4)
    assert objective == pytest.approx(stabilised(case.waves, case.amplitude), rel=1e-4, abs=1e-4)
    random = np.random.default_rng(1)
    along = plain.complex_noise(random, case.waves.shape).astype(complex)
    step = 1e-4
    slope = (
        stabilised(case.waves + step * along, case.amplitude)
        - stabilised(case.waves - step * along, case.amplitude)
    ) / (2 * step)
    expected = 2 * float((along.conj() * (case.waves - projected)).real.sum())
    assert expected == pytest.approx(slope, rel=1e-2, abs=2e-2)
