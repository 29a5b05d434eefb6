"""A run gives the same image whatever the tiles, threads, workers and chunks, and leaves its scan alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import plain
from tests.elsewhere import two_workers
from tests.run.conftest import perturbed

NO_SYNC = dp.Sync(method=None)
EXACT = dp.Sync("full", every=1, iterations=200)


@pytest.fixture
def threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads"):
        yield


def images(ds: xr.Dataset, **options: Any) -> xr.Dataset:
    return dp.reconstruct(ds, **({"sweeps": 6, "sync": EXACT} | options))


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    assert plain.relative(found["object"].values, expected["object"].values) < 1e-5
    assert plain.relative(found["probe"].values, expected["probe"].values) < 1e-5
    for name in ("residual", "disagreement", "spread"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("simulated", "options"),
    [
        ({"jitter": 1}, {}),
        ({"jitter": 1, "subpixel": True, "modes": 2}, {"update_probe": True}),
        ({"periodic": True}, {"start": "random", "update_probe": False}),
        ({"jitter": 1}, {"sync": dp.Sync("full"), "update_probe": False, "sweeps": 4}),
    ],
    ids=["raster", "hard", "random", "default-sync"],
)
def test_tiles_change_nothing(tmp_path: Path, simulated: dict, options: dict) -> None:
    found = []
    for tile in (64, 16, 4):
        ds = dp.simulate_scan(
            tmp_path / f"{tile}.zarr", frames=(8, 8), frame_size=16, step=8, tile_frames=tile, **simulated
        )
        assert len(ds["intensity"].chunks[0]) == 64 // tile
        found.append(images(ds, **({"sweeps": 2} | options)))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])


def test_tiles_change_nothing_where_a_narrow_probe_leaves_pixels_dark(tmp_path: Path) -> None:
    y, x = np.mgrid[-8:8, -8:8]
    probe = np.exp(-(y**2 + x**2) / (2 * 1.6**2))
    found = [
        images(
            dp.simulate_scan(
                *(tmp_path / f"{tile}.zarr", (6, 6), 16, 3), jitter=1, probe=probe, tile_frames=tile
            ),
            update_probe=False,
            sync=NO_SYNC,
        )
        for tile in (36, 4)
    ]
    assert_same(found[1], found[0])


def test_threads_change_nothing(raster: xr.Dataset, tiled: xr.Dataset) -> None:
    expected = images(raster, sweeps=4)
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler, num_workers=4):
            assert_same(images(tiled, sweeps=4), expected)


@pytest.mark.timeout(100)
def test_worker_processes_change_nothing(scans: dict[str, xr.Dataset], tiled: xr.Dataset) -> None:
    """A cluster of two processes: every part of a run travels."""
    random: dict[str, Any] = {"start": "random", "update_probe": False, "algorithm": "raar", "sweeps": 1}
    periodic = scans["periodic"]
    raster = scans["raster"]
    expected = images(raster, sweeps=3), images(periodic, **random), images(raster, sweeps=1)
    seen = []
    with two_workers():
        run = images(tiled, sweeps=3, callback=lambda progress: seen.append(progress.object()))
        found = run, images(periodic.chunk({"frame": 32}), **random)
        in_memory = images(tiled.compute(), sweeps=1)
    for one, other in zip(found, expected[:2], strict=True):
        assert_same(one, other)
    assert_same(in_memory, expected[2])
    assert len(seen) == 3
    np.testing.assert_array_equal(seen[-1], run["object"])


@pytest.mark.usefixtures("threads")
def test_the_same_run_twice_is_the_same(scans: dict[str, xr.Dataset]) -> None:
    options: dict[str, Any] = {"start": "random", "update_probe": False, "sweeps": 4}
    first, second, other = (dp.reconstruct(scans["periodic"], seed=seed, **options) for seed in (1, 1, 2))
    assert_same(first, second)
    assert plain.relative(other["object"].values, first["object"].values) > 1e-2


def test_a_scan_may_live_in_memory_alone(raster: xr.Dataset) -> None:
    expected = images(raster, sweeps=3)
    assert_same(images(raster.compute(), sweeps=3), expected)
    assert_same(images(raster.compute().chunk({"frame": 20}), sweeps=3), expected)
    ds = xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), raster["intensity"].values),
            "position": (("frame", "axis"), raster["position"].values, {"units": "pixel"}),
        }
    )
    result = images(ds, probe=raster["probe"].values[0], sweeps=3)
    assert_same(result, expected)
    assert result.attrs["source"] == "memory"


def test_chunks_across_the_detector_change_nothing(raster: xr.Dataset) -> None:
    assert_same(images(raster.chunk({"qy": 8}), sweeps=2), images(raster, sweeps=2))


@pytest.mark.filterwarnings("ignore:the scan has a single frame")
def test_a_part_of_a_scan_is_a_scan(raster: xr.Dataset) -> None:
    result = dp.reconstruct(raster.isel(frame=slice(10, 40)), sweeps=3)
    assert result.sizes["frame"] == 30
    assert result["residual"][-1] < result["residual"][0]
    for count in (1, 2, 3):
        assert np.isfinite(dp.reconstruct(raster.isel(frame=slice(0, count)), sweeps=4)["residual"]).all()


def test_a_run_leaves_its_scan_alone(raster: xr.Dataset) -> None:
    before = raster.compute()
    probe, start = perturbed(raster), np.ones(raster["truth_object"].shape)
    kept = probe.copy(), start.copy()
    dp.reconstruct(raster, sweeps=2, probe=probe, start=start)
    xr.testing.assert_identical(raster.compute(), before)
    assert raster["intensity"].chunks is not None
    np.testing.assert_array_equal(probe, kept[0])
    np.testing.assert_array_equal(start, kept[1])
