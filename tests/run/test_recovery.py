"""Runs come near the truth: object and probe, whatever the scan, its positions and its faults."""

from __future__ import annotations

import bz2
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import plain
from tests.run.conftest import SIMULATED, perturbed

NO_SYNC = dp.Sync(method=None)


def error(result: xr.Dataset, ds: xr.Dataset) -> float:
    """Relative error of the image where it is lit, up to a constant factor."""
    lit = result["illumination"].values
    well = lit > 0.1 * lit.max()
    return plain.relative_up_to_a_factor(result["object"].values[well], ds["truth_object"].values[well])


def registered_error(result: xr.Dataset, ds: xr.Dataset) -> float:
    """Likewise up to a shift and a phase ramp, which a recovered probe leaves open."""
    return dp.compare_images(result["object"], ds["truth_object"], weight=result["illumination"]).error


@pytest.mark.parametrize("name", SIMULATED)
def test_image_with_a_known_probe(scans: dict[str, xr.Dataset], name: str) -> None:
    result = dp.reconstruct(scans[name], sweeps=40, update_probe=False)
    assert error(result, scans[name]) < 0.02
    assert result["residual"][-1] < 1e-5
    # The probe that is known stays what it was, up to the mixture of its modes.
    before, after = ((abs(p.values) ** 2).sum(axis=0) for p in (scans[name]["probe"], result["probe"]))
    assert plain.relative(after, before) < 1e-5


@pytest.mark.parametrize("algorithm", [dp.RAAR(beta=0.9), "raar", "dm"], ids=str)
def test_image_by_other_algorithms(raster: xr.Dataset, algorithm: Any) -> None:
    assert error(dp.reconstruct(raster, sweeps=40, update_probe=False, algorithm=algorithm), raster) < 0.02


def test_image_and_probe_from_a_perturbed_probe(raster: xr.Dataset) -> None:
    result = dp.reconstruct(raster, sweeps=60, probe=perturbed(raster))
    assert result["residual"][-1] < 1e-4
    assert registered_error(result, raster) < 0.03
    known = dp.reconstruct(raster, sweeps=60, probe=perturbed(raster), update_probe=False)
    assert result["residual"][-1] < 1e-2 * known["residual"][-1]
    # Power of a probe that is recovered: the mean count of a frame, give or take the object's own.
    power = (abs(result["probe"]) ** 2).sum()
    assert power / raster["intensity"].sum(("qy", "qx")).mean() == pytest.approx(1, abs=0.3)


def test_two_modes_from_one(scans: dict[str, xr.Dataset]) -> None:
    ds = scans["modes"]
    guess = ds["probe"].values[:1]
    one = dp.reconstruct(ds, sweeps=60, probe=guess)
    two = dp.reconstruct(ds, sweeps=60, probe=guess, modes=2)
    assert two["probe"].shape == (2, 16, 16)
    assert two["residual"][-1] < 0.5 * one["residual"][-1]
    assert registered_error(two, ds) < registered_error(one, ds)


def test_fractional_positions_with_the_probe_recovered(scans: dict[str, xr.Dataset]) -> None:
    result = dp.reconstruct(scans["fractional"], sweeps=60)
    assert result["residual"][-1] < 2e-4
    assert registered_error(result, scans["fractional"]) < 0.02


def test_a_measured_scan_at_fractional_positions_does_not_diverge(tmp_path: Path) -> None:
    file = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "siemens-star-small.npz.bz2"
    if not file.exists():
        pytest.skip(f"{file} is not here: the measured Siemens star is no part of the project")
    measured = np.load(io.BytesIO(bz2.decompress(file.read_bytes())))
    position = measured["scan"][0].astype(float)
    inner = (abs(position) < 60).all(axis=1)
    frames = np.fft.fftshift(measured["data"][0][inner], axes=(-2, -1))
    probe = measured["probe"].reshape(1, 128, 128)
    ds = dp.create_scan(tmp_path / "s.zarr", frames, position[inner], probe=probe, position_unit="pixel")
    result = dp.reconstruct(ds, sweeps=12)
    assert result["residual"][-1] < 0.025
    assert np.isfinite(result["object"]).all()


