"""The probe at the start and at the end of a run: modes, their powers and what they add up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError
from daskptycho.model.probe import initial_probe, orthogonal_modes
from daskptycho.scan.phantom import zone_plate_probe
from tests import plain
from tests.plain import complex_noise

FRAME = (9, 12)


def scan_with(probe: np.ndarray | None) -> xr.Dataset:
    ds = xr.Dataset({"intensity": (("frame", "qy", "qx"), np.ones((2, *FRAME)))})
    if probe is not None:
        ds["probe"] = (("mode", "y", "x"), probe)
    return ds


def noise(modes: int, seed: int = 0) -> np.ndarray:
    return complex_noise(np.random.default_rng(seed), (modes, *FRAME))


def products(probe: np.ndarray) -> np.ndarray:
    """Inner products of all modes with each other."""
    flat = probe.reshape(len(probe), -1).astype(complex)
    return flat.conj() @ flat.T


# The probe to start from


@pytest.mark.parametrize("modes", [1, 3])
def test_the_scans_own_probe_is_taken(modes: int) -> None:
    probe = noise(modes)
    found = initial_probe(scan_with(probe), None, None)
    assert found.dtype == np.complex64
    np.testing.assert_array_equal(found, probe)
    found[:] = 0
    assert probe.all()


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.float32, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_given_probe_comes_before_the_scans(dtype: Any, order: Any) -> None:
    given_probe = np.asarray(10 * noise(2, 1).real if np.dtype(dtype).kind != "c" else noise(2, 1))
    given_probe = np.array(given_probe, dtype=dtype, order=order)
    kept = given_probe.copy()
    found = initial_probe(scan_with(noise(1)), given_probe, None)
    assert found.dtype == np.complex64
    # Kernels read complex numbers as pairs of reals along the last axis.
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, kept.astype(np.complex64))
    found[:] = 0
    np.testing.assert_array_equal(given_probe, kept)


def test_a_probe_of_one_mode_may_be_flat_or_an_xarray() -> None:
    probe = noise(1)
    for given_probe in (probe[0], xr.DataArray(probe[0], dims=("y", "x")), probe.tolist()):
        np.testing.assert_array_equal(initial_probe(scan_with(None), given_probe, None), probe)


def test_fewer_modes_are_the_first_ones() -> None:
    probe = noise(3)
    np.testing.assert_array_equal(initial_probe(scan_with(probe), None, 2), probe[:2])


@pytest.mark.parametrize("have", [1, 2])
@pytest.mark.parametrize("want", [2, 3, 6, 11])
def test_further_modes_are_weak_and_orthogonal_to_all(have: int, want: int) -> None:
    probe = orthogonal_modes(noise(have))
    found = initial_probe(scan_with(probe), None, want)
    assert found.shape == (want, *FRAME)
    assert found.dtype == np.complex64
    np.testing.assert_array_equal(found[:have], probe[:want])
    powers = products(found)
    first = powers[0, 0].real
    np.testing.assert_allclose(powers - np.diag(np.diag(powers)), 0, atol=1e-5 * first)
    new = np.diag(powers)[have:].real
    assert (new > 1e-3 * first).all()
    assert (new < 0.2 * first).all()


def test_further_modes_stay_where_the_first_one_shines() -> None:
    probe = zone_plate_probe(32).astype(np.complex64)
    ds = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), np.ones((1, 32, 32))),
            "probe": (("mode", "y", "x"), probe),
        }
    )
    found = initial_probe(ds, None, 3)
    dark = abs(probe[0]) < 1e-2 * abs(probe).max()
    assert np.linalg.norm(found[:, dark]) < 0.05 * np.linalg.norm(found)


@pytest.mark.parametrize(
    ("own", "given_probe", "modes", "said"),
    [
        (None, None, None, "the scan has no probe; expected a first guess"),
        (
            None,
            np.ones((8, 8)),
            None,
            r"probe has shape (1, 8, 8); expected (mode, y, x) with frames of (9, 12)",
        ),
        (None, np.ones((12, 9)), None, "probe has shape (1, 12, 9)"),
        (None, np.ones(9), None, "probe has shape (9,)"),
        (None, np.ones((1, 1, *FRAME)), None, "probe has shape (1, 1, 9, 12)"),
        (1, None, 0, "modes is 0; expected a whole number, 1 or more"),
        (1, None, -2, "modes is -2"),
        (1, None, 1.5, "modes is 1.5"),
        (1, None, "two", "modes is 'two'"),
    ],
)
def test_nonsense_is_refused(own: Any, given_probe: Any, modes: Any, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        initial_probe(scan_with(noise(own) if own else None), given_probe, modes)
    assert said in str(refused.value)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_probe_that_is_no_illumination_is_refused(value: float) -> None:
    with pytest.raises(OptionError):
        initial_probe(scan_with(None), np.full(FRAME, value), None)


def test_modes_that_a_probe_cannot_have_are_refused() -> None:
    point = np.zeros(FRAME)
    point[4, 6] = 1
    with pytest.raises(OptionError):
        initial_probe(scan_with(None), point, 2)


# The probe at the end


@settings(max_examples=40)
@given(modes=st.integers(1, 5), seed=st.integers(0, 2**32), spread=st.floats(0, 3))
def test_orthogonal_modes(modes: int, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    probe = complex_noise(random, (modes, *FRAME)) * 10 ** random.uniform(-spread, 0, (modes, 1, 1))
    probe = probe.astype(np.complex64)
    found = orthogonal_modes(probe)
    assert found.dtype == np.complex64
    scale = (abs(probe) ** 2).sum(axis=0).max()
    # The incoherent sum is what a detector sees, and stays in every pixel.
    np.testing.assert_allclose(
        (abs(found) ** 2).sum(axis=0), (abs(probe) ** 2).sum(axis=0), atol=1e-5 * scale
    )
    powers = products(found)
    np.testing.assert_allclose(powers - np.diag(np.diag(powers)), 0, atol=1e-5 * powers[0, 0].real)
    assert (np.diff(np.diag(powers).real) <= 1e-5 * powers[0, 0].real).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_orthogonal_modes_do_not_depend_on_the_mixture(seed: int) -> None:
    random = np.random.default_rng(seed)
    probe = orthogonal_modes(noise(3) * np.array([3, 2, 1], dtype=np.float32)[:, None, None])
    mixture, _ = np.linalg.qr(complex_noise(random, (3, 3)).astype(complex))
    mixed = np.tensordot(mixture, probe, axes=1).astype(np.complex64)
    for found, expected in zip(orthogonal_modes(mixed), probe, strict=True):
        assert plain.relative_up_to_a_factor(found, expected) < 1e-4


def test_frames_do_not_see_how_modes_are_mixed() -> None:
    probe = noise(3)
    image = complex_noise(np.random.default_rng(5), FRAME)
    before, after = (
        (abs(plain.transform(modes * image)) ** 2).sum(axis=0) for modes in (probe, orthogonal_modes(probe))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_one_mode_stays_as_it_is() -> None:
    probe = noise(1)
    np.testing.assert_array_equal(orthogonal_modes(probe), probe)
