"""What a comparison has to do: ignore what cannot be determined, and count everything else."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft

from daskptycho.analysis.metrics import (
    common_region,
    compare_images,
    fourier_ring_correlation,
    register,
    relative_error,
)
from daskptycho.errors import OptionError

SIZE = 96
FIELD = 144


def smooth_noise(rng: np.random.Generator, width: float, size: int = FIELD) -> NDArray:
    """Real noise of unit variance whose features are about `width` pixels."""
    k = np.hypot(fft.fftfreq(size)[:, None], fft.fftfreq(size)[None, :])
    noise = fft.ifft2(fft.fft2(rng.normal(size=(size, size))) * np.exp(-((2 * width * k) ** 2))).real
    return noise / noise.std()


def make_object(kind: str, seed: int) -> NDArray:
    """A sample wider than the field of view, so that a shift brings in new parts of it."""
    rng = np.random.default_rng(seed)
    if kind == "speckle":
        return smooth_noise(rng, 3) + 1j * smooth_noise(rng, 3)
    if kind == "phase":
        return np.exp(0.3j * smooth_noise(rng, 3))
    return (1 + 0.2 * smooth_noise(rng, 4)).astype(complex)


def crop_field(sample: NDArray, shift: tuple[float, float] = (0, 0)) -> NDArray:
    """Crop the field of view from a sample that is moved back by `shift` pixels."""
    ky, kx = fft.fftfreq(FIELD)[:, None], fft.fftfreq(FIELD)[None, :]
    moved = fft.ifft2(fft.fft2(sample) * np.exp(2j * np.pi * (ky * shift[0] + kx * shift[1])))
    start = (FIELD - SIZE) // 2
    return moved[start : start + SIZE, start : start + SIZE]


def phase_ramp(ramp: tuple[float, float]) -> NDArray:
    r = np.arange(SIZE) - (SIZE - 1) / 2
    return np.exp(1j * (ramp[0] * r[:, None] + ramp[1] * r[None, :]))


pixels = st.floats(-5, 5)
turns_over_field = st.floats(-3, 3)
phases = st.floats(-np.pi, np.pi)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["speckle", "phase", "amplitude"]),
    seed=st.integers(0, 1000),
    shift=st.tuples(pixels, pixels),
    turns=st.tuples(turns_over_field, turns_over_field),
    phase=phases,
    size=st.floats(0.01, 100),
)
def test_register_undoes_what_cannot_be_known(kind, seed, shift, turns, phase, size) -> None:
    sample = make_object(kind, seed)
    reference = crop_field(sample)
    ramp = tuple(2 * np.pi * turn / SIZE for turn in turns)
    factor = size * np.exp(1j * phase)
    found = register(crop_field(sample, shift) / phase_ramp(ramp) / factor, reference)
    np.testing.assert_allclose(found.shift, shift, atol=1e-2)
    np.testing.assert_allclose(np.multiply(found.ramp, SIZE), np.multiply(ramp, SIZE), atol=1e-2)
    # The ramp moves with the image, which adds a constant phase.
    expected = factor * np.exp(-1j * np.dot(ramp, shift))
    assert abs(found.scale / expected - 1) < 1e-2
    assert relative_error(found.image, reference, found.weight) < 1e-2


def test_registered_image_follows_its_own_formula() -> None:
    sample = make_object("phase", 1)
    image = crop_field(sample, (2, -3)) / phase_ramp((0.05, -0.02))
    found = register(image, crop_field(sample))
    moved = np.roll(image, (2, -3), axis=(0, 1))
    expected = found.scale * phase_ramp(found.ramp) * moved
    inside = found.weight > 0
    np.testing.assert_allclose(found.image[inside], expected[inside], atol=1e-3)
    assert not inside[:2].any()
    assert not inside[:, -3:].any()
    assert inside[6:-6, 6:-6].all()


def test_register_ignores_a_noisy_rim() -> None:
    rng = np.random.default_rng(0)
    sample = make_object("phase", 2)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    illumination = np.clip(1.1 - np.hypot(y, x), 0, None) ** 2

    def noisy(image: NDArray) -> NDArray:
        noise = rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape)
        return image + 0.01 * noise / np.sqrt(illumination + 1e-5)

    shift, ramp = (2.4, -1.3), (0.06, -0.04)
    found = register(
        noisy(crop_field(sample, shift)) / phase_ramp(ramp), noisy(crop_field(sample)), illumination
    )
    np.testing.assert_allclose(found.shift, shift, atol=0.03)
    np.testing.assert_allclose(np.multiply(found.ramp, SIZE), np.multiply(ramp, SIZE), atol=0.03)


def test_register_leaves_an_image_without_features_where_it_is() -> None:
    found = register(np.full((32, 40), 2j), np.ones((32, 40)))
    assert found.shift == (0, 0)
    np.testing.assert_allclose(found.ramp, 0, atol=1e-6)
    assert found.scale == pytest.approx(-0.5j)


@given(seed=st.integers(0, 1000), phase=phases)
def test_relative_error_does_not_see_the_global_phase(seed, phase) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=(8, 9)) + 1j * rng.normal(size=(8, 9)) for _ in range(2))
    expected = relative_error(a, b)
    assert relative_error(np.exp(1j * phase) * a, b) == pytest.approx(expected, rel=1e-9)
    # The formula itself: no phase of a fine set gives less than the minimum.
    rotated = np.exp(1j * np.linspace(0, 2 * np.pi, 1000))[:, None, None] * a - b
    plain = np.sqrt((np.abs(rotated) ** 2).sum(axis=(1, 2)).min() / (np.abs(b) ** 2).sum())
    assert expected == pytest.approx(plain, rel=1e-4)
    assert expected <= plain * (1 + 1e-9)


def test_relative_error_counts_scale_and_obeys_the_weight() -> None:
    reference = np.ones((4, 4), dtype=complex)
    assert relative_error(1.1j * reference, reference) == pytest.approx(0.1)
    image = reference.copy()
    image[0] = 7
    weight = np.ones((4, 4))
    weight[0] = 0
    assert relative_error(image, reference, weight) == 0
    assert relative_error(reference * (1 + 1e-10), reference) == pytest.approx(1e-10, rel=1e-4)


@pytest.mark.parametrize(
    ("image", "weight", "words"),
    [
        (np.ones((4, 5)), None, "one shape"),
        (np.ones((4, 4)), np.ones(4), "weight is"),
        (np.ones((4, 4)), -np.ones((4, 4)), "negative"),
        (np.full((4, 4), np.nan), None, "not finite"),
        (np.zeros((4, 4)), None, "zero"),
        (np.ones((4, 4)), np.zeros((4, 4)), "zero"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(image, weight, words) -> None:
    for compare in (relative_error, register, compare_images):
        with pytest.raises(OptionError, match=words):
            compare(image, np.ones((4, 4)), weight)


def complex_noise(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / np.sqrt(2)


@given(seed=st.integers(0, 1000), phase=phases, shape=st.sampled_from([(48, 48), (40, 56), (33, 32)]))
def test_frc_of_an_image_with_itself_is_one(seed, phase, shape) -> None:
    image = complex_noise(np.random.default_rng(seed), shape)
    frc = fourier_ring_correlation(np.exp(1j * phase) * image, image)
    np.testing.assert_allclose(frc.correlation, 1, atol=1e-9)
    assert frc.crossing is None
    assert frc.resolution is None
    assert frc.frequency[-1] == pytest.approx(0.5, abs=0.02)


def test_frc_of_independent_noise_is_near_zero() -> None:
    rng = np.random.default_rng(3)
    frc = fourier_ring_correlation(complex_noise(rng, (128, 128)), complex_noise(rng, (128, 128)))
    assert np.abs(frc.correlation[10:]).max() < 0.25
    assert np.abs(frc.correlation[10:].mean()) < 0.03
    # Images that never agree resolve nothing smaller than the whole field.
    assert frc.crossing is not None
    assert frc.crossing < 3 / 128


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("pixel_size", [1.0, 5e-9])
def test_frc_crosses_where_signal_and_noise_say(noise, pixel_size) -> None:
    rng = np.random.default_rng(4)
    width = 2.0
    sample = (smooth_noise(rng, width, 192) + 1j * smooth_noise(rng, width, 192)) / np.sqrt(2)
    copies = [sample + noise * complex_noise(rng, sample.shape) for _ in range(2)]
    frc = fourier_ring_correlation(*copies, pixel_size)
    # Both copies hold the signal's spectrum and their own white noise: FRC = S / (S + N).
    k = np.hypot(fft.fftfreq(192)[:, None], fft.fftfreq(192)[None, :])
    power = np.exp(-2 * (2 * width * k) ** 2)
    signal = np.exp(-2 * (2 * width * frc.frequency * pixel_size) ** 2) / power.mean()
    expected = frc.frequency[np.argmax(signal / (signal + noise**2) < frc.threshold)]
    assert frc.crossing == pytest.approx(expected, rel=0.08)
    assert frc.resolution == pytest.approx(1 / frc.crossing)


def test_half_bit_threshold_of_a_large_ring() -> None:
    # With many pixels in a ring the curve tends to half a bit: SNR = 0.2071 of each image.
    image = complex_noise(np.random.default_rng(5), (512, 512))
    threshold = fourier_ring_correlation(image, image).threshold
    assert (np.diff(threshold[::10]) < 0).all()
    assert 0.2071 / 1.2071 < threshold[-1] < 0.25


def test_frc_refuses_what_makes_no_sense() -> None:
    with pytest.raises(OptionError, match="one shape"):
        fourier_ring_correlation(np.ones((4, 4)), np.ones((4, 5)))
    with pytest.raises(OptionError, match="pixel_size is 0"):
        fourier_ring_correlation(np.ones((4, 4)), np.ones((4, 4)), 0)


def test_compare_images_reports_error_and_resolution_of_the_bright_part() -> None:
    rng = np.random.default_rng(6)
    sample = make_object("speckle", 6)
    reference = crop_field(sample)
    weight = np.zeros((SIZE, SIZE))
    weight[10:-10, 10:-10] = 1
    image = np.where(weight > 0, crop_field(sample, (0.3, 0.6)), 5 * complex_noise(rng, weight.shape))
    clean = compare_images(crop_field(sample, (0.3, 0.6)), reference, weight, pixel_size=2e-9)
    assert clean.error < 1.5e-2
    assert clean.frc.correlation[:20].min() > 0.999
    assert clean.frc.frequency[-1] == pytest.approx(0.5 / 2e-9, rel=0.05)
    wild = compare_images(image, reference, weight)
    assert wild.error < 2e-2
    np.testing.assert_allclose(wild.registration.shift, (0.3, 0.6), atol=1e-2)


def make_image_at(
    start: tuple[float, float], shape: tuple[int, int], step: float, units: str
) -> xr.DataArray:
    y, x = (start[i] + step * np.arange(shape[i]) for i in range(2))
    values = y[:, None] + 1j * x[None, :]
    coords = {"y": ("y", y, {"units": units}), "x": ("x", x, {"units": units})}
    return xr.DataArray(values, dims=("y", "x"), coords=coords)


@given(
    offset=st.tuples(st.integers(-6, 6), st.integers(-6, 6)),
    fraction=st.floats(-0.4, 0.4),
    step=st.sampled_from([1.0, 3e-9]),
)
def test_common_region_pairs_the_same_places(offset, fraction, step) -> None:
    units = "pixel" if step == 1.0 else "m"
    a = make_image_at((0, 0), (12, 14), step, units)
    start = tuple((o + fraction) * step for o in offset)
    b = make_image_at(start, (13, 11), step, units)
    left, right = common_region(a, b)
    assert left.shape == right.shape
    for axis in ("y", "x"):
        np.testing.assert_allclose(right[axis] - left[axis], fraction * step, atol=1e-6 * step)
        # The common region is as large as possible: its ends are ends of the images, to within a pixel.
        ends = [
            max(float(image[axis][0]) for image in (a, b)),
            min(float(image[axis][-1]) for image in (a, b)),
        ]
        assert left.sizes[axis] >= (ends[1] - ends[0]) / step - 0.01


def test_common_region_refuses_images_that_do_not_fit() -> None:
    a = make_image_at((0, 0), (8, 8), 1.0, "pixel")
    with pytest.raises(OptionError, match="in common"):
        common_region(a, make_image_at((8, 0), (8, 8), 1.0, "pixel"))
    with pytest.raises(OptionError, match="expected one unit"):
        common_region(a, make_image_at((0, 0), (8, 8), 1.0, "m"))
    with pytest.raises(OptionError, match="same pixel size"):
        common_region(a, make_image_at((0, 0), (8, 8), 1.2, "pixel"))
