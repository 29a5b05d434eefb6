"""Frames, H and its phases as dask arrays: against the plainest NumPy, lazily, and on any scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.tasks import blockwise
from daskptycho.tasks.chunks import unwrap_chunk
from tests import plain

ROOT = Path(__file__).resolve().parents[1]

RASTER: dict[str, Any] = {"frames": (6, 6), "tile": (9, 9, 9, 9)}
HARD: dict[str, Any] = {**RASTER, "fractional": True, "modes": 2, "invalid": True}
PERIODIC: dict[str, Any] = {**RASTER, "periodic": True}
SCANS = pytest.mark.parametrize("options", [RASTER, HARD, PERIODIC], ids=["raster", "hard", "periodic"])


def noise_image(scan: xr.Dataset) -> np.ndarray:
    """A complex image on the scan's canvas."""
    return plain.complex_noise(np.random.default_rng(3), plain.tiling_of(scan).window.shape)


def model_intensity(scan: xr.Dataset, image: np.ndarray) -> np.ndarray:
    """Counts of frames at whole pixels that this image would give."""
    tiling = plain.tiling_of(scan)
    waves = plain.split(image, scan["probe"].values, tiling.corner - (tiling.window.y, tiling.window.x))
    return np.fft.fftshift((np.abs(plain.transform(waves)) ** 2).sum(axis=1), axes=(1, 2))


def plain_frames(scan: xr.Dataset, image: np.ndarray) -> np.ndarray:
    """Weighted frames of the data projections, in double precision."""
    tiling = plain.tiling_of(scan)
    probe = plain.shifted(scan["probe"].values, tiling.tiles[0].fraction)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    waves = plain.split(image, probe, corner)
    return plain.weigh(plain.project(waves, plain.amplitudes_of(scan).astype(float)), probe)


@SCANS
def test_amplitudes_are_the_roots_of_the_counts(options: dict[str, Any]) -> None:
    scan = plain.scan(**options)
    found = dp.amplitudes(scan)
    assert found.dtype == np.float32
    assert found.chunks == ((9, 9, 9, 9), (12,), (10,))
    np.testing.assert_allclose(found.compute(), plain.amplitudes_of(scan), rtol=1e-6)


def test_background_stays_in_the_amplitudes_and_is_part_of_the_model() -> None:
    scan = plain.scan(**RASTER)
    image, clean = noise_image(scan), scan.copy()
    with_background = scan.assign(background=(("qy", "qx"), np.full((12, 10), 0.5)))
    with_background["intensity"] = scan["intensity"].copy(data=model_intensity(scan, image) + 0.5)
    clean["intensity"] = scan["intensity"].copy(data=model_intensity(scan, image))
    np.testing.assert_allclose(
        dp.amplitudes(with_background).compute(), plain.amplitudes_of(with_background), rtol=1e-6
    )
    # Frames that hold the model and the background are those of the model, for this image.
    np.testing.assert_allclose(
        dp.weighted_frames(with_background, image).compute(),
        dp.weighted_frames(clean, image).compute(),
        rtol=1e-3,
        atol=1e-4,
    )


def test_amplitudes_of_frames_in_memory_have_a_chunk_for_each_tile() -> None:
    scan = plain.scan(frames=(4, 4))
    np.testing.assert_allclose(dp.amplitudes(scan).compute(), plain.amplitudes_of(scan), rtol=1e-6)


@SCANS
def test_weighted_frames_are_the_plain_ones(options: dict[str, Any]) -> None:
    scan = plain.scan(**options)
    image = noise_image(scan)
    found = dp.weighted_frames(scan, image)
    assert found.dtype == np.complex64
    assert found.chunks == ((9, 9, 9, 9), (12,), (10,))
    assert plain.relative(found.compute(), plain_frames(scan, image)) < 1e-5


def test_weighted_frames_begin_with_ones_and_take_another_probe() -> None:
    scan = plain.scan(**RASTER)
    ones = np.ones(plain.tiling_of(scan).window.shape, dtype=np.complex64)
    np.testing.assert_array_equal(
        dp.weighted_frames(scan).compute(), dp.weighted_frames(scan, ones).compute()
    )
    other = scan.copy()
    other["probe"] = scan["probe"] * np.complex64(2j)
    found = dp.weighted_frames(scan, ones, probe=other["probe"].values).compute()
    assert plain.relative(found, plain_frames(other, ones)) < 1e-5


def test_weighted_frames_take_amplitudes_that_somebody_changed() -> None:
    scan = plain.scan(**RASTER)
    doubled = dp.amplitudes(scan) * np.float32(2)
    found = dp.weighted_frames(scan, amplitudes=doubled).compute()
    assert plain.relative(found, 2 * dp.weighted_frames(scan).compute()) < 1e-6


