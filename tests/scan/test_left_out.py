"""Frames that are left out stay in the scan, and nothing is computed from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.scan.dataset import tile_chunks
from daskptycho.scan.left_out import (
    leave_out_frames,
    list_numbers,
    read_numbers,
    spread_over_frames,
    take_used,
)
from tests.smooth_rendering import error_of, frames_at, probe_of, raster

BAD = [10, 30, 31]


@pytest.fixture
def scan(tmp_path: Path) -> xr.Dataset:
    return dp.simulate_scan(tmp_path / "s.zarr", (6, 5), 16, 4, photons=1e4, tile_frames=8)


def error_in(result: xr.Dataset) -> float:
    names = ("object", "y", "x", "illumination")
    return error_of(*(result[name].values for name in names))


def test_used_frames_are_taken_tile_by_tile(scan: xr.Dataset) -> None:
    number = scan["frame_number"].values
    # A whole tile and parts of others.
    bad = [*number[8:16], number[0], number[29]]
    taken = take_used(leave_out_frames(scan, bad))
    kept = ~np.isin(number, bad)
    assert tile_chunks(taken) == (7, 8, 5)
    assert "frame_used" not in taken
    for name in ("intensity", "position", "frame_number"):
        np.testing.assert_array_equal(taken[name], scan[name][kept])
    assert taken.encoding["source"] == scan.encoding["source"]


def test_a_mask_of_frames_is_in_the_order_of_acquisition(scan: xr.Dataset) -> None:
    mask = np.isin(np.arange(30), [0, 10, 29])
    left = ~leave_out_frames(scan, mask)["frame_used"].values
    assert set(scan["frame_number"].values[left].tolist()) == {0, 10, 29}


def test_a_scan_that_uses_all_frames_is_taken_as_it_is(scan: xr.Dataset) -> None:
    assert take_used(scan) is scan


def test_values_are_spread_over_all_frames() -> None:
    used = np.array([True, False, True])
    np.testing.assert_array_equal(spread_over_frames(used, np.array([1.5, 2.5])), [1.5, np.nan, 2.5])
    np.testing.assert_array_equal(spread_over_frames(used, np.array([4, 5])), [4, -1, 5])
    np.testing.assert_array_equal(spread_over_frames(used, np.ones(2, dtype=bool)), used)


def test_numbers_are_read_from_a_list_or_a_file(tmp_path: Path) -> None:
    assert read_numbers("3, 17,40-42") == (3, 17, 40, 41, 42)
    (tmp_path / "bad.txt").write_text("# frames\n3 17\n40-41\n\n5 # a dip\n")
    assert read_numbers(str(tmp_path / "bad.txt")) == (3, 17, 40, 41, 5)
    np.save(tmp_path / "bad.npy", [7, 9])
    assert read_numbers(str(tmp_path / "bad.npy")) == (7, 9)
    np.save(tmp_path / "mask.npy", np.isin(np.arange(12), [4, 11]))
    assert read_numbers(str(tmp_path / "mask.npy")) == (4, 11)
    for wrong in ("three", "5-3", "1.5", "missing.txt"):
        with pytest.raises(dp.OptionError, match="expected numbers of frames"):
            read_numbers(wrong)


def test_numbers_are_listed_in_words() -> None:
    assert list_numbers([3]) == "frame 3"
    assert list_numbers([3, 5, 9]) == "frames 3, 5 and 9"
    assert list_numbers(range(14)).endswith("8, 9 and 4 more")


def test_frames_that_the_scan_does_not_have_are_refused(scan: xr.Dataset, tmp_path: Path) -> None:
    for leave_out in ([30], [-1], [0.5], [True, False]):
        with pytest.raises(dp.OptionError, match="leave_out"):
            dp.reconstruct(scan, leave_out=leave_out)
    with pytest.raises(dp.ScanError, match="leave_out names every frame"):
        dp.reconstruct(scan, leave_out=range(30))


def test_a_run_without_some_frames_is_that_of_the_scan_without_them(tmp_path: Path) -> None:
    position = raster()
    counts = frames_at(position)
    kept = np.setdiff1d(np.arange(len(position)), BAD)
    known = {"probe": probe_of(), "position_unit": "pixel", "tile_frames": 9}
    whole = dp.create_scan(tmp_path / "whole.zarr", counts, position, **known)
    part = dp.create_scan(tmp_path / "part.zarr", counts[kept], position[kept], **known)
    options = {"sweeps": 20, "update_probe": False, "sync": dp.Sync("full")}
    left_out = dp.reconstruct(whole, leave_out=BAD, **options)
    alone = dp.reconstruct(part, **options)
    for name in ("object", "illumination"):
        np.testing.assert_allclose(left_out[name], alone[name], atol=2e-3 * abs(alone[name]).max())
    np.testing.assert_allclose(left_out["residual"], alone["residual"], rtol=1e-3)
    assert error_in(left_out) < 1.05 * error_in(alone) < 0.05


@pytest.mark.parametrize("filler", [0, np.nan], ids=["empty", "NaN"])
@pytest.mark.parametrize("sync", ["full", "two-level"])
def test_frames_without_counts_are_left_out_and_said(tmp_path: Path, filler: float, sync: str) -> None:
    position = raster()
    counts = frames_at(position).astype(float)
    good = dp.create_scan(
        tmp_path / "good.zarr", counts, position, probe=probe_of(), position_unit="pixel", leave_out=BAD
    )
    counts[BAD] = filler
    with pytest.warns(UserWarning, match="frames 10, 30 and 31 have no counts, and are left out"):
        dark = dp.create_scan(
            tmp_path / "dark.zarr", counts, position, probe=probe_of(), position_unit="pixel"
        )
    np.testing.assert_array_equal(np.sort(dark["frame_number"][~dark["frame_used"]]), BAD)
    options = {"sweeps": 30, "update_probe": False, "sync": dp.Sync(sync)}
    result, expected = (dp.reconstruct(scan, **options) for scan in (dark, good))
    assert error_in(result) < 1.05 * error_in(expected) < 0.05
    np.testing.assert_array_equal(result["frame_used"], dark["frame_used"])
    assert np.isnan(result["frame_residual"].values[~result["frame_used"]]).all()
    assert np.isfinite(result["frame_residual"].values[result["frame_used"]]).all()


def test_frames_of_a_scan_in_memory_are_left_out_too() -> None:
    position = raster()
    counts = frames_at(position)
    counts[BAD] = 0
    scan = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), counts),
            "position": (("frame", "axis"), position, {"units": "pixel"}),
            "probe": (("mode", "y", "x"), probe_of()[None]),
        }
    )
    with pytest.warns(UserWarning, match="frames 10, 30 and 31 have no counts, and are left out"):
        result = dp.reconstruct(scan, sweeps=20, update_probe=False)
    assert np.flatnonzero(~result["frame_used"].values).tolist() == BAD
    assert error_in(result) < 0.05


def test_a_scan_in_memory_may_lack_what_belongs_to_frames_that_are_left_out() -> None:
    position = raster()
    counts = frames_at(position).astype(float)
    counts[10], position[31] = np.nan, np.nan
    scan = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), counts),
            "position": (("frame", "axis"), position, {"units": "pixel"}),
            "probe": (("mode", "y", "x"), probe_of()[None]),
        }
    )
    with pytest.raises(dp.ScanError, match="position is not finite"):
        dp.reconstruct(scan, sweeps=1)
    result = dp.reconstruct(scan, sweeps=20, update_probe=False, leave_out=[10, 31])
    assert error_in(result) < 0.05
    with pytest.raises(dp.ScanError, match="the scan is a str without frames"):
        dp.reconstruct("scan.zarr", leave_out=[1])  # type: ignore[arg-type]


def test_a_resumed_run_leaves_out_the_same_frames(scan: xr.Dataset, tmp_path: Path) -> None:
    through = dp.reconstruct(scan, sweeps=6, leave_out=[2, 3])
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=3, leave_out=[2, 3], checkpoint_every=1)
    resumed = dp.resume(tmp_path / "r.zarr", sweeps=6)
    xr.testing.assert_equal(resumed.drop_vars("seconds"), through.drop_vars("seconds"))
    opened = dp.open_checkpoint(tmp_path / "r.zarr")
    np.testing.assert_array_equal(opened["frame_used"], through["frame_used"])
    np.testing.assert_array_equal(opened["object"], through["object"])


def test_a_frame_without_a_position_can_be_left_out(tmp_path: Path) -> None:
    position = raster()
    counts = frames_at(position)
    position[17] = np.nan
    known = {"probe": probe_of(), "position_unit": "pixel", "tile_frames": 9}
    with pytest.raises(dp.ScanError, match=r"frame 17: .* \(leave_out, --leave-out 17\)"):
        dp.create_scan(tmp_path / "s.zarr", counts, position, **known)
    scan = dp.create_scan(tmp_path / "s.zarr", counts, position, leave_out=[17], **known)
    result = dp.reconstruct(
        dp.open_scan(tmp_path / "s.zarr"), tmp_path / "r.zarr", sweeps=3, checkpoint_every=1
    )
    assert np.isfinite(result["object"]).all()
    resumed = dp.resume(tmp_path / "r.zarr", sweeps=4)
    assert resumed["frame_number"][~resumed["frame_used"]].values.tolist() == [17]
    assert scan.sizes["frame"] == resumed.sizes["frame"]


def test_arrays_hold_the_frames_that_are_used(scan: xr.Dataset) -> None:
    part = leave_out_frames(scan, [4, 5])
    amplitudes = dp.amplitudes(part)
    assert amplitudes.shape == (28, 16, 16)
    weighted = dp.weighted_frames(part)
    np.testing.assert_allclose(dp.gramian(part, weighted).matrix().diagonal().imag, 0, atol=1e-6)
    np.testing.assert_array_equal(
        amplitudes, dp.amplitudes(scan).compute()[~np.isin(scan["frame_number"].values, [4, 5])]
    )
