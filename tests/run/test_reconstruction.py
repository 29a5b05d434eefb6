"""Runs from a scan to a result: near the truth, the same on any scheduler, refused before work starts."""

from __future__ import annotations

import bz2
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskptycho as dp
from tests import plain

NO_SYNC = dp.Sync(method=None)
EXACT = dp.Sync("full", every=1, iterations=200)

SIMULATED: dict[str, dict[str, Any]] = {
    "raster": {"jitter": 1},
    "fractional": {"jitter": 1, "subpixel": True},
    "modes": {"jitter": 1, "modes": 2},
    "spiral": {"pattern": "spiral"},
    "periodic": {"periodic": True},
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """Simulated scans of 8 x 8 frames, each one tile."""
    folder = tmp_path_factory.mktemp("scans")
    return {
        name: dp.simulate_scan(folder / f"{name}.zarr", frames=(8, 8), frame_size=16, step=4, **options)
        for name, options in SIMULATED.items()
    }


@pytest.fixture
def raster(scans: dict[str, xr.Dataset]) -> xr.Dataset:
    return scans["raster"]


@pytest.fixture
def tiled(raster: xr.Dataset) -> xr.Dataset:
    """The same frames in four tiles."""
    return raster.chunk({"frame": 16})


@pytest.fixture
def small() -> xr.Dataset:
    """A scan in memory for runs that only have to run."""
    return plain.scan(frames=(3, 3))


@pytest.fixture
def threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads"):
        yield


def error(result: xr.Dataset, ds: xr.Dataset) -> float:
    """Relative error of the image where it is lit, up to a constant factor."""
    lit = result["illumination"].values
    well = lit > 0.1 * lit.max()
    return plain.relative_up_to_a_factor(result["object"].values[well], ds["truth_object"].values[well])


def registered_error(result: xr.Dataset, ds: xr.Dataset) -> float:
    """Likewise up to a shift and a phase ramp, which a recovered probe leaves open."""
    return dp.compare_images(result["object"], ds["truth_object"], weight=result["illumination"]).error


def perturbed(ds: xr.Dataset, by: float = 0.2) -> np.ndarray:
    """The scan's probe with noise in amplitude and phase, at another scale."""
    random = np.random.default_rng(0)
    probe = ds["probe"].values
    noise = (1 + by * random.normal(size=probe.shape)) * np.exp(1j * by * random.normal(size=probe.shape))
    return 7 * probe * noise


# Near the truth


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
    consensus = result["consensus"].dropna("sweep").values
    assert consensus[0] > 0.05
    assert consensus[-1] < 1e-4


def test_opening_is_for_random_starts_that_are_synchronised(scans: dict[str, xr.Dataset]) -> None:
    def last(**options: Any) -> float:
        given: dict[str, Any] = {"sweeps": 4, "update_probe": False, "start": "random"}
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


# The same image everywhere


def images(ds: xr.Dataset, **options: Any) -> xr.Dataset:
    return dp.reconstruct(ds, **({"sweeps": 6, "sync": EXACT} | options))


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    assert plain.relative(found["object"].values, expected["object"].values) < 1e-5
    assert plain.relative(found["probe"].values, expected["probe"].values) < 1e-5
    for name in ("residual", "consensus", "spread"):
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


def test_worker_processes_change_nothing(scans: dict[str, xr.Dataset], tiled: xr.Dataset) -> None:
    """A cluster of two processes: every part of a run travels."""
    random: dict[str, Any] = {"start": "random", "update_probe": False, "algorithm": "raar", "sweeps": 1}
    periodic = scans["periodic"]
    raster = scans["raster"]
    expected = images(raster, sweeps=3), images(periodic, **random), images(raster, sweeps=1)
    seen = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster),
    ):
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


# History, callback, tolerance


def test_history_has_an_entry_a_sweep(small: xr.Dataset) -> None:
    result = dp.reconstruct(small, sweeps=7, sync=dp.Sync(every=3))
    np.testing.assert_array_equal(result["sweep"], range(1, 8))
    assert (result["seconds"] > 0).all()
    assert (result["residual"] > 0).all()
    synced = [1, 4, 7]
    for name in ("consensus", "spread"):
        there = result["sweep"].values[np.isfinite(result[name])]
        np.testing.assert_array_equal(there, synced)


@pytest.mark.parametrize("start", ["ones", "random"])
def test_without_sync_there_is_no_consensus(small: xr.Dataset, start: Any) -> None:
    result = dp.reconstruct(small, sweeps=3, sync=NO_SYNC, start=start)
    assert np.isnan(result["consensus"]).all()
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
        f"go on with: daskptycho resume {tmp_path}/new/r.zarr"
    ]
    with pytest.raises(type(failure)) as failed:
        dp.reconstruct(small, tmp_path / "off.zarr", checkpoint_minutes=None, callback=callback)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert failed.value.__notes__[-1:] == ["The 2 sweeps done are lost: no checkpoints were asked for."]