def test_what_does_not_fit_is_refused() -> None:
    scan = plain.scan(**RASTER)
    with pytest.raises(dp.OptionError, match=r"image has shape \(3, 3\); expected the canvas's"):
        dp.weighted_frames(scan, np.ones((3, 3)))
    with pytest.raises(dp.OptionError, match="amplitudes has chunks"):
        dp.weighted_frames(scan, amplitudes=dp.amplitudes(scan).rechunk({0: 4}))
    with pytest.raises(dp.OptionError, match="amplitudes has chunks none"):
        dp.weighted_frames(scan, amplitudes=np.ones((36, 12, 10)))
    h = dp.gramian(scan, dp.weighted_frames(scan))
    with pytest.raises(dp.OptionError, match="iterations is -1"):
        dp.power_iteration(h, -1)
    with pytest.raises(dp.OptionError, match="normalisation is 'x'; expected 'degree' or 'frame'"):
        dp.phases(h, normalisation="x")  # type: ignore[arg-type]
    with pytest.raises(dp.OptionError, match="frames has chunks"):
        dp.gramian(scan, dp.weighted_frames(scan).rechunk({0: 12}))


def plain_gramian(scan: xr.Dataset, frames: np.ndarray) -> np.ndarray:
    tiling = plain.tiling_of(scan)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    light = plain.illumination_of(scan)
    # Darker than a thousandth of the probe's brightest pixel is dark.
    level = 1e-3 * (abs(scan["probe"].values) ** 2).sum(axis=0).max()
    return plain.gramian(frames, corner, np.where(light > level, light, 0))


@SCANS
def test_the_gramian_is_the_plain_one(options: dict[str, Any]) -> None:
    scan = plain.scan(**options)
    frames = dp.weighted_frames(scan, noise_image(scan))
    found = dp.gramian(scan, frames)
    tiles = {(own.row, own.column) for own in found.outline}
    assert found.values.numblocks == (len(tiles),)
    matrix = found.matrix().toarray()
    expected = plain_gramian(scan, frames.compute().astype(complex))
    if options.get("periodic"):
        # The plain one puts each frame on the canvas and misses no pair either.
        assert np.count_nonzero(matrix) == np.count_nonzero(abs(expected) > 1e-12)
    np.testing.assert_allclose(matrix, expected, atol=1e-6 * abs(expected).max())
    np.testing.assert_array_equal(matrix, matrix.conj().T)


@pytest.mark.parametrize("eigensolver", ["lanczos", "lobpcg", "power"])
def test_the_run_finds_the_phases_of_these_arrays(eigensolver: Any) -> None:
    """A sweep of `Sync("full")` turns its frames by what the arrays say of the image that it began with."""
    scan = plain.scan(**RASTER)
    image = noise_image(scan)
    sync = dp.Sync("full", eigensolver=eigensolver, iterations=40, every=1)
    options: dict[str, Any] = {"update_probe": False, "momentum": 0, "start": image, "sync": sync}
    options["algorithm"] = "ap"
    swept = dp.reconstruct(scan, sweeps=1, **options)
    frames = dp.weighted_frames(scan, image)
    h = dp.gramian(scan, frames)
    turned = (dp.phases(h, sync=sync)[:, None, None] * frames).compute()
    tiling = plain.tiling_of(scan)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    light = plain.illumination_of(scan)
    bright = light > 1e-2 * light.max()
    total = plain.overlap(turned.astype(complex), corner, tiling.window.shape)
    # The image is damped towards the one before.
    damping = 1e-3 * (abs(scan["probe"].values) ** 2).sum(axis=0).max()
    expected = (total + damping * image) / (light + damping)
    assert plain.relative(swept["object"].values[bright], expected[bright]) < 1e-5
    found = unwrap_chunk(blockwise.find_phases(h, sync, "degree").compute())
    assert float(swept["disagreement"][0]) == pytest.approx(found.disagreement, rel=1e-5)


@pytest.mark.parametrize("normalisation", ["degree", "frame"])
def test_power_iteration_finds_the_leading_eigenvector(normalisation: Any) -> None:
    scan = plain.scan(**RASTER)
    h = dp.gramian(scan, dp.weighted_frames(scan, noise_image(scan)))
    matrix = h.matrix().toarray()
    measured = np.maximum(plain.amplitudes_of(scan), 0).astype(float)
    squared = abs(matrix).sum(axis=1) if normalisation == "degree" else (measured**2).sum(axis=(1, 2))
    _, vectors = np.linalg.eigh(matrix / np.sqrt(np.outer(squared, squared)))
    found = dp.power_iteration(h, 2000, normalisation=normalisation)
    assert found.chunks == ((9, 9, 9, 9),)
    assert abs(np.vdot(found.compute(), vectors[:, -1])) == pytest.approx(1, abs=1e-6)
    exact = dp.Sync("full", iterations=len(matrix))
    phases = dp.phases(h, normalisation=normalisation, sync=exact)
    assert phases.chunks == ((9, 9, 9, 9),)
    turned = phases.compute() * (vectors[:, -1] / abs(vectors[:, -1])).conj()
    np.testing.assert_allclose(turned, turned[0], atol=1e-5)


