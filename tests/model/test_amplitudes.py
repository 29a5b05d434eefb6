"""Amplitudes from counts: pixels in order, invalid ones marked."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.model.amplitudes import prepare_amplitudes


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)),
    dtype=st.sampled_from(["uint16", "uint32", "int64", "float32", "float64"]),
    masked=st.booleans(),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_measured_amplitude(shape: tuple, dtype: str, masked: bool, turned: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, shape).astype(dtype)
    valid = random.random(shape[1:]) > 0.3 if masked else None
    if turned:
        # As frames of a file with the axes the other way round are in memory.
        counts = counts.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    kept = counts.copy()
    kept_as = prepare_amplitudes(counts, valid)
    amplitude = kept_as[:]
    assert len(kept_as) == len(counts)
    assert kept_as.total() == pytest.approx((amplitude.clip(0, None).astype(float) ** 2).sum(), rel=1e-5)
    # Sixteen bits stay sixteen bits.
    assert (kept_as.counts.dtype == np.uint16) == (dtype == "uint16")
    np.testing.assert_array_equal(counts, kept)
    assert amplitude.dtype == np.float32
    for frame, found in zip(counts, amplitude, strict=True):
        for y in range(shape[1]):
            for x in range(shape[2]):
                # The zero frequency lies at N//2 on the detector and at 0 in the result.
                at = found[(y - shape[1] // 2) % shape[1], (x - shape[2] // 2) % shape[2]]
                if valid is not None and not valid[y, x]:
                    assert at == -1
                else:
                    assert at == pytest.approx(np.sqrt(float(frame[y, x])), rel=1e-5)


def test_whatever_stands_in_pixels_that_are_not_valid_is_not_looked_at() -> None:
    counts = np.array([[[4, -1], [np.nan, 9]]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        amplitude = prepare_amplitudes(counts, np.array([[True, False], [False, True]]))[:]
    np.testing.assert_array_equal(np.fft.fftshift(amplitude), [[[2, -1], [-1, 3]]])
