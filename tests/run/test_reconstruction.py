"""What a run tells while it goes, where it stops, and what it leaves in its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import plain

NO_SYNC = dp.Sync(method=None)


# History, callback, tolerance


def test_history_has_an_entry_a_sweep(small: xr.Dataset) -> None:
    result = dp.reconstruct(small, sweeps=7, sync=dp.Sync(every=3))
    np.testing.assert_array_equal(result["sweep"], range(1, 8))
    assert (result["seconds"] > 0).all()
    assert (result["residual"] > 0).all()
    synced = [1, 4, 7]
    for name in ("disagreement", "spread"):
        there = result["sweep"].values[np.isfinite(result[name])]
        np.testing.assert_array_equal(there, synced)


@pytest.mark.parametrize("start", ["ones", "random"])
def test_without_sync_no_disagreement_is_known(small: xr.Dataset, start: Any) -> None:
    result = dp.reconstruct(small, sweeps=3, sync=NO_SYNC, start=start)
    assert np.isnan(result["disagreement"]).all()
    assert np.isnan(result["spread"]).all()


def test_callback_sees_every_sweep(small: xr.Dataset) -> None:
    seen = []

    def callback(progress: dp.Progress) -> None:
        image, probe = progress.object(), progress.probe()
        seen.append((progress.sweep, progress.residual, progress.seconds, image, probe))

    result = dp.reconstruct(small, sweeps=4, callback=callback)
    sweep, residual, seconds, image, probe = (list(part) for part in zip(*seen, strict=True))
    assert sweep == [1, 2, 3, 4]
    np.testing.assert_array_equal(residual, result["residual"])
    np.testing.assert_array_equal(seconds, result["seconds"])
    assert all(one.shape == result["object"].shape for one in image)
    np.testing.assert_array_equal(image[-1], result["object"])
    np.testing.assert_array_equal(probe[-1], result["probe"])
    assert plain.relative(image[0], image[-1]) > 1e-3


def test_callback_that_returns_true_stops_the_run(small: xr.Dataset) -> None:
    result = dp.reconstruct(small, sweeps=50, callback=lambda progress: progress.sweep == 3)
    assert result.sizes["sweep"] == 3


def test_images_of_older_sweeps_are_gone_and_say_so(small: xr.Dataset) -> None:
    kept: list[dp.Progress] = []
    dp.reconstruct(small, sweeps=3, callback=kept.append)
    assert kept[-1].object().dtype == np.complex64
    with pytest.raises(RuntimeError, match="the image of sweep 1 is gone; ask for it inside the callback"):
        kept[0].object()


def test_run_stops_below_the_tolerance(raster: xr.Dataset) -> None:
    result = dp.reconstruct(raster, sweeps=60, update_probe=False, tolerance=1e-3)
    residual = result["residual"].values
    assert len(residual) < 60
    assert residual[-1] < 1e-3
    assert (residual[:-1] >= 1e-3).all()


# The store


def test_result_is_written_whole(small: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.zarr"
    result = dp.reconstruct(small, out, sweeps=2, callback=lambda progress: not out.exists() and None)
    xr.testing.assert_identical(dp.open_result(out), result)
    assert sorted(path.name for path in out.parent.iterdir()) == ["r.zarr", "r.zarr.checkpoints"]


@pytest.mark.parametrize("failure", [RuntimeError("stop"), KeyboardInterrupt()], ids=repr)
def test_a_run_that_fails_leaves_its_checkpoints_alone(
    small: xr.Dataset, tmp_path: Path, failure: BaseException
) -> None:
    def callback(progress: dp.Progress) -> None:
        if progress.sweep == 2:
            raise failure

    with pytest.raises(type(failure)) as failed:
        dp.reconstruct(small, tmp_path / "new" / "r.zarr", sweeps=3, callback=callback)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["r.zarr.checkpoints"]
    assert failed.value.__notes__ == [
        f"Sweep 2 is kept in {tmp_path}/new/r.zarr.checkpoints; "
        f"resume with: daskptycho resume {tmp_path}/new/r.zarr"
    ]
    with pytest.raises(type(failure)) as failed:
        dp.reconstruct(small, tmp_path / "off.zarr", checkpoint_minutes=None, callback=callback)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert failed.value.__notes__[-1:] == ["The 2 sweeps done are lost: no checkpoints were asked for."]


def test_a_run_that_fails_before_its_first_sweep_leaves_nothing(
    small: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("daskptycho.run.loop.Loop.advance", fail)
    with pytest.raises(KeyboardInterrupt) as failed:
        dp.reconstruct(small, tmp_path / "new" / "r.zarr", sweeps=2)
    assert failed.value.__notes__ == ["There is no checkpoint yet."]
    assert list(tmp_path.iterdir()) == []


def test_what_lies_there_is_refused_before_work_starts(small: xr.Dataset, tmp_path: Path) -> None:
    dp.reconstruct(small, tmp_path / "r.zarr", sweeps=1)
    swept = []
    with pytest.raises(dp.ScanError, match="exists already; pass overwrite=True"):
        dp.reconstruct(small, tmp_path / "r.zarr", sweeps=2, callback=swept.append)
    assert swept == []
    assert dp.open_result(tmp_path / "r.zarr").sizes["sweep"] == 1
    dp.reconstruct(small, tmp_path / "r.zarr", sweeps=2, overwrite=True)
    assert dp.open_result(tmp_path / "r.zarr").sizes["sweep"] == 2


def test_a_failure_while_overwriting_keeps_the_old_result(small: xr.Dataset, tmp_path: Path) -> None:
    first = dp.reconstruct(small, tmp_path / "r.zarr", sweeps=1)
    with pytest.raises(dp.OptionError):
        dp.reconstruct(small, tmp_path / "r.zarr", sweeps=1, modes=0, overwrite=True)
    xr.testing.assert_identical(dp.open_result(tmp_path / "r.zarr"), first)


def test_a_result_never_takes_the_place_of_its_scan(tmp_path: Path) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", frames=(2, 2), frame_size=8, step=4)
    with pytest.raises((dp.ScanError, dp.OptionError)):
        dp.reconstruct(ds, tmp_path / "s.zarr", sweeps=1, overwrite=True)
    assert dp.open_scan(tmp_path / "s.zarr").sizes["frame"] == 4
