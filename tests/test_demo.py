"""The demonstration shows what it claims, writes four things and can be repeated."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from daskptycho.demo import Demo, run_demo, uneven_sample
from daskptycho.errors import ScanError
from daskptycho.run.loop import Progress

WRITTEN = ["scan.zarr", "sync-difference.png", "with-sync.zarr", "without-sync.zarr"]
SWEEPS = 20


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo"), frames=(16, 16), frame_size=16, step=4, sweeps=SWEEPS)


def test_sync_takes_away_the_error_that_is_as_wide_as_the_field(demo: Demo) -> None:
    without, with_sync = demo.error["without sync"], demo.error["with sync"]
    assert len(without) == len(with_sync) == SWEEPS
    assert without[-1] > 0.3
    assert with_sync[-1] < 0.3 * without[-1]
    assert np.isnan(demo.results["without sync"]["disagreement"]).all()


def test_folder_holds_the_scan_both_results_and_one_picture(demo: Demo) -> None:
    assert sorted(path.name for path in demo.scan.parent.iterdir()) == WRITTEN
    assert demo.scan.name == "scan.zarr"
    for name, result in demo.results.items():
        stored = xr.open_zarr(demo.scan.parent / f"{name.replace(' ', '-')}.zarr")
        np.testing.assert_array_equal(stored["object"], result["object"])
    with Image.open(demo.picture) as picture:
        assert picture.width > 800
        # A picture of something: many colours, not one.
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 1000


def test_second_call_replaces_its_own_output_and_reports_every_step(demo: Demo, tmp_path: Path) -> None:
    shutil.copytree(demo.scan.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    frames, sweeps = [], []

    def on_sweep(name: str, state: Progress) -> None:
        sweeps.append((name, state.sweep))

    second = run_demo(
        tmp_path,
        frames=(6, 6),
        frame_size=16,
        step=4,
        sweeps=2,
        on_frames=lambda *done: frames.append(done),
        on_sweep=on_sweep,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*WRITTEN, "notes.txt"])
    assert frames[-1] == (36, 36)
    assert sweeps == [(name, n) for name in ("without sync", "with sync") for n in (1, 2)]
    assert len(second.error["with sync"]) == 2
    assert xr.open_zarr(second.scan).sizes["frame"] == 36
    assert second.picture.read_bytes() != demo.picture.read_bytes()


def test_somebody_elses_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "scan.zarr").mkdir()
    (tmp_path / "scan.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(ScanError, match="not overwritten"):
        run_demo(tmp_path, frames=(6, 6), frame_size=16, step=4, sweeps=2)
    assert (tmp_path / "scan.zarr" / "thesis.tex").read_text() == "years of work"


def test_sample_is_smooth_over_the_field_and_as_large_as_asked() -> None:
    sample = uneven_sample((120, 90))
    assert sample.shape == (120, 90)
    # Hills and valleys: the phase, averaged over a frame's size, ranges over more than two radians.
    blocks = np.angle(sample.reshape(12, 10, 9, 10).mean(axis=(1, 3)))
    assert np.ptp(blocks) > 2
