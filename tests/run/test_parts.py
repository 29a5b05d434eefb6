"""Runs over scans that fall into parts: as good with sync as without, and the parts said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.run import fitting
from daskptycho.tasks import blockwise
from daskptycho.tasks.layout import Residency
from tests import islands
from tests.plain import relative_where_lit
from tests.stopping import Stop, stop_at
from tests.test_cli import run

CORNERS = {
    "islands": islands.islands(25),
    "fives": islands.islands(5, 3),
    "parked": islands.parked(25),
    "comb": islands.comb(length=8),
    "ring": islands.ring(radius=36),
}
NONE = dp.Sync(None)
SYNCS = {
    "two-level": dp.Sync(),
    "full": dp.Sync("full"),
    "power": dp.Sync("full", eigensolver="power"),
    "LOBPCG": dp.Sync("full", eigensolver="lobpcg"),
}


def scan_of(folder: Path, name: str, photons: float | None, tile: int | None = 8) -> xr.Dataset:
    return islands.simulate(folder / f"{name}-{photons}-{tile}.zarr", CORNERS[name], photons, tile)


def error_of(scan: xr.Dataset, sync: dp.Sync, least: int = 1, **options: Any) -> float:
    given: dict[str, Any] = {"sweeps": 30, "update_probe": False} | options
    result = dp.reconstruct(scan, sync=sync, **given)
    return islands.measure_error(result, ramp=given["update_probe"], least=least)


@pytest.mark.parametrize("photons", [1e4, None], ids=["noise", "none"])
@pytest.mark.parametrize("name", ["islands", "fives"])
def test_islands_are_as_good_with_sync_as_without(tmp_path: Path, name: str, photons: float | None) -> None:
    scan = scan_of(tmp_path, name, photons)
    without = error_of(scan, NONE)
    for kind, sync in SYNCS.items():
        assert error_of(scan, sync) < 1.02 * without, kind
    assert error_of(scan_of(tmp_path, name, photons, None), dp.Sync()) < 1.02 * without


def test_islands_with_their_probe_recovered(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, "islands", 1e4)
    assert error_of(scan, dp.Sync(), update_probe=True) < 1.01 * error_of(scan, NONE, update_probe=True)


def test_a_random_start_grows_a_region_in_each_island(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, "islands", None)
    for method in ("two-level", "full"):
        assert error_of(scan, dp.Sync(method), start="random") < 0.5 * error_of(scan, NONE, start="random")


def test_a_random_start_at_low_dose_ends_its_growth(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, "islands", 1e3)
    options: dict[str, Any] = {"start": "random", "sweeps": 40}
    assert error_of(scan, dp.Sync(), **options) < 1.02 * error_of(scan, NONE, **options)


def test_one_parked_frame_harms_no_other(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, "parked", 1e4)
    # What a single frame says of the object under it is anyone's guess.
    without = error_of(scan, NONE, least=2)
    for kind, sync in SYNCS.items():
        assert error_of(scan, sync, least=2) < 1.02 * without, kind


@pytest.mark.parametrize("name", ["comb", "ring"])
def test_parts_of_a_tile_that_others_link_are_as_good_as_one_tile(tmp_path: Path, name: str) -> None:
    """Tiles hold frames of several teeth, which hang together only through other tiles."""
    one = scan_of(tmp_path, name, None, None)
    options = {"sweeps": 40}
    expected = error_of(one, dp.Sync(), **options)
    assert expected < 0.7 * error_of(one, NONE, **options)
    for tile in (8, 13):
        assert error_of(scan_of(tmp_path, name, None, tile), dp.Sync(), **options) < 1.1 * expected


@pytest.mark.parametrize("algorithm", ["ap", "raar", "dm"])
def test_parts_in_other_processes_are_those_of_threads(tmp_path: Path, algorithm: str) -> None:
    """Strips that are cut for another worker bring the parts of their pixels."""
    scan = scan_of(tmp_path, "comb", 1e5)
    options: dict[str, Any] = {"sweeps": 5, "algorithm": algorithm, "sync": dp.Sync(every=1)}
    expected = dp.reconstruct(scan, **options)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        found = dp.reconstruct(scan, **options)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize(
    "options",
    [{"algorithm": "raar"}, {"sync": dp.Sync(inner=2, every=1)}],
    ids=["RAAR", "inner"],
)
def test_a_resumed_run_ends_as_if_it_had_not_stopped(tmp_path: Path, options: dict[str, Any]) -> None:
    scan = scan_of(tmp_path, "comb", 1e5)
    expected = dp.reconstruct(scan, sweeps=7, **options)
    with pytest.raises(Stop):
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=7, callback=stop_at(4), **options)
    found = dp.resume(tmp_path / "r.zarr")
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize("residency", [Residency.STREAMED, Residency.ON_DISK], ids=str)
def test_parts_of_little_memory_are_the_same(
    tmp_path: Path, residency: Residency, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = scan_of(tmp_path, "comb", 1e5)
    options: dict[str, Any] = {"sweeps": 5, "update_probe": False, "sync": dp.Sync(every=1)}
    expected = dp.reconstruct(scan, **options)
    estimate = fitting.estimate_needs
    monkeypatch.setattr(
        fitting, "estimate_needs", lambda *given, **of: replace(estimate(*given, **of), residency=residency)
    )
    assert relative_where_lit(dp.reconstruct(scan, **options), expected) < 1e-5


def test_parts_of_an_h_that_is_not_assembled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of(tmp_path, "islands", 1e5)
    options: dict[str, Any] = {"sweeps": 6, "update_probe": False}
    expected = dp.reconstruct(scan, sync=dp.Sync("full", every=1, iterations=100), **options)
    monkeypatch.setattr(blockwise, "MOST_ASSEMBLED", 0)
    found = dp.reconstruct(scan, sync=dp.Sync("full", every=1, iterations=60), **options)
    assert relative_where_lit(found, expected) < 1e-3
    np.testing.assert_allclose(found["spread"], expected["spread"], rtol=1e-2)


# What is said


def test_parts_are_said_at_the_end_and_numbered_in_the_result(tmp_path: Path) -> None:
    scan = scan_of(tmp_path, "parked", None)
    with pytest.warns(UserWarning, match=r"falls into 2 parts \(of 25, 1 frames\)"):
        result = dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=2, sync=NONE)
    np.testing.assert_array_equal(result["part"], islands.number_parts(result["position"].values))
    assert result["part"].dtype == np.int64
    xr.testing.assert_equal(dp.open_result(tmp_path / "r.zarr")["part"], result["part"])


def test_one_part_is_not_worth_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    result = dp.reconstruct(scan_of(tmp_path, "comb", None), sweeps=2)
    assert not result["part"].any()
    assert not [warning for warning in recwarn if "parts" in str(warning.message)]


@pytest.mark.filterwarnings("always:the scan falls into")
def test_the_command_line_says_the_parts(tmp_path: Path) -> None:
    scan_of(tmp_path, "islands", 1e4)
    path, out = tmp_path / "islands-10000.0-8.zarr", tmp_path / "r.zarr"
    said = "falls into 2 parts (of 25, 25 frames)"
    assert said in run("info", path).stderr
    assert said in run("reconstruct", path, out, "--sweeps", 2).stderr
    assert "2, whose relative phases are not determined" in run("info", out).stdout
