"""A beam that is not steady in a rendered scan is found along, whatever the tiles, workers and options."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.views.beam import describe_gain
from tests.drifting import Drifting, make_drifting
from tests.elsewhere import images_on_disk, two_workers
from tests.stopping import Stop, stop_at

GIVEN: dict[str, Any] = {"sweeps": 50, "update_probe": False, "refine": "gain"}


@cache
def unsteady(beam: str, **options: Any) -> Drifting:
    given: dict[str, Any] = {"side": 9, "step": 5.0, "tile_frames": 27, "seed": 11, "beam": beam}
    return make_drifting("exact", **given | options)


def image_error(known: Drifting, result: xr.Dataset) -> float:
    lit = (result["illumination"] > 0.3 * result["illumination"].max()).values
    found, true = result["object"].values[lit], known.truth(result)[lit]
    factor = np.vdot(true, found) / np.vdot(true, true)
    return float(np.linalg.norm(found - factor * true) / np.linalg.norm(factor * true))


@pytest.mark.parametrize(
    ("beam", "photons", "most"),
    [("decay", 1e6, 0.006), ("decay", 1e5, 0.012), ("dip", 1e6, 0.006), ("dip", 1e5, 0.012)],
)
def test_gains_are_found(beam: str, photons: float, most: float) -> None:
    known = unsteady(beam, photons=photons)
    result = dp.reconstruct(known.scan, **GIVEN)
    assert known.gain_error(result) < most
    assert np.log(result["gain"].values).mean() == pytest.approx(0, abs=1e-4)


def test_a_clear_decay_is_found_before_the_image_has_settled() -> None:
    known = unsteady("decay")
    found = dp.reconstruct(known.scan, **GIVEN | {"sweeps": 12})
    assert not found["gain_changed"].values[:7].any()
    assert known.gain_error(found) < 0.02


def test_image_gains_from_it() -> None:
    known = unsteady("decay")
    plain = dp.reconstruct(known.scan, **GIVEN | {"refine": (), "algorithm": "ap"})
    assert "gain" not in plain
    assert image_error(known, dp.reconstruct(known.scan, **GIVEN)) < image_error(known, plain) / 3


@pytest.mark.parametrize("photons", [1e4, 1e5, 1e6])
def test_a_steady_beam_is_left_alone(photons: float) -> None:
    known = unsteady("steady", photons=photons)
    result = dp.reconstruct(known.scan, **GIVEN)
    assert not result["gain_changed"].values.any()
    np.testing.assert_array_equal(result["gain"], 1)
    assert np.isfinite(result["gain_significance"]).sum() > 20
    assert describe_gain(result) == "Beam: no change that is significant."


def test_noise_is_not_taken_for_an_unsteady_beam() -> None:
    result = dp.reconstruct(unsteady("decay", photons=300).scan, **GIVEN | {"sweeps": 20})
    assert result.attrs["expected_residual"] > 0.05
    assert np.isnan(result["gain_significance"]).all()
    np.testing.assert_array_equal(result["gain"], 1)


def test_tiles_change_little() -> None:
    one, many = (dp.reconstruct(unsteady("decay", tile_frames=of).scan, **GIVEN) for of in (81, 9))
    gains = [np.log(result.sortby("frame_number")["gain"].values) for result in (one, many)]
    assert (gains[0] - gains[1]).std() < 3e-3


@pytest.mark.parametrize(
    "options",
    [
        {"sync": dp.Sync("full", every=1)},
        {"sync": dp.Sync(method=None)},
        {"modes": 2, "update_probe": True},
        {"refine": ("positions", "gain")},
    ],
    ids=["full", "no sync", "modes", "positions"],
)
def test_whatever_the_options(options: dict[str, Any]) -> None:
    known = unsteady("dip")
    assert known.gain_error(dp.reconstruct(known.scan, **GIVEN | options)) < 0.05


def test_algorithms_with_a_stack_refine_no_gains() -> None:
    with pytest.raises(dp.OptionError, match="gain is refined with algorithm raar"):
        dp.reconstruct(unsteady("dip").scan, **GIVEN | {"algorithm": "raar"})


def test_slope_is_held_while_the_probe_is_recovered() -> None:
    known = unsteady("decay")
    result = dp.reconstruct(known.scan, **GIVEN | {"update_probe": True, "sweeps": 30})
    assert result["gain_changed"].values.any()
    place = result["position"].values - result["position"].values.mean(axis=0)
    assert abs(np.log(result["gain"].values.astype(float)) @ place).max() < 1e-2
    assert "a slope over the sample cannot be told from the probe" in describe_gain(result)


def test_refinement_starts_from_the_beam_monitor() -> None:
    known = unsteady("decay")
    monitor = known.gain[known.scan["frame_number"].values]
    monitored = known.scan.assign(gain=("frame", 3 * monitor))
    result = dp.reconstruct(monitored, **GIVEN)
    assert not result["gain_changed"].values.any()
    assert known.gain_error(result) < 1e-6


def test_frames_that_are_left_out_have_no_gain() -> None:
    known = unsteady("decay")
    result = dp.reconstruct(known.scan, leave_out=[4, 40], **GIVEN | {"refine": ("gain", "positions")})
    out = ~result["frame_used"].values
    assert sorted(result["frame_number"].values[out]) == [4, 40]
    assert np.isnan(result["gain"].values[out]).all()
    assert known.gain_error(result.isel(frame=~out)) < 0.006
    np.testing.assert_array_equal(result["position"][out], result["position_given"][out])


def test_end_of_run_says_what_was_found() -> None:
    said = describe_gain(dp.reconstruct(unsteady("decay").scan, **GIVEN))
    assert said.startswith("Beam: decays by ")
    assert "% over the scan, " in said
    assert "; 3 frames have less than half of the light" in describe_gain(
        dp.reconstruct(unsteady("dip").scan, **GIVEN)
    )


def test_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    scan = unsteady("decay").scan
    given = GIVEN | {"sweeps": 20}
    expected = dp.reconstruct(scan, **given)
    assert expected["gain_changed"].values.any()
    for sweep in (13, 16):
        with pytest.raises(Stop):
            dp.reconstruct(scan, tmp_path / "r.zarr", callback=stop_at(sweep), overwrite=True, **given)
        found = dp.resume(tmp_path / "r.zarr", scan=scan)
        xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))
        assert found.attrs == expected.attrs


@pytest.mark.timeout(100)
def test_worker_processes_change_nothing() -> None:
    scan, given = unsteady("decay").scan, GIVEN | {"sweeps": 18}
    expected = dp.reconstruct(scan, **given)
    assert expected["gain_changed"].values.any()
    with two_workers():
        found = dp.reconstruct(scan, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


def test_little_memory_changes_nothing(tmp_path: Path) -> None:
    """Images on disk, and amplitudes read from the store in each sweep."""
    known = unsteady("decay")
    named = {name: known.scan[name].values for name in ("intensity", "position", "probe", "frame_number")}
    ds = dp.create_scan(tmp_path / "scan.zarr", **named, position_unit="pixel", tile_frames=27)
    given = GIVEN | {"sweeps": 18}
    expected = dp.reconstruct(ds, **given)
    with images_on_disk():
        found = dp.reconstruct(ds, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))