def test_fractions_of_positions_matter(scans: dict[str, xr.Dataset]) -> None:
    ds = scans["fractional"]
    carried = dp.reconstruct(ds, sweeps=40, update_probe=False)
    rounded = dp.reconstruct(ds, sweeps=40, update_probe=False, subpixel=False)
    assert error(carried, ds) < 0.2 * error(rounded, ds)


def test_pixels_that_are_not_valid_do_no_harm(raster: xr.Dataset) -> None:
    ds = raster.compute()
    valid = np.random.default_rng(0).random((16, 16)) > 0.1
    ds["intensity"] = ds["intensity"].where(valid, 1e6)
    with pytest.warns(UserWarning, match="half of the measured intensity is not described"):
        spoilt = dp.reconstruct(ds, sweeps=30, update_probe=False)
    ds["valid"] = (("qy", "qx"), valid)
    masked = dp.reconstruct(ds, sweeps=30, update_probe=False)
    assert error(masked, ds) < 0.03
    assert error(spoilt, ds) > 0.3


def test_background_is_taken_off(raster: xr.Dataset) -> None:
    ds = raster.compute()
    dark = np.random.default_rng(0).uniform(1, 3, (16, 16)).astype(np.float32)
    ds["intensity"] = ds["intensity"] + dark
    spoilt = dp.reconstruct(ds, sweeps=30, update_probe=False)
    ds["background"] = (("qy", "qx"), dark)
    assert error(dp.reconstruct(ds, sweeps=30, update_probe=False), ds) < 0.2 * error(spoilt, ds)


def test_random_phases_come_to_agree(scans: dict[str, xr.Dataset]) -> None:
    result = dp.reconstruct(scans["periodic"], sweeps=40, update_probe=False, start="random", seed=3)
    assert error(result, scans["periodic"]) < 0.01
    disagreement = result["disagreement"].dropna("sweep").values
    assert disagreement[0] > 0.05
    assert disagreement[-1] < 1e-4


def test_opening_is_for_random_starts_that_are_synchronised(scans: dict[str, xr.Dataset]) -> None:
    def last(**options: Any) -> float:
        given: dict[str, Any] = {"sweeps": 4, "update_probe": False, "start": "random", "algorithm": "ap"}
        return float(dp.reconstruct(scans["periodic"], **given | options)["residual"][-1])

    assert last(opening="raar") != last(opening=None)
    assert last(opening="raar", sync=NO_SYNC) == pytest.approx(last(opening=None, sync=NO_SYNC))
    assert last(opening="raar", start="ones") == pytest.approx(last(opening=None, start="ones"))
    assert last(opening="ap", momentum=0) == pytest.approx(last(opening=None, momentum=0))


def test_sync_helps_where_the_scan_is_large(tmp_path: Path) -> None:
    ds = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(20, 20), frame_size=16, step=5, periodic=True, jitter=1
    )
    given: dict[str, Any] = {"sweeps": 25, "update_probe": False, "start": "random"}
    synced = dp.reconstruct(ds, **given)
    assert error(synced, ds) < 0.1 * error(dp.reconstruct(ds, **given, sync=NO_SYNC), ds)


def test_a_start_near_the_truth_begins_there(raster: xr.Dataset) -> None:
    truth = raster["truth_object"]
    result = dp.reconstruct(raster, sweeps=2, update_probe=False, start=truth)
    assert result["residual"][0] < 1e-9
    assert error(result, raster) < 1e-3
    # And a result is the start of the next run.
    first = dp.reconstruct(raster, sweeps=10, update_probe=False)
    second = dp.reconstruct(raster, sweeps=1, update_probe=False, start=first["object"])
    assert second["residual"][0] < first["residual"][-1]