def test_a_matrix_that_no_worker_should_hold_is_not_assembled(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = plain.scan(**RASTER)
    h = dp.gramian(scan, dp.weighted_frames(scan, noise_image(scan)))
    expected = dp.phases(h, sync=dp.Sync("full", iterations=36)).compute()
    monkeypatch.setattr(blockwise, "MOST_ASSEMBLED", 0)
    found = dp.phases(h, sync=dp.Sync("full", iterations=60)).compute()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    """A graph names the store; it holds no frames."""
    scan = dp.simulate_scan(tmp_path / "s.zarr", frames=(8, 8), frame_size=32, step=8, tile_frames=16)
    h = dp.gramian(scan, dp.weighted_frames(scan))
    vector = dp.power_iteration(h, 5)
    tasks = dict(vector.__dask_graph__())
    one_tile = 16 * 32 * 32 * 2
    assert len(tasks) > 20
    # The probe is in there once for each of the two functions that need it.
    assert sum(len(cloudpickle.dumps(task)) for task in tasks.values()) < 3 * one_tile * 4
    assert max(len(cloudpickle.dumps(task)) for task in tasks.values()) < one_tile


def test_they_compose_with_other_dask_arrays() -> None:
    scan = plain.scan(**RASTER)
    amplitude = dp.amplitudes(scan)
    power = (da.maximum(amplitude, 0) ** 2).sum(axis=(1, 2))
    expected = np.maximum(plain.amplitudes_of(scan), 0) ** 2
    np.testing.assert_allclose(power.compute(), expected.sum(axis=(1, 2)), rtol=1e-5)
    frames = dp.weighted_frames(scan).persist()
    both = dask.compute(abs(frames).max(), dp.phases(dp.gramian(scan, frames)))
    assert both[0] > 0
    np.testing.assert_allclose(abs(both[1]), 1, rtol=1e-5)


def test_a_cluster_finds_the_same(tmp_path: Path) -> None:
    scan = dp.simulate_scan(tmp_path / "s.zarr", frames=(8, 8), frame_size=16, step=4, tile_frames=16)

    def find() -> Any:
        h = dp.gramian(scan, dp.weighted_frames(scan))
        return dask.compute(h.values, dp.power_iteration(h, 20), dp.phases(h))

    expected = find()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        found = find()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


PLANNED = """
import sys, numpy as np, dask.array as da, daskptycho as dp
size = dict(frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=9)
scan = dp.simulate_scan(sys.argv[1] + "/s.zarr", **size)
copy = dp.create_scan(sys.argv[1] + "/c.zarr", scan["intensity"].data[::-1], scan["position"].values[::-1],
                      probe=scan["probe"].values, position_unit="pixel", tile_frames=9)
found = [dp.reconstruct(own, sweeps=3, sync=dp.Sync(method))["object"].values
         for own in (scan, copy) for method in ("two-level", "full")]
h = dp.gramian(scan, dp.weighted_frames(scan))
found += [h.matrix().toarray(), dp.power_iteration(h, 9).compute(), dp.phases(h).compute()]
np.savez(sys.argv[1] + "/found.npz", *found)
print(da.Array.__module__)
"""


def test_query_planning_of_arrays_changes_nothing(tmp_path: Path) -> None:
    """Dask reads the setting when it is imported: each is a process of its own."""
    found = {}
    modules = set()
    for planning in ("False", "True"):
        folder = tmp_path / planning
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PLANNED, folder],
            env=os.environ | {"DASK_ARRAY__QUERY_PLANNING": planning, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        if "No module named 'dask_expr'" in done.stderr:
            pytest.skip("this Dask plans queries with dask-expr, which is not installed")
        assert done.returncode == 0, done.stderr
        modules.add(done.stdout.strip())
        with np.load(folder / "found.npz") as arrays:
            found[planning] = [arrays[name] for name in arrays.files]
    if len(modules) == 1:
        pytest.skip("this Dask has arrays of one kind only")
    for planned, usual in zip(found["True"], found["False"], strict=True):
        np.testing.assert_array_equal(planned, usual)


def test_chunks_are_cupys_on_a_gpu(standin: Any) -> None:
    """On a stand-in for CuPy, which refuses to mix arrays of host and device."""
    scan = plain.scan(**HARD)
    image = noise_image(scan)
    expected = dp.gramian(scan, dp.weighted_frames(scan, image)).values.compute()
    frames = dp.weighted_frames(scan, image, device="gpu")
    h = dp.gramian(scan, frames, device="gpu")
    with dask.config.set(scheduler="synchronous"):
        assert isinstance(frames.blocks[0].compute(), standin.ndarray)
        values = [h.values.blocks[number].compute().get() for number in range(len(h.outline))]
    np.testing.assert_allclose(np.concatenate(values), expected, atol=1e-5 * abs(expected).max())
