"""Runs that are cut off and go on: to the result of a run that never stopped, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskptycho as dp
from tests.elsewhere import two_workers
from tests.stopping import Stop, stop_at
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "daskptycho"]
SWEEPS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture(scope="module")
def scan(folder: Path) -> xr.Dataset:
    """In tiles of two sizes, so that no part of the state fits its array by chance."""
    return dp.simulate_scan(
        folder / "scan.zarr", frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=10, modes=2
    )


def cut_off(scan: xr.Dataset, out: Path, at: int = 5, **options: Any) -> None:
    with pytest.raises(Stop):
        dp.reconstruct(scan, out, sweeps=SWEEPS, callback=stop_at(at), **options)


def assert_equal(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Bit by bit, but for the time that the sweeps took."""
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_probe": False, "momentum": 0.5},
        {"algorithm": dp.RAAR(0.9)},
        {"algorithm": "dm", "sync": dp.Sync("full", every=1)},
        {"start": "random", "seed": 5},
        {"start": "random", "sync": dp.Sync(inner=2)},
        {"subpixel": False, "sync": dp.Sync(method=None)},
    ],
    ids=str,
)
def test_resumed_run_equals_one_that_never_stopped(scan: xr.Dataset, tmp_path: Path, options: Any) -> None:
    expected = dp.reconstruct(scan, tmp_path / "whole.zarr", sweeps=SWEEPS, **options)
    cut_off(scan, tmp_path / "r.zarr", **options)
    assert not (tmp_path / "r.zarr").exists()
    found = dp.resume(tmp_path / "r.zarr")
    assert_equal(found, expected)
    assert found.attrs == expected.attrs
    xr.testing.assert_identical(dp.open_result(tmp_path / "r.zarr"), found)


def test_resumed_run_can_be_cut_off_again(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    cut_off(scan, out, 3)
    for sweep in (4, 6):
        with pytest.raises(Stop):
            dp.resume(out, callback=stop_at(sweep))
    seen: list[int] = []
    found = dp.resume(out, callback=lambda progress: seen.append(progress.sweep))
    assert seen == [7, 8, 9]
    assert_equal(found, dp.reconstruct(scan, sweeps=SWEEPS))


def test_run_that_is_done_gets_better_by_more_sweeps(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    dp.reconstruct(scan, out, sweeps=4)
    assert_equal(dp.resume(out, sweeps=SWEEPS), dp.reconstruct(scan, sweeps=SWEEPS))
    assert dp.open_result(out).sizes["sweep"] == SWEEPS
    # A run that is cut off after that knows what it was last asked for.
    with pytest.raises(Stop):
        dp.resume(out, sweeps=12, callback=stop_at(10))
    assert dp.resume(out).sizes["sweep"] == 12
    with pytest.raises(dp.OptionError, match="sweeps is 5 and 12 are done already; expected more"):
        dp.resume(out, sweeps=5)


def test_tolerance_that_is_reached_ends_a_resumed_run_too(scan: xr.Dataset, tmp_path: Path) -> None:
    expected = dp.reconstruct(scan, sweeps=SWEEPS)
    tolerance = float(expected["residual"][6]) * 1.0001
    cut_off(scan, tmp_path / "r.zarr", 3, tolerance=tolerance)
    found = dp.resume(tmp_path / "r.zarr")
    assert found.sizes["sweep"] <= 7
    assert found["residual"][-1] < tolerance
    assert dp.resume(tmp_path / "r.zarr").sizes["sweep"] == found.sizes["sweep"]


def test_scan_in_memory_is_given_again(scan: xr.Dataset, tmp_path: Path) -> None:
    ds = scan.compute().chunk({"frame": 18})
    ds.encoding.clear()
    out = tmp_path / "r.zarr"
    cut_off(ds, out)
    with pytest.raises(dp.ScanError, match="the run's scan was in memory; expected it as the option scan"):
        dp.resume(out)
    found = dp.resume(out, scan=ds.compute())
    assert_equal(found, dp.reconstruct(ds, sweeps=SWEEPS))


def brighter(scan: xr.Dataset) -> xr.Dataset:
    ds = scan.compute()
    ds["intensity"] = 2 * ds["intensity"]
    return ds


def shifted(scan: xr.Dataset) -> xr.Dataset:
    ds = scan.compute()
    ds["position"] = ds["position"] + 1
    ds["position"].attrs = scan["position"].attrs
    return ds


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda scan: scan.isel(frame=slice(20)), "the scan has 20 frames of 16 x 16 pixels; expected 36"),
        (shifted, "the scan has another position than the one that the run began with"),
        (brighter, "the scan's counts add up to"),
        (lambda scan: scan.assign_attrs(period=[50, 50]), r"the scan's period is \[50, 50\]; expected None"),
    ],
    ids=["part", "shifted", "brighter", "period"],
)
def test_another_scan_is_refused(scan: xr.Dataset, tmp_path: Path, other: Any, said: str) -> None:
    cut_off(scan, tmp_path / "r.zarr", 2)
    with pytest.raises(dp.ScanError, match=said):
        dp.resume(tmp_path / "r.zarr", scan=other(scan))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.zarr.checkpoints"]


def test_without_checkpoints_there_is_nothing_to_resume(scan: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(dp.ScanError, match=r"r\.zarr has no checkpoints"):
        dp.resume(tmp_path / "r.zarr")
    (tmp_path / "r.zarr.checkpoints").mkdir()
    with pytest.raises(dp.ScanError, match=r"r\.zarr has no checkpoints"):
        dp.resume(tmp_path / "r.zarr")


def test_earlier_run_is_not_lost_by_beginning_anew(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    cut_off(scan, out, 3)
    with pytest.raises(dp.ScanError, match="holds checkpoints of an earlier run; continue it with resume"):
        dp.reconstruct(scan, out, sweeps=2)
    dp.reconstruct(scan, out, sweeps=2, overwrite=True)
    assert [found.sweep for found in dp.checkpoints(out)] == [2]


def test_run_of_worker_processes_goes_on_in_threads_and_back(scan: xr.Dataset, tmp_path: Path) -> None:
    expected = dp.reconstruct(scan, sweeps=SWEEPS)
    with two_workers():
        cut_off(scan, tmp_path / "r.zarr", 4)
    with pytest.raises(Stop):
        dp.resume(tmp_path / "r.zarr", callback=stop_at(6))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        found = dp.resume(tmp_path / "r.zarr")
    assert_equal(found, expected)


# On the command line


def test_killed_run_is_resumed_on_the_command_line(scan: xr.Dataset, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    given = ("reconstruct", str(folder / "scan.zarr"), str(out), "--sweeps", "100000")
    process = subprocess.Popen(
        [*COMMAND, *given, "--checkpoint-every", "3"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: dp_checkpoints(out), process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "r.zarr.partial").exists()
    done = dp_checkpoints(out)[-1].sweep
    assert done % 3 == 0
    total = done + 4
    resumed = subprocess.run(
        [*COMMAND, "resume", str(out), "--sweeps", str(total)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"after {total} sweeps" in resumed.stdout
    assert_equal(dp.open_result(out), dp.reconstruct(scan, sweeps=total))
    assert not (tmp_path / "r.zarr.partial").exists()


def dp_checkpoints(out: Path) -> list[dp.Checkpoint]:
    """None yet is no error while a run is under way."""
    try:
        return dp.checkpoints(out)
    except dp.ScanError:
        return []
