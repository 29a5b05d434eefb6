"""Each kernel against the plainest NumPy, on tiles of noise of every shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho import cpu_kernels
from tests import plain
from tests.plain import Case, cases, complex_noise

# Sums of some hundred float32 products.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@settings(max_examples=60)
@given(cases())
def test_exit_waves(case: Case) -> None:
    out = np.full_like(case.waves, np.nan)
    cpu_kernels.exit_waves(case.image, case.own_probe, case.corner, out)
    np.testing.assert_allclose(out, plain.split(case.image, case.probes, case.corner), **CLOSE)


@settings(max_examples=60)
@given(cases())
def test_filter_spectra(case: Case) -> None:
    random = np.random.default_rng(len(case.corner))
    (height, width), frames = case.frame_shape, len(case.corner)
    factor, along_y, along_x = (
        complex_noise(random, shape) for shape in ((height, width), (frames, height), (frames, width))
    )
    found = case.waves.copy()
    cpu_kernels.filter_spectra(found, factor, along_y, along_x)
    own = factor.astype(complex) * along_y[:, :, None] * along_x[:, None, :]
    np.testing.assert_allclose(found, case.waves * own[:, None], **CLOSE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_take_amplitudes(dtype: type, masked: bool) -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 256, (3, 5, 7)).astype(dtype)
    invalid = random.random((5, 7)) < 0.3 if masked else None
    out = np.full(counts.shape, np.nan, dtype=np.float32)
    cpu_kernels.take_amplitudes(counts, invalid, out)
    expected = np.sqrt(counts.astype(float))
    if invalid is not None:
        expected[:, invalid] = -1
    np.testing.assert_array_equal(out, expected.astype(np.float32))


@settings(max_examples=60)
@given(cases(), st.sampled_from([1, 0.25, 1 / 256]))
def test_project_modulus_of_waves_that_lack_a_factor(case: Case, scale: float) -> None:
    wave = (case.waves / np.sqrt(scale)).astype(np.complex64)
    found = cpu_kernels.project_modulus(wave, case.amplitude, scale)
    modulus = np.sqrt((abs(case.waves.astype(complex)) ** 2).sum(axis=1))
    valid = case.amplitude >= 0
    ratio = np.where(valid, case.amplitude, modulus) / modulus
    np.testing.assert_allclose(wave / np.sqrt(scale), case.waves * ratio[:, None], **CLOSE)
    assert found == pytest.approx(((modulus - case.amplitude)[valid] ** 2).sum(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("modes", [1, 2])
def test_project_modulus_of_large_frames(modes: int) -> None:
    random = np.random.default_rng(modes)
    # More pixels than one loop has, and not a multiple of it.
    waves, background = complex_noise(random, (2, modes, 70, 130)), random.random((70, 130))
    amplitude = random.random((2, 70, 130)).astype(np.float32)
    wave = waves.copy()
    found = cpu_kernels.project_modulus(wave, amplitude, 1.0, background.astype(np.float32))
    modulus = np.sqrt((abs(waves.astype(complex)) ** 2).sum(axis=1) + background)
    np.testing.assert_allclose(wave, waves * (amplitude / modulus)[:, None], **CLOSE)
    assert found == pytest.approx(((modulus - amplitude) ** 2).sum(), rel=1e-5)


def test_project_modulus_of_dark_waves_is_finite() -> None:
    wave = np.zeros((1, 2, 3, 4), dtype=np.complex64)
    amplitude = np.array([[[0, 1, -1, 2]] * 3], dtype=np.float32)
    assert cpu_kernels.project_modulus(wave, amplitude, 1 / 12) == pytest.approx(15)
    # A wave that is nowhere has no phase to keep: any finite answer will do.
    assert np.isfinite(wave).all()
    assert not wave[..., [0, 2]].any()


@settings(max_examples=60)
@given(cases())
def test_weigh_frames(case: Case) -> None:
    weighted = np.full((len(case.corner), *case.frame_shape), np.nan, dtype=np.complex64)
    power = np.full(len(case.corner), np.nan)
    cpu_kernels.weigh_frames(case.waves, case.own_probe, weighted, power)
    np.testing.assert_allclose(weighted, plain.weigh(case.waves, case.probes), **CLOSE)
    np.testing.assert_allclose(power, (abs(case.waves) ** 2).sum(axis=(1, 2, 3)), rtol=1e-5)


@settings(max_examples=60)
@given(cases())
def test_accumulate_overlap_adds_frames_turned_by_their_phases(case: Case) -> None:
    weighted = case.waves[:, 0].copy()
    phase = np.exp(1j * np.arange(len(weighted))).astype(np.complex64)
    image = case.image.copy()
    cpu_kernels.accumulate_overlap(weighted, phase, case.corner, image)
    turned = phase[:, None, None] * weighted.astype(complex)
    np.testing.assert_allclose(
        image, case.image + plain.overlap(turned, case.corner, case.image.shape), **CLOSE
    )


@settings(max_examples=60)
@given(cases())
def test_accumulate_waves_adds_frames_weighed_by_the_probe(case: Case) -> None:
    image = case.image.copy()
    cpu_kernels.accumulate_waves(case.waves, case.own_probe, case.corner, image)
    expected = plain.overlap(plain.weigh(case.waves, case.probes), case.corner, case.image.shape)
    np.testing.assert_allclose(image, case.image + expected, **CLOSE)


@settings(max_examples=60)
@given(cases())
def test_accumulate_illumination_adds(case: Case) -> None:
    image = np.ones(case.image.shape, dtype=np.float32)
    cpu_kernels.accumulate_illumination(case.own_probe, case.corner, image)
    np.testing.assert_allclose(image, 1 + plain.illuminate(case.probes, case.corner, image.shape), **CLOSE)


@settings(max_examples=60)
@given(cases())
def test_accumulate_probe_step_adds(case: Case) -> None:
    numerator = np.ones(case.probe.shape, dtype=np.complex64)
    denominator = np.ones(case.frame_shape, dtype=np.float32)
    cpu_kernels.accumulate_probe_step(
        case.image, case.waves, case.own_probe, case.corner, numerator, denominator
    )
    patches = plain.windows(case.image, case.corner, case.frame_shape)
    change = case.waves - plain.split(case.image, case.probes, case.corner)
    np.testing.assert_allclose(numerator, 1 + (patches.conj()[:, None] * change).sum(axis=0), **CLOSE)
    np.testing.assert_allclose(denominator, 1 + (abs(patches) ** 2).sum(axis=0), **CLOSE)


@settings(max_examples=60)
@given(cases(), st.integers(1, 5))
def test_gramian_of_all_pairs_overlapping_or_not(case: Case, others: int) -> None:
    random = np.random.default_rng(others)
    height, width = case.frame_shape
    first = case.waves[:, 0].copy()
    second = complex_noise(random, (others, height, width))
    # Frames of another tile stand anywhere, on the same window or beyond it.
    corner = random.integers(-3, np.array(case.image.shape) + 3, (others, 2))
    weight = random.random(case.image.shape).astype(np.float32)
    pair = np.array([(i, j) for i in range(len(first)) for j in range(others)])
    offset = corner[pair[:, 1]] - case.corner[pair[:, 0]]
    out = np.full(len(pair), np.nan, dtype=complex)
    cpu_kernels.gramian(first, second, pair, offset, case.corner, weight, out)

    for (i, j), (dy, dx), found in zip(pair, offset, out, strict=True):
        expected = 0j
        for y in range(height):
            for x in range(width):
                if 0 <= y - dy < height and 0 <= x - dx < width:
                    at = weight[case.corner[i, 0] + y, case.corner[i, 1] + x]
                    expected += first[i, y, x].conj() * second[j, y - dy, x - dx] * complex(at)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
        if abs(dy) >= height or abs(dx) >= width:
            assert found == 0


def with_rim(image: np.ndarray) -> np.ndarray:
    return np.pad(image, 1, mode="wrap")


@settings(max_examples=60)
@given(cases())
def test_displacement_terms_are_derivatives_along_both_axes(case: Case) -> None:
    image, corner, frames = with_rim(case.image), case.corner + 1, len(case.corner)
    force, curvature = np.full((frames, 2), np.nan), np.full((frames, 3), np.nan)
    cpu_kernels.displacement_terms(image, case.waves, case.own_probe, corner, force, curvature)
    wide = image.astype(complex)
    slopes = [(np.roll(wide, -1, axis) - np.roll(wide, 1, axis)) / 2 for axis in (0, 1)]
    y, x = (plain.split(slope, case.probes, corner) for slope in slopes)
    expected = [(one.conj() * case.waves).real.sum(axis=(1, 2, 3)) for one in (y, x)]
    np.testing.assert_allclose(force, np.stack(expected, axis=1), rtol=1e-4, atol=1e-3)
    products = [(one.conj() * other).real.sum(axis=(1, 2, 3)) for one, other in ((y, y), (y, x), (x, x))]
    np.testing.assert_allclose(curvature, np.stack(products, axis=1), rtol=1e-4, atol=1e-3)


@settings(max_examples=60)
@given(cases())
def test_field_sums_weigh_fields_by_the_power_of_each_frame(case: Case) -> None:
    fields = np.stack([case.image.real, case.image.imag]).copy()
    power = (abs(case.own_probe) ** 2).sum(axis=1)
    found = np.full((len(case.corner), 2), np.nan)
    cpu_kernels.field_sums(power, fields, case.corner, found)
    weights = np.broadcast_to(power, (len(case.corner), *case.frame_shape))
    expected = [
        (weights * plain.windows(field, case.corner, case.frame_shape).real).sum(axis=(1, 2))
        for field in fields
    ]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-4, atol=1e-3)
