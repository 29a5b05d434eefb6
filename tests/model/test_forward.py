"""Forwards: unitary, their own adjoints' inverses, and free with their arguments only where told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskptycho.model.forward import FarField, Forward, NearField, choose_forward
from tests import plain
from tests.plain import complex_noise

SHAPE = (3, 2, 7, 6)
KERNEL = np.exp(1j * np.random.default_rng(0).uniform(-3, 3, SHAPE[-2:])).astype(np.complex64)
every_forward = pytest.mark.parametrize("forward", [FarField(), NearField(KERNEL)], ids=["far", "near"])


def detector_of(forward: Forward, waves: np.ndarray) -> np.ndarray:
    """Waves at the detector, in double precision."""
    spectrum = plain.transform(waves.astype(complex))
    return spectrum if isinstance(forward, FarField) else np.fft.ifft2(spectrum * KERNEL, norm="ortho")


@every_forward
def test_what_is_left_out_is_the_scale(forward: Forward) -> None:
    waves = complex_noise(np.random.default_rng(1), SHAPE)
    found = forward.propagate(waves) * np.sqrt(forward.scale(waves.shape[-2:]))
    np.testing.assert_allclose(found, detector_of(forward, waves), rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(waves), rel=1e-5)


@every_forward
def test_way_back_is_inverse_and_adjoint(forward: Forward) -> None:
    random = np.random.default_rng(2)
    waves, others = complex_noise(random, SHAPE), complex_noise(random, SHAPE)
    scale = forward.scale(waves.shape[-2:])
    np.testing.assert_allclose(forward.propagate_back(forward.propagate(waves)) * scale, waves, atol=1e-5)
    there, back = forward.propagate(waves), forward.propagate_back(others.copy())
    assert np.vdot(there, others) == pytest.approx(np.vdot(waves, back), rel=1e-4)


@every_forward
@pytest.mark.parametrize("out", ["none", "other", "same"])
def test_waves_stay_unless_they_are_given_to_be_overwritten(forward: Forward, out: str) -> None:
    waves = complex_noise(np.random.default_rng(3), SHAPE)
    given: Any = {"none": None, "other": np.empty_like(waves), "same": waves.copy()}[out]
    source = given if out == "same" else waves
    found = forward.propagate(source, given)
    np.testing.assert_allclose(
        found * np.sqrt(forward.scale(SHAPE[-2:])), detector_of(forward, waves), rtol=1e-4, atol=1e-5
    )
    if out != "same":
        np.testing.assert_array_equal(waves, complex_noise(np.random.default_rng(3), SHAPE))


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
