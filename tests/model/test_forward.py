"""Forwards: unitary, their own adjoints' inverses, and free with their arguments only where told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskptycho.model.forward import FarField, Forward, NearField, Propagation, choose_forward
from tests import plain
from tests.plain import complex_noise

SHAPE = (3, 2, 7, 6)
KERNEL = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, SHAPE[-2:])).astype(np.complex64)
WHOLE = np.zeros((3, 2))
FRACTION = np.array([[0.5, -0.25], [0, 0], [-0.4, 0.3]])
PROPAGATIONS: dict[str, tuple[Forward, np.ndarray]] = {
    "far": (FarField(), WHOLE),
    "far, fractions": (FarField(), FRACTION),
    "near": (NearField(KERNEL), WHOLE),
    "near, fractions": (NearField(KERNEL), FRACTION),
}
every_propagation = pytest.mark.parametrize("name", PROPAGATIONS)


def propagation(name: str) -> Propagation:
    forward, fraction = PROPAGATIONS[name]
    return forward.at(fraction)


def detector_of(name: str, waves: np.ndarray) -> np.ndarray:
    """Waves at the detector, in double precision."""
    forward, fraction = PROPAGATIONS[name]
    if isinstance(forward, FarField):
        return plain.transform(waves.astype(complex))
    back = np.concatenate(
        [plain.shifted(wave, -own[None]) for wave, own in zip(waves, fraction, strict=True)]
    )
    return np.fft.ifft2(plain.transform(back) * KERNEL, norm="ortho")


@every_propagation
def test_what_is_left_out_is_the_scale(name: str) -> None:
    waves = complex_noise(np.random.default_rng(1), SHAPE)
    forward = propagation(name)
    found = forward.propagate(waves) * np.sqrt(forward.scale(waves.shape[-2:]))
    np.testing.assert_allclose(found, detector_of(name, waves), rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(waves), rel=1e-5)


@pytest.mark.parametrize("forward", [FarField(), NearField(KERNEL)], ids=["far", "near"])
@pytest.mark.parametrize("shape", [(2, 5, 7), (4, 6)])
def test_frames_are_arranged_and_restored(forward: Forward, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(3).random(shape)
    np.testing.assert_array_equal(forward.restore(forward.arrange(frames)), frames)


@every_propagation
def test_way_back_is_inverse_and_adjoint(name: str) -> None:
    random = np.random.default_rng(2)
    waves, others = complex_noise(random, SHAPE), complex_noise(random, SHAPE)
    forward = propagation(name)
    scale = forward.scale(waves.shape[-2:])
    np.testing.assert_allclose(forward.propagate_back(forward.propagate(waves)) * scale, waves, atol=1e-5)
    there, back = forward.propagate(waves), forward.propagate_back(others.copy())
    assert np.vdot(there, others) == pytest.approx(np.vdot(waves, back), rel=1e-4)


@every_propagation
@pytest.mark.parametrize("out", ["none", "other", "same"])
def test_waves_stay_unless_they_are_given_to_be_overwritten(name: str, out: str) -> None:
    waves = complex_noise(np.random.default_rng(3), SHAPE)
    given: Any = {"none": None, "other": np.empty_like(waves), "same": waves.copy()}[out]
    source = given if out == "same" else waves
    forward = propagation(name)
    found = forward.propagate(source, given)
    np.testing.assert_allclose(
        found * np.sqrt(forward.scale(SHAPE[-2:])), detector_of(name, waves), rtol=1e-4, atol=1e-5
    )
    if out != "same":
        np.testing.assert_array_equal(waves, complex_noise(np.random.default_rng(3), SHAPE))


def test_a_beam_that_is_shifted_stays_where_it_was_on_the_detector() -> None:
    """Without a specimen each near-field frame is the same, whatever its position."""
    probe = complex_noise(np.random.default_rng(4), SHAPE[1:])
    waves = plain.shifted(probe, FRACTION).astype(np.complex64)
    found = NearField(KERNEL).at(FRACTION).propagate(waves)
    np.testing.assert_allclose(found, np.broadcast_to(found[1], SHAPE), atol=1e-5)
    unmoved = NearField(KERNEL).at(WHOLE).propagate(waves)
    assert abs(unmoved[0] - unmoved[1]).max() > 0.5


def test_nobody_propagates_to_the_near_field_without_the_fractions() -> None:
    assert not hasattr(NearField(KERNEL), "propagate")


def test_frames_are_arranged_as_propagated_waves() -> None:
    frames = np.arange(2 * 5 * 4).reshape(2, 5, 4)
    np.testing.assert_array_equal(FarField().arrange(frames), np.roll(frames, (-2, -2), axis=(1, 2)))
    kept = NearField(KERNEL).arrange(frames)
    np.testing.assert_array_equal(kept, frames)
    assert not np.shares_memory(kept, frames)


def test_a_kernel_makes_it_the_near_field() -> None:
    assert choose_forward(None) == FarField()
    near = choose_forward(KERNEL)
    assert isinstance(near, NearField)
    assert near.kernel is KERNEL
    assert near.to("cpu").kernel is KERNEL
