"""Operators by their algebra: adjoints, projections, unitary shifts; and amplitudes from counts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.model import operators
from tests import plain
from tests.plain import Case, cases, complex_noise


def inner(a: np.ndarray, b: np.ndarray) -> complex:
    """<a, b>, linear in b, in double precision."""
    return complex(np.vdot(a.astype(complex), b.astype(complex)))


# Split and overlap


@settings(max_examples=60)
@given(cases())
def test_overlap_of_weighted_frames_is_the_adjoint_of_split(case: Case) -> None:
    probe = operators.shift_probe(case.probe, case.fraction)
    weighted, _ = operators.weigh(case.waves, probe)
    back = operators.overlap(weighted, case.corner, case.image.shape)
    at_once = np.zeros_like(back)
    operators.unsplit(case.waves, probe, case.corner, at_once)
    np.testing.assert_allclose(at_once, back, rtol=1e-4, atol=1e-4)
    there = operators.split(case.image, probe, case.corner)
    scale = np.linalg.norm(there) * np.linalg.norm(case.waves)
    assert abs(inner(there, case.waves) - inner(case.image, back)) < 1e-5 * scale


@settings(max_examples=60)
@given(cases())
def test_illumination_is_overlap_after_split(case: Case) -> None:
    """Q*Q is a multiplication: by the illumination."""
    probe = operators.shift_probe(case.probe, case.fraction)
    weighted, _ = operators.weigh(operators.split(case.image, probe, case.corner), probe)
    there_and_back = operators.overlap(weighted, case.corner, case.image.shape)
    lit = operators.illuminate(probe, case.corner, case.image.shape)
    assert lit.dtype == np.float32
    np.testing.assert_allclose(there_and_back, lit * case.image, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(cases())
def test_overlap_and_illumination_add_to_what_is_given(case: Case) -> None:
    weighted, _ = operators.weigh(case.waves, case.own_probe)
    phase = np.exp(1j * np.arange(len(weighted))).astype(np.complex64)
    out = case.image.copy()
    assert operators.overlap(weighted, case.corner, out.shape, phase, out) is out
    turned = weighted * phase[:, None, None]
    expected = case.image + plain.overlap(turned, case.corner, out.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)

    lit = np.ones(out.shape, dtype=np.float32)
    assert operators.illuminate(case.own_probe, case.corner, lit.shape, lit) is lit
    expected = 1 + plain.illuminate(case.probes, case.corner, lit.shape)
    np.testing.assert_allclose(lit, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(cases())
def test_weighted_frames_and_power(case: Case) -> None:
    weighted, power = operators.weigh(case.waves, case.own_probe)
    np.testing.assert_allclose(weighted, plain.weigh(case.waves, case.probes), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(power, (abs(case.waves) ** 2).sum(axis=(1, 2, 3)), rtol=1e-5)


# Fractions of a pixel


@settings(max_examples=40)
@given(cases())
def test_shifted_probes_are_those_of_the_loop(case: Case) -> None:
    moved = operators.shift_probe(case.probe, case.fraction)
    assert moved.dtype == np.complex64
    assert len(moved) == (len(case.corner) if case.fraction.any() else 1)
    np.testing.assert_allclose(moved, case.probes[: len(moved)], rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(cases())
def test_shift_is_unitary_and_unshift_is_its_adjoint(case: Case) -> None:
    moved = operators.shift_probe(case.probe, case.fraction)
    norms = np.linalg.norm(moved.reshape(len(moved), -1), axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(case.probe), rtol=1e-5)
    frames = case.waves[: len(moved)]
    back = operators.unshift_probe_sum(frames.copy(), case.fraction)
    scale = np.linalg.norm(moved) * np.linalg.norm(frames)
    assert abs(inner(moved, frames) - inner(case.probe, back)) < 1e-5 * scale


def test_a_whole_pixel_is_a_roll_towards_higher_positions() -> None:
    probe = complex_noise(np.random.default_rng(0), (2, 6, 7))
    moved = operators.shift_probe(probe, np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(moved[0], np.roll(probe, (1, -2), axis=(1, 2)), atol=1e-5)


# Data projection


@settings(max_examples=60)
@given(cases())
def test_data_projection(case: Case) -> None:
    projected, misfit = operators.project_data(case.waves.copy(), case.amplitude)
    assert projected.dtype == np.complex64
    expected = plain.project(case.waves, case.amplitude)
    np.testing.assert_allclose(projected, expected, rtol=1e-4, atol=1e-4)
    assert misfit == pytest.approx(plain.misfit(case.waves, case.amplitude), rel=1e-4, abs=1e-5)
    # The misfit is the squared distance to the projection: modes move along together.
    assert misfit == pytest.approx(np.linalg.norm(projected - case.waves) ** 2, rel=1e-3, abs=1e-4)


@settings(max_examples=60)
@given(cases())
def test_data_projection_is_idempotent_and_leaves_pixels_that_are_not_valid(case: Case) -> None:
    projected, _ = operators.project_data(case.waves.copy(), case.amplitude)
    spectrum, before = plain.transform(projected), plain.transform(case.waves)
    modulus = np.sqrt((abs(spectrum) ** 2).sum(axis=1))
    valid = case.amplitude >= 0
    np.testing.assert_allclose(modulus[valid], case.amplitude[valid], rtol=1e-4, atol=1e-5)
    moved = (abs(spectrum - before) * ~valid[:, None]).max()
    assert moved < 1e-5 * abs(before).max()
    again, misfit = operators.project_data(projected.copy(), case.amplitude)
    np.testing.assert_allclose(again, projected, rtol=1e-4, atol=1e-4)
    assert misfit < 1e-9 * (before.size + np.linalg.norm(case.amplitude[valid]) ** 2)


# Probe update


@settings(max_examples=60)
@given(cases())
def test_probe_terms(case: Case) -> None:
    numerator = np.zeros(case.waves.shape[1:], dtype=np.complex64)
    denominator = np.zeros(case.frame_shape, dtype=np.float32)
    for part in (slice(0, 1), slice(1, None)):
        of_frames = case.waves[part], case.corner[part], case.fraction[part]
        operators.add_probe_terms(case.image, *of_frames, numerator, denominator)
    patches = plain.windows(case.image, case.corner, case.frame_shape)
    terms = patches.conj()[:, None] * case.waves
    expected = sum(
        plain.shifted(term, -fraction[None])[0] for term, fraction in zip(terms, case.fraction, strict=True)
    )
    np.testing.assert_allclose(numerator, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(denominator, (abs(patches) ** 2).sum(axis=0), rtol=1e-4, atol=1e-5)


# Amplitudes from counts


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(2, 7)),
    dtype=st.sampled_from(["uint16", "uint32", "int64", "float32", "float64"]),
    masked=st.booleans(),
    background=st.booleans(),
    seed=st.integers(0, 99),
)
def test_measured_amplitude(shape: tuple, dtype: str, masked: bool, background: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, shape).astype(dtype)
    valid = random.random(shape[1:]) > 0.3 if masked else None
    dark = random.uniform(0, 9, shape[1:]).astype(np.float32) if background else None
    kept = counts.copy()
    kept_as = operators.measured_amplitudes(counts, valid, dark)
    amplitude = kept_as[:]
    assert len(kept_as) == len(counts)
    assert kept_as.total() == pytest.approx((amplitude.clip(0, None).astype(float) ** 2).sum(), rel=1e-5)
    # Sixteen bits stay sixteen bits, unless something was taken off.
    assert (kept_as.counts.dtype == np.uint16) == (dtype == "uint16" and not background)
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
                    left = max(0.0, float(frame[y, x]) - (0 if dark is None else float(dark[y, x])))
                    assert at == pytest.approx(np.sqrt(left), rel=1e-5)


def test_whatever_stands_in_pixels_that_are_not_valid_is_not_looked_at() -> None:
    counts = np.array([[[4, -1], [np.nan, 9]]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        amplitude = operators.measured_amplitudes(counts, np.array([[True, False], [False, True]]))[:]
    np.testing.assert_array_equal(np.fft.fftshift(amplitude), [[[2, -1], [-1, 3]]])


# Blocks


@pytest.mark.parametrize("frames", [0, 1, 5, 64, 1000])
@pytest.mark.parametrize("pixels", [1, 256, 4096, 2**20])
def test_blocks_cover_all_frames_in_order(frames: int, pixels: int) -> None:
    blocks = list(operators.frame_blocks(frames, np.broadcast_to(np.complex64(0), (1, 1, pixels))))
    assert [frame for block in blocks for frame in range(frames)[block]] == list(range(frames))
    sizes = {len(range(frames)[block]) for block in blocks}
    assert not sizes or max(sizes) - min(sizes) <= 1
    # More than one frame at a time only as long as their waves stay in cache.
    assert all(len(range(frames)[b]) == 1 or len(range(frames)[b]) * pixels <= 2**18 for b in blocks)
