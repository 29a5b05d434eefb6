"""The probe: at the start of a run, its update, and its modes at the end."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError
from daskptycho.model.algorithms import AP, Algorithm
from daskptycho.model.parameter import Sums
from daskptycho.model.probe import Probe, orthogonalise_modes, prepare_probe
from daskptycho.model.sweep import sweep_tile
from daskptycho.scan.phantom import zone_plate_probe
from daskptycho.tiling import Tile
from tests import plain
from tests.plain import complex_noise
from tests.sweeping import ALGORITHMS, PROBE, on_tile

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
    found = prepare_probe(scan_with(probe), None, None)
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
    found = prepare_probe(scan_with(noise(1)), given_probe, None)
    assert found.dtype == np.complex64
    # Kernels read complex numbers as pairs of reals along the last axis.
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, kept.astype(np.complex64))
    found[:] = 0
    np.testing.assert_array_equal(given_probe, kept)


def test_a_probe_of_one_mode_may_be_flat_or_an_xarray() -> None:
    probe = noise(1)
    for given_probe in (probe[0], xr.DataArray(probe[0], dims=("y", "x")), probe.tolist()):
        np.testing.assert_array_equal(prepare_probe(scan_with(None), given_probe, None), probe)


def test_fewer_modes_are_the_first_ones() -> None:
    probe = noise(3)
    np.testing.assert_array_equal(prepare_probe(scan_with(probe), None, 2), probe[:2])


@pytest.mark.parametrize("have", [1, 2])
@pytest.mark.parametrize("want", [2, 3, 6, 11])
def test_further_modes_are_weak_and_orthogonal_to_all(have: int, want: int) -> None:
    probe = orthogonalise_modes(noise(have))
    found = prepare_probe(scan_with(probe), None, want)
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
    found = prepare_probe(ds, None, 3)
    dark = abs(probe[0]) < 1e-2 * abs(probe).max()
    assert np.linalg.norm(found[:, dark]) < 0.05 * np.linalg.norm(found)


@pytest.mark.parametrize(
    ("own", "given_probe", "modes", "said"),
    [
        (None, None, None, "the scan has no probe, and none is given; expected the known one"),
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
        prepare_probe(scan_with(noise(own) if own else None), given_probe, modes)
    assert said in str(refused.value)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_probe_that_is_no_illumination_is_refused(value: float) -> None:
    with pytest.raises(OptionError):
        prepare_probe(scan_with(None), np.full(FRAME, value), None)


def test_modes_that_a_probe_cannot_have_are_refused() -> None:
    point = np.zeros(FRAME)
    point[4, 6] = 1
    with pytest.raises(OptionError):
        prepare_probe(scan_with(None), point, 2)


# Its update


def probe_formula(ds: xr.Dataset, image: np.ndarray, waves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P = sum conj(psi_i) z_i / sum |psi_i|^2 for whole-pixel positions, and the denominator."""
    patches = plain.windows(image, plain.tiling_of(ds).corner, ds["probe"].shape[1:])
    denominator = (abs(patches) ** 2).sum(axis=0)
    return (patches.conj()[:, None] * waves).sum(axis=0) / denominator, denominator


def probe_sums(
    ds: xr.Dataset,
    image: np.ndarray,
    *,
    tile: Tile | None = None,
    probe: np.ndarray | None = None,
    algorithm: Algorithm = AP(),  # noqa: B008
) -> Sums:
    """What a sweep over one tile, the whole scan unless given, sums for the probe."""
    tile = plain.tiling_of(ds).tiles[0] if tile is None else tile
    at = on_tile(ds, tile, due=PROBE, probe=probe)
    amplitude = plain.amplitudes_of(ds)[tile.frames]
    return sweep_tile(algorithm, at, tile, amplitude, image, leave="waves").sums["probe"]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
@pytest.mark.parametrize("modes", [1, 2])
def test_update_is_the_formula_over_projected_waves(algorithm: Algorithm, modes: int) -> None:
    ds = plain.scan(modes=modes)
    tile = plain.tiling_of(ds).tiles[0]
    probe = (ds["probe"].values * 1.2).astype(np.complex64)
    image = (ds["truth_object"].values * 0.9).astype(np.complex64)
    found = Probe().update(probe, probe_sums(ds, image, probe=probe, algorithm=algorithm))
    assert found.dtype == np.complex64
    waves = plain.project(
        plain.split(image, np.array([probe] * len(tile)), tile.corner), plain.amplitudes_of(ds)
    )
    expected, _ = probe_formula(ds, image, waves)
    # Well lit here, so next to nothing of the old probe is kept.
    assert plain.relative(found, expected) < 5e-3


