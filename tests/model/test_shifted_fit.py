"""The fit of the probe at fractional positions, against normal equations written out as a matrix."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from daskptycho.model.shifted_fit import CLASSES, add_by_class, step_to_shifted_fit
from tests import plain
from tests.plain import complex_noise

SHAPE = (7, 6)
PIXELS = SHAPE[0] * SHAPE[1]
CENTRES = (np.arange(CLASSES) + 0.5) / CLASSES - 0.5


def patches(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """|psi_i|^2 with a bright pixel, beside which a quotient makes too large a step."""
    power = np.random.default_rng(seed).uniform(0.2, 1, (frames, *SHAPE)).astype(np.float32)
    power[:, 2, 3] = 50
    return power


def normal_matrix(power: NDArray, fraction: NDArray) -> NDArray[np.complex128]:
    """A = sum_i S_i* |psi_i|^2 S_i as a matrix of all pixels."""
    unit = np.eye(PIXELS).reshape(PIXELS, *SHAPE)
    total = np.zeros((PIXELS, PIXELS), dtype=complex)
    for of_frame, own in zip(power, fraction, strict=True):
        shift = plain.shifted(unit, own[None])[0].reshape(PIXELS, PIXELS).T
        total += shift.conj().T @ (of_frame.ravel()[:, None] * shift)
    return total


def by_class(power: NDArray, fraction: NDArray) -> NDArray[np.float32]:
    sums = np.zeros((CLASSES**2, *SHAPE), dtype=np.float32)
    add_by_class(sums, power, fraction)
    return sums


def energy(matrix: NDArray, numerator: NDArray, change: NDArray) -> float:
    """What the fit minimises, up to a constant."""
    x, b = change.ravel().astype(complex), numerator.ravel()
    return float(np.vdot(x, matrix @ x).real - 2 * np.vdot(x, b).real)


def test_frames_are_added_to_the_class_of_the_nearest_fraction() -> None:
    ends = [-0.5, -0.25 - 1e-9, -0.25 + 1e-9, 0.0, 0.1, 0.3, 0.5]
    fraction = np.array([(y, x) for y in ends for x in ends])
    power = patches(len(fraction))
    sums = by_class(power, fraction)
    nearest = [[abs(CENTRES - part).argmin() for part in own] for own in fraction]
    # Zero lies between two classes, and belongs to the upper one.
    nearest = [
        [CLASSES // 2 if part == 0 else n for n, part in zip(own, of, strict=True)]
        for own, of in zip(nearest, fraction, strict=True)
    ]
    for number, (row, column) in enumerate(np.ndindex(CLASSES, CLASSES)):
        there = [own == [row, column] for own in nearest]
        np.testing.assert_allclose(sums[number], power[there].sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("modes", [1, 2])
def test_each_step_comes_closer_to_the_solution(modes: int) -> None:
    """Repeated on what is left, it solves the equations; each time the misfit falls."""
    random = np.random.default_rng(1)
    fraction = random.choice(CENTRES, (9, 2))
    power = patches(9)
    matrix = normal_matrix(power, fraction)
    numerator = complex_noise(random, (modes, *SHAPE))
    solution = np.stack([np.linalg.solve(matrix, own.ravel()).reshape(SHAPE) for own in numerator])
    change = np.zeros_like(numerator)
    errors = []
    for _ in range(300):
        left = np.stack([(matrix @ own.ravel()).reshape(SHAPE) for own in change])
        change = change + step_to_shifted_fit(
            (numerator - left).astype(np.complex64), by_class(power, fraction)
        )
        errors.append(plain.relative(change, solution))
    assert errors[-1] < 1e-2
    assert errors[0] < 0.9


@pytest.mark.parametrize("seed", range(8))
def test_the_misfit_falls_for_fractions_between_the_classes(seed: int) -> None:
    """Never more than the quotient by the sum of all powers does, which may raise it."""
    random = np.random.default_rng(seed)
    fraction = random.uniform(-0.5, 0.5, (5, 2))
    power = patches(5, seed)
    matrix = normal_matrix(power, fraction)
    numerator = complex_noise(random, (1, *SHAPE))
    change = step_to_shifted_fit(numerator, by_class(power, fraction))
    quotient = numerator / power.sum(axis=0)
    assert energy(matrix, numerator, change) < 0
    assert energy(matrix, numerator, change) < energy(matrix, numerator, quotient)


def test_frames_that_agree_leave_the_probe_alone() -> None:
    nothing = np.zeros((2, *SHAPE), dtype=np.complex64)
    found = step_to_shifted_fit(nothing, by_class(patches(3), np.zeros((3, 2))))
    np.testing.assert_array_equal(found, nothing)


def test_no_light_is_no_division_by_zero() -> None:
    nothing = np.zeros((1, *SHAPE), dtype=np.complex64)
    dark = np.zeros((CLASSES**2, *SHAPE), dtype=np.float32)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(step_to_shifted_fit(nothing, dark), nothing)
