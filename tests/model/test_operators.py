"""Operators by their algebra: adjoints, projections, unitary shifts."""

from __future__ import annotations

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
@given(cases(), st.booleans())
def test_probe_terms(case: Case, gained: bool) -> None:
    numerator = np.zeros(case.waves.shape[1:], dtype=np.complex64)
    denominator = np.zeros(case.frame_shape, dtype=np.float32)
    factor = np.linspace(0.5, 1.5, len(case.corner), dtype=np.float32) if gained else None
    for part in (slice(0, 1), slice(1, None)):
        of_frames = case.waves[part], case.corner[part], case.fraction[part]
        sums = (numerator, denominator)
        operators.add_probe_terms(case.image, *of_frames, sums, factor[part] if gained else None)
    patches = plain.windows(case.image, case.corner, case.frame_shape)
    if gained:
        patches *= factor[:, None, None]
    terms = patches.conj()[:, None] * case.waves
    expected = sum(
        plain.shifted(term, -fraction[None])[0] for term, fraction in zip(terms, case.fraction, strict=True)
    )
    np.testing.assert_allclose(numerator, expected, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(denominator, (abs(patches) ** 2).sum(axis=0), rtol=1e-4, atol=1e-5)


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
