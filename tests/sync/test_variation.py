"""The variation of the probe from the weights of all frames: order, fit and significance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from daskptycho.sync.frame_graph import Frames
from daskptycho.sync.variation import (
    TESTS,
    Modes,
    TileWeightSums,
    Variation,
    find_variation,
    opening_level,
    order_modes,
)

FRAMES, SIZE = 90, 12
RANDOM = np.random.default_rng(5)


def noise(*shape: int) -> NDArray[np.complex128]:
    return RANDOM.normal(size=(*shape, 2)) @ np.array([1, 1j])


def test_modes_are_put_in_order() -> None:
    probe, modes = noise(SIZE, SIZE), noise(3, SIZE, SIZE)
    weights = noise(FRAMES, 3) @ np.diag([0.3, 2.0, 1.0])
    ordered, mixture = order_modes(weights, modes, [probe])
    flat = np.stack([probe, *ordered]).reshape(4, -1) / np.linalg.norm(probe)
    np.testing.assert_allclose(flat @ flat.conj().T, np.eye(4), atol=1e-12)
    mixed = weights @ mixture
    moments = mixed.conj().T @ mixed
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=1e-9 * moments[0, 0].real)
    assert (np.diff(np.diag(moments).real) < 0).all()
    np.testing.assert_allclose((mixed**2).sum(axis=0).imag, 0, atol=1e-9)
    # The same for each frame, but for the part along the probe.
    apart = np.tensordot(mixed, ordered, 1) - np.tensordot(weights, modes, 1)
    along = apart.reshape(FRAMES, -1) @ probe.ravel().conj() / np.linalg.norm(probe) ** 2
    np.testing.assert_allclose(apart, along[:, None, None] * probe, atol=1e-9)


def found(
    used: bool, *, holds_mean: bool = False, smooth: float | None = None, opens_above: float = 2.0
) -> tuple[Variation, NDArray, NDArray]:
    """The variation after a sweep over frames that see an empty sample, and what they ask for."""
    probe, modes = np.zeros((SIZE, SIZE), complex), noise(2, SIZE, SIZE).astype(np.complex64)
    probe[0, 0] = 3.0
    modes[:, 0, 0] = 0
    true, start = 0.5 * noise(FRAMES, 2) + 1, 0.1 * noise(FRAMES, 2)
    flat = modes.reshape(2, -1).astype(complex)
    matrix = np.broadcast_to(flat.conj() @ flat.T, (FRAMES, 2, 2))
    wanted = (true - start * used) @ matrix[0].T
    value = np.stack([start * used, start], axis=1).astype(np.complex64)
    halves = [
        TileWeightSums(value[part], value[part, 0], wanted[part], matrix[part], 1e-3, 0)
        for part in (slice(0, 50), slice(50, FRAMES))
    ]
    frames = Frames(np.zeros((FRAMES, 2)), np.arange(FRAMES), None, FRAMES * SIZE**2)
    how: dict[str, Any] = {"smooth": smooth, "holds_mean": holds_mean, "opens_above": opens_above}
    variation = find_variation(halves, probe, Modes(modes, modes, modes), frames, **how)
    return variation, true, modes


@pytest.mark.parametrize("used", [False, True], ids=["on trial", "in use"])
def test_weights_are_the_fit(used: bool) -> None:
    variation, true, modes = found(used)
    probes = np.tensordot(variation.weights[:, 0], variation.modes[0], 1)
    expected = np.tensordot(true, modes, 1)
    np.testing.assert_allclose(probes, expected, atol=2e-3 * abs(expected).max())
    power = (abs(expected) ** 2).sum(axis=(1, 2)).mean() / 9
    assert variation.share == pytest.approx(power, rel=1e-2)


def test_mean_belongs_to_a_probe_that_is_recovered() -> None:
    variation, *_ = found(False, holds_mean=True)
    np.testing.assert_allclose(variation.weights[:, 0].mean(axis=0), 0, atol=1e-6)


def test_what_is_not_significant_stays_on_trial() -> None:
    variation, *_ = found(False, opens_above=np.inf)
    assert not variation.weights[:, 0].any()
    assert variation.weights[:, 1].any()
    assert variation.share == 0


def test_smooth_weights_are_averages() -> None:
    free, smooth = found(False)[0], found(False, smooth=3.0)[0]

    def rough(weights: NDArray) -> float:
        return float(abs(np.diff(weights[:, 0, 0])).mean())

    assert rough(smooth.weights) < rough(free.weights) / 3


def test_modes_come_into_use_once_the_image_has_settled() -> None:
    assert opening_level([np.nan] * 20) == np.inf
    assert opening_level([1.0] * (TESTS - 1)) == np.inf
    assert opening_level([1.0] * TESTS) == 2.0
    assert opening_level([50.0] + [10.0] * TESTS) == 9.0
