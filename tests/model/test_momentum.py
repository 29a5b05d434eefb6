"""Momentum: extrapolation, and Nesterov's sequence with its restarts and pauses."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho.model.momentum import extrapolate, next_momentum
from tests.plain import complex_noise


def test_extrapolation() -> None:
    random = np.random.default_rng(0)
    now, before = complex_noise(random, (3, 4)), complex_noise(random, (3, 4))
    np.testing.assert_allclose(extrapolate(now, before, 0.7), now + 0.7 * (now - before), rtol=1e-5)
    assert extrapolate(now, before, 0.7).dtype == np.complex64
    assert extrapolate(now, None, 0.7) is now
    assert extrapolate(now, before, 0.0) is now


FALLING = (0.3, 0.2, 0.1)


def test_momentum_follows_nesterov() -> None:
    t, momentum = next_momentum(None, FALLING[:1])
    found = [momentum]
    for _ in range(50):
        expected = (1 + np.sqrt(1 + 4 * t * t)) / 2
        following, momentum = next_momentum(t, FALLING)
        assert following == pytest.approx(expected)
        assert momentum == pytest.approx((t - 1) / expected)
        t = following
        found.append(momentum)
    assert (np.diff(found) > 0).all()
    assert 0 <= found[0] < found[-1] < 1


def after_sweeps(count: int) -> float:
    t = None
    for _ in range(count):
        t, _ = next_momentum(t, FALLING)
    return t


def test_momentum_begins_anew_where_the_residual_rises() -> None:
    assert next_momentum(after_sweeps(20), (0.3, 0.1, 0.2)) == next_momentum(None, FALLING[:1])


def test_momentum_does_not_begin_anew_where_the_residual_rises_by_rounding() -> None:
    """Sums over other tiles are rounded in another order, and must not decide."""
    rounded = (0.3, 0.2, 0.2 * (1 + 1e-6)), (0.3, 0.2, 0.2 * (1 - 1e-6))
    up, down = (next_momentum(after_sweeps(20), residuals) for residuals in rounded)
    assert up == down


@pytest.mark.parametrize("residuals", [(0.1, 0.1, 0.1), (0.1, 0.099999, 0.099998), (0.1, 0.099999, 0.1)])
def test_momentum_pauses_where_the_residual_is_at_rest(residuals: tuple[float, ...]) -> None:
    t, momentum = next_momentum(after_sweeps(20), residuals)
    assert momentum == 0
    assert next_momentum(t, FALLING) == next_momentum(None, FALLING[:1])


@pytest.mark.parametrize("residuals", [(0.1, 0.1), (0.2, 0.1, 0.1), (0.1, 0.1, 0.099)])
def test_a_residual_that_stands_still_for_one_sweep_is_not_at_rest(residuals: tuple[float, ...]) -> None:
    assert next_momentum(after_sweeps(20), residuals)[1] > 0
