"""Where a run with a known probe begins and ends: the opening, the polish of counts, and coming to rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests.stopping import Stop, stop_at

KNOWN: dict[str, Any] = {"update_probe": False}


def simulate(folder: Path, photons: float | None) -> xr.Dataset:
    return dp.simulate_scan(
        folder / f"{photons}.zarr", (8, 8), 16, 4, jitter=1, photons=photons, tile_frames=16, seed=4
    )


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """A scan of a few photons a pixel."""
    return simulate(tmp_path_factory.mktemp("counts"), 500)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return simulate(tmp_path_factory.mktemp("clean"), None)


def error_of(result: xr.Dataset, ds: xr.Dataset) -> float:
    return dp.relative_error(
        result["object"].values, ds["truth_object"].values, result["illumination"].values
    )


def test_counts_are_polished_at_the_end(counts: xr.Dataset) -> None:
    polished = dp.reconstruct(counts, sweeps=30, **KNOWN)
    plainly = dp.reconstruct(counts, sweeps=30, polish=False, **KNOWN)
    # The last third; a residual is that of the waves at the start of its sweep.
    np.testing.assert_array_equal(polished["residual"][:20], plainly["residual"][:20])
    np.testing.assert_allclose(polished["residual"][20], plainly["residual"][20], rtol=1e-6)
    assert (polished["residual"][22:] > plainly["residual"][22:]).all()
    assert error_of(polished, counts) < 0.95 * error_of(plainly, counts)
    assert np.isnan(polished["disagreement"][20:]).all()
    assert polished.attrs["ended"] == "sweeps"


def test_frames_that_hold_no_counts_are_not_polished(clean: xr.Dataset, counts: xr.Dataset) -> None:
    found = dp.reconstruct(clean, sweeps=9, **KNOWN)
    np.testing.assert_array_equal(
        found["object"], dp.reconstruct(clean, sweeps=9, polish=False, **KNOWN)["object"]
    )
    as_floats = counts.assign(intensity=counts["intensity"] * np.float32(1.5))
    unpolished = dp.reconstruct(as_floats, sweeps=9, opening=None, **KNOWN)
    asked = dp.reconstruct(as_floats, sweeps=9, opening=None, polish=True, **KNOWN)
    np.testing.assert_array_equal(asked["residual"][:6], unpolished["residual"][:6])
    assert asked["residual"][8] > unpolished["residual"][8]


def test_many_counts_are_not_polished_unless_asked(tmp_path: Path) -> None:
    ds = simulate(tmp_path, 1e6)
    found, asked, without = (
        dp.reconstruct(ds, sweeps=30, polish=own, **KNOWN) for own in ("auto", True, False)
    )
    np.testing.assert_array_equal(found["object"], without["object"])
    assert not np.array_equal(found["object"], asked["object"])


@pytest.mark.parametrize("options", [{"algorithm": "ap", **KNOWN}, {}], ids=["momentum", "probe recovered"])
def test_polish_needs_lbfgs(counts: xr.Dataset, options: dict) -> None:
    with pytest.raises(dp.OptionError, match="polish is True with algorithm ap; expected 'lbfgs'"):
        dp.reconstruct(counts, sweeps=9, polish=True, **options)


def test_polish_needs_three_sweeps(counts: xr.Dataset) -> None:
    with pytest.raises(dp.OptionError, match=r"polish is True with sweeps=2, .* expected 3 or more"):
        dp.reconstruct(counts, sweeps=2, polish=True, **KNOWN)


@pytest.mark.parametrize("cut", [5, 16, 24], ids=["before", "between", "in the polish"])
def test_polish_is_resumed_to_the_same_bits(counts: xr.Dataset, tmp_path: Path, cut: int) -> None:
    expected = dp.reconstruct(counts, sweeps=27, **KNOWN)
    with pytest.raises(Stop):
        dp.reconstruct(counts, tmp_path / "r.zarr", sweeps=27, callback=stop_at(cut), **KNOWN)
    found = dp.resume(tmp_path / "r.zarr")
    np.testing.assert_array_equal(found["object"], expected["object"])
    np.testing.assert_array_equal(found["residual"], expected["residual"])
    # More sweeps end with a polish again.
    more = dp.resume(tmp_path / "r.zarr", sweeps=45)
    assert more.sizes["sweep"] == 45
    assert more["residual"][35] < more["residual"][26]
    assert more["residual"][44] > more["residual"][35]


def test_noise_has_no_opening(counts: xr.Dataset, clean: xr.Dataset) -> None:
    for ds, same in ((counts, True), (clean, False)):
        found, without = (dp.reconstruct(ds, sweeps=6, opening=own, **KNOWN) for own in ("raar", None))
        assert np.array_equal(found["residual"], without["residual"]) == same


def test_a_clean_run_ends_at_rest(clean: xr.Dataset, tmp_path: Path) -> None:
    found = dp.reconstruct(clean, tmp_path / "r.zarr", sweeps=300, tolerance="auto", **KNOWN)
    assert found.attrs["ended"] == "tolerance"
    assert 30 < found.sizes["sweep"] < 300
    # More sweeps would not have found more.
    residual = dp.reconstruct(clean, sweeps=found.sizes["sweep"] + 30, **KNOWN)["residual"].values
    assert residual.min() > 0.3 * found["residual"].values.min()
    assert dp.resume(tmp_path / "r.zarr").sizes["sweep"] == found.sizes["sweep"]


@pytest.mark.parametrize(
    "options", [KNOWN, KNOWN | {"algorithm": "ap"}, {}], ids=["lbfgs", "ap", "recovered"]
)
def test_a_noisy_run_ends_at_rest(counts: xr.Dataset, tmp_path: Path, options: dict) -> None:
    found = dp.reconstruct(counts, sweeps=400, tolerance="auto", **options)
    assert found.attrs["ended"] == "tolerance"
    assert found.sizes["sweep"] < 200
    cut = found.sizes["sweep"] - 2
    with pytest.raises(Stop):
        dp.reconstruct(
            counts, tmp_path / "r.zarr", sweeps=400, tolerance="auto", callback=stop_at(cut), **options
        )
    resumed = dp.resume(tmp_path / "r.zarr")
    np.testing.assert_array_equal(resumed["residual"], found["residual"])


def test_a_callback_that_ends_the_run_is_told(counts: xr.Dataset) -> None:
    found = dp.reconstruct(counts, sweeps=9, callback=lambda progress: progress.sweep == 2, **KNOWN)
    assert found.attrs["ended"] == "callback"


def test_the_r2_of_a_warning_is_that_of_the_end(tmp_path: Path) -> None:
    scan = dp.simulate_scan(tmp_path / "scan.zarr", (12, 12), 16, 4, jitter=1, photons=1e4, seed=4)
    with pytest.warns(UserWarning, match="R2 is") as told:
        result = dp.reconstruct(scan, sweeps=18, start="random", sync=dp.Sync(method=None), **KNOWN)
    assert f"R2 is {result['residual'].values[-1]:.3g}," in str(told[0].message)
