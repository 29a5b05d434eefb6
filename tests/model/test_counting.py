"""The misfit that counting leaves, against sums over Poisson distributions."""

from __future__ import annotations

import numpy as np
import pytest

from daskptycho.model.counting import expect_misfit


@pytest.mark.parametrize("mean", [0.003, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 3.5, 6.0, 20.0, 300.0])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_expected_misfit_of_poisson_counts(mean: float, dtype: type) -> None:
    counts = np.random.default_rng(0).poisson(mean, (40, 100, 100))
    true = ((np.sqrt(counts) - np.sqrt(mean)) ** 2).sum()
    assert expect_misfit(counts.astype(dtype)) == pytest.approx(true, rel=0.12)


def test_dark_pixels_add_nothing() -> None:
    assert expect_misfit(np.zeros((3, 4, 5), dtype=np.uint8)) == 0


def test_values_between_whole_numbers_are_no_counts() -> None:
    counts = np.ones((2, 8, 8), dtype=np.float32)
    assert np.isfinite(expect_misfit(counts))
    counts[1, 2, 3] = 0.5
    assert np.isnan(expect_misfit(counts))