def test_a_run_that_fails_before_its_first_sweep_leaves_nothing(
    small: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(loop: Any) -> None:
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


# Refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sweeps": 0}, "sweeps is 0; expected a whole number, 1 or more"),
        ({"sweeps": -1}, "sweeps is -1"),
        ({"sweeps": 2.5}, "sweeps is 2.5"),
        ({"sweeps": "many"}, "sweeps is 'many'"),
        ({"algorithm": "epie"}, "algorithm is 'epie'; expected one of ap, raar, dm"),
        ({"opening": "epie"}, "algorithm is 'epie'; expected one of ap, raar, dm"),
        ({"momentum": 1}, "momentum is 1; expected 'nesterov' or a number from 0 to below 1"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"momentum": float("nan")}, "momentum is nan"),
        ({"momentum": "heavy"}, "momentum is 'heavy'"),
        ({"momentum": 0.5, "algorithm": "raar"}, "momentum is 0.5 with raar; only ap takes a momentum"),
        ({"momentum": "nesterov", "algorithm": "dm"}, "momentum is 'nesterov' with dm"),
        ({"start": "zeros"}, "start is 'zeros'; expected 'ones', 'random' or an array"),
        ({"start": np.ones((3, 3))}, "start has shape (3, 3); expected the canvas's"),
        ({"start": np.ones(7)}, "start has shape (7,)"),
        ({"probe": np.ones((5, 5))}, "probe has shape (1, 5, 5); expected (mode, y, x)"),
        ({"modes": 0}, "modes is 0; expected a whole number, 1 or more"),
        ({"modes": 1.5}, "modes is 1.5"),
        ({"tolerance": 0}, "tolerance is 0; expected above 0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    small: xr.Dataset, tmp_path: Path, options: dict, said: str
) -> None:
    swept: list[dp.Progress] = []
    with pytest.raises(dp.OptionError) as refused:
        dp.reconstruct(small, tmp_path / "r.zarr", callback=swept.append, **options)
    assert said in str(refused.value)
    assert swept == []
    assert list(tmp_path.iterdir()) == []


def test_a_scan_without_a_probe_needs_one(small: xr.Dataset) -> None:
    with pytest.raises(dp.OptionError, match="the scan has no probe; expected a first guess"):
        dp.reconstruct(small.drop_vars("probe"), sweeps=1)


BAD_SCANS: dict[str, tuple[Any, str]] = {
    "no counts": (lambda ds: ds.assign(intensity=0 * ds["intensity"]), "intensity holds no counts at all"),
    "no frames": (lambda ds: ds.drop_vars("intensity"), "intensity is missing"),
    "no positions": (lambda ds: ds.drop_vars("position"), "position is missing"),
    "negative": (lambda ds: ds.assign(intensity=-ds["intensity"]), "negative"),
    "nan": (lambda ds: ds.assign(intensity=ds["intensity"] * np.nan), "NaN"),
    "a path": (lambda ds: "scan.zarr", "expected an xarray.Dataset, as from open_scan"),
    "an array": (lambda ds: ds["intensity"].values, "expected an xarray.Dataset"),
}


@pytest.mark.parametrize(("change", "said"), BAD_SCANS.values(), ids=BAD_SCANS.keys())
def test_scans_that_cannot_be_right_are_refused(
    small: xr.Dataset, tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(dp.ScanError) as refused:
        dp.reconstruct(change(small), tmp_path / "r.zarr", sweeps=1)
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_read_late_are_refused_when_they_are(small: xr.Dataset) -> None:
    ds = small.chunk({"frame": 3})
    with pytest.raises(dp.ScanError):
        dp.reconstruct(ds.assign(intensity=ds["intensity"] * np.nan), sweeps=1, sync=NO_SYNC)


WRONG: dict[str, dict[str, Any]] = {
    "start given": {"start": "given"},
    "start nan": {"start": np.full((21, 19), np.nan)},
    "seed negative": {"start": "random", "seed": -1},
    "seed fraction": {"start": "random", "seed": 1.5},
    "probe of zeros": {"probe": np.zeros((12, 10))},
    "probe of nan": {"probe": np.full((12, 10), np.nan)},
    "sync text": {"sync": "full"},
    "sync false": {"sync": False},
    "algorithm number": {"algorithm": 42},
    "tolerance text": {"tolerance": "small"},
    "callback number": {"callback": 3},
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG.keys())
def test_more_options_that_make_no_sense_are_refused(small: xr.Dataset, options: dict) -> None:
    if "start" in options and not isinstance(options["start"], str):
        options = options | {"start": np.full(plain.tiling_of(small).window.shape, np.nan)}
    with pytest.raises(dp.OptionError):
        dp.reconstruct(small, **{"sweeps": 1} | options)


NUMPY: dict[str, dict[str, Any]] = {
    "sweeps": {"sweeps": np.int64(2)},
    "seed": {"seed": np.int64(2)},
    "tolerance": {"tolerance": np.float32(1e-9)},
    "update_probe": {"update_probe": np.bool_(True)},
    "momentum": {"momentum": np.float32(0.5)},
    "modes": {"modes": np.int64(2)},
    "beta": {"algorithm": dp.RAAR(beta=np.float32(0.75))},
}


@pytest.mark.parametrize("options", NUMPY.values(), ids=NUMPY.keys())
def test_options_may_be_numpys_numbers(small: xr.Dataset, options: dict) -> None:
    result = dp.reconstruct(small, **{"sweeps": 2} | options)
    assert isinstance(json.loads(result.attrs["options"]), dict)