def test_sums_of_tiles_add_up() -> None:
    ds = plain.scan(modes=2, fractional=True)
    truth = np.ones(plain.tiling_of(ds).window.shape, dtype=np.complex64)
    updated = []
    for chunks in ((16,), (4, 7, 5)):
        sums = [
            probe_sums(ds, truth[: tile.window.height, : tile.window.width], tile=tile)
            for tile in plain.tiling_of(ds, chunks).tiles
        ]
        updated.append(Probe().update(ds["probe"].values, reduce(Probe().add, sums)))
    assert plain.relative(updated[1], updated[0]) < 1e-5


@pytest.mark.parametrize("modes", [1, 3])
def test_the_true_probe_is_a_fixed_point(modes: int) -> None:
    ds = plain.scan(modes=modes)
    sums = probe_sums(ds, ds["truth_object"].values)
    assert plain.relative(Probe().update(ds["probe"].values, sums), ds["probe"].values) < 1e-4


def test_the_true_probe_is_a_fixed_point_at_fractional_positions() -> None:
    ds = plain.scan(fractional=True)
    sums = probe_sums(ds, ds["truth_object"].values)
    found = Probe(fractional=True).update(ds["probe"].values, sums)
    assert plain.relative(found, ds["probe"].values) < 1e-4


def test_probe_stays_where_the_object_let_nothing_through() -> None:
    probe = complex_noise(np.random.default_rng(0), (2, 4, 5))
    denominator = np.ones((4, 5), dtype=np.float32)
    denominator[1, 2] = 0
    found = Probe().update(probe, (np.where(denominator > 0, 2 * probe, 0), denominator))
    np.testing.assert_allclose(found[:, 1, 2], probe[:, 1, 2], rtol=1e-5)
    assert plain.relative(found[:, 0], 3 * probe[:, 0]) < 1e-2


# The probe at the end


@settings(max_examples=40)
@given(modes=st.integers(1, 5), seed=st.integers(0, 2**32), spread=st.floats(0, 3))
def test_orthogonal_modes(modes: int, seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    probe = complex_noise(random, (modes, *FRAME)) * 10 ** random.uniform(-spread, 0, (modes, 1, 1))
    probe = probe.astype(np.complex64)
    found = orthogonalise_modes(probe)
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
    probe = orthogonalise_modes(noise(3) * np.array([3, 2, 1], dtype=np.float32)[:, None, None])
    mixture, _ = np.linalg.qr(complex_noise(random, (3, 3)).astype(complex))
    mixed = np.tensordot(mixture, probe, axes=1).astype(np.complex64)
    for found, expected in zip(orthogonalise_modes(mixed), probe, strict=True):
        assert plain.relative_up_to_a_factor(found, expected) < 1e-4


def test_frames_do_not_see_how_modes_are_mixed() -> None:
    probe = noise(3)
    image = complex_noise(np.random.default_rng(5), FRAME)
    before, after = (
        (abs(plain.transform(modes * image)) ** 2).sum(axis=0)
        for modes in (probe, orthogonalise_modes(probe))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_one_mode_stays_as_it_is() -> None:
    probe = noise(1)
    np.testing.assert_array_equal(orthogonalise_modes(probe), probe)


# The probe as a parameter


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_a_probe_to_be_recovered_begins_with_the_power_of_a_frame(scale: float) -> None:
    first = (noise(2) * scale).astype(np.complex64)
    found = Probe().begin(first, counts=300.0, frames=4)
    assert (abs(found) ** 2).sum() == pytest.approx(75, rel=1e-5)
    assert plain.relative_up_to_a_factor(found, first) < 1e-6
    np.testing.assert_array_equal(Probe(recovered=False).begin(first, 300.0, 4), first)


def test_a_probe_is_recovered_from_the_second_sweep_on_or_held() -> None:
    assert [Probe().schedule.due(sweep) for sweep in (1, 2, 3, 1000)] == [False, True, True, True]
    assert Probe(recovered=False).schedule is None
    assert Probe().describe((2, 9, 12)) == "probe (2 modes, recovered)"
    assert Probe(recovered=False).describe((1, 9, 12)) == "probe (held)"
