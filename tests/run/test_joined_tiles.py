"""Tiles of a scan that a run joins: the image, the frames, resuming, memory, and the number of tasks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho.cluster.workers import Workers
from daskptycho.model.probe import Probe
from daskptycho.run import fitting
from daskptycho.run.fitting import fit_options, fit_tiles
from daskptycho.run.memory import FULL, count_sweep_tasks
from daskptycho.run.options import Recipe, check_options
from daskptycho.scan.dataset import tile_chunks
from daskptycho.scan.tiles import join_consecutive, lay_out_tiles
from daskptycho.tasks.layout import Residency
from daskptycho.tiling import Tiling, compact_order, make_tiling
from tests import plain
from tests.elsewhere import two_workers
from tests.run.test_resumption import assert_equal
from tests.stopping import Stop, stop_at
from tests.test_cli import read_facts, run

# Stored tiles of the scan; the run joins them to 16.
STORED, JOINED = 36, 16
KNOWN = (Probe(recovered=False),)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("joined")
    return dp.simulate_scan(
        folder / "scan.zarr", frames=(12, 12), frame_size=16, step=4, jitter=1, tile_frames=4
    )


def as_it_is_stored(monkeypatch: pytest.MonkeyPatch, scan: xr.Dataset, **options: Any) -> xr.Dataset:
    with monkeypatch.context() as patched:
        patched.setattr(fitting, "JOINED_PIXELS", ())
        return dp.reconstruct(scan, **options)


def tiles_of(scan: xr.Dataset, **options: Any) -> int:
    """Number of tiles that a run has."""
    found: list[Tiling] = []
    dp.reconstruct(scan, callback=lambda progress: found.append(progress.tiling), **{"sweeps": 1, **options})
    return len(found[0].tiles)


# What is joined


@given(
    side=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    tile_frames=st.integers(1, 9),
    most=st.integers(1, 60),
    least=st.integers(1, 20),
    in_order=st.booleans(),
)
def test_joined_tiles_are_runs_of_stored_ones(
    side: tuple[int, int], tile_frames: int, most: int, least: int, in_order: bool
) -> None:
    position = 4.0 * np.stack(np.divmod(np.arange(side[0] * side[1]), side[1]), axis=1)
    order = compact_order(position, tile_frames)
    if not in_order:
        order = np.random.default_rng(0).permutation(order)
    frames = len(order)
    stored = tuple(min(tile_frames, frames - start) for start in range(0, frames, tile_frames))
    tiling = make_tiling(position[order], (8, 8), stored)
    chunks = join_consecutive(tiling, most, least)
    assert set(np.cumsum(chunks)) <= set(np.cumsum(stored))
    assert sum(chunks) == frames
    assert len(chunks) >= min(least, len(stored))
    assert all(count <= most or count in stored for count in chunks)
    pixels = [
        sum(math.prod(tile.window.shape) for tile in laid_out.tiles)
        for laid_out in (make_tiling(position[order], (8, 8), chunks), tiling)
    ]
    assert pixels[0] <= pixels[1]


def test_a_scan_in_few_tiles_keeps_them(scan: xr.Dataset) -> None:
    assert len(tile_chunks(scan)) == STORED
    assert tiles_of(scan) == JOINED
    assert tiles_of(scan.chunk({"frame": 9})) == 16
    assert tiles_of(scan.chunk({"frame": 12})) == 12
    assert tiles_of(scan.compute()) == 1


def test_many_threads_have_enough_tiles(scan: xr.Dataset) -> None:
    with dask.config.set(scheduler="threads", num_workers=8):
        assert tiles_of(scan) == 32


# The same image


@pytest.mark.parametrize(
    "options",
    [
        {"update_probe": False, "algorithm": "ap"},
        {"update_probe": False, "opening": None},
        {"update_probe": True},
        {"start": "random", "update_probe": False, "algorithm": "raar"},
    ],
    ids=["ap", "lbfgs", "probe", "random"],
)
def test_joined_tiles_change_nothing(
    scan: xr.Dataset, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"sweeps": 3, "sync": dp.Sync("full", every=1, iterations=200), **options}
    found, expected = dp.reconstruct(scan, **options), as_it_is_stored(monkeypatch, scan, **options)
    assert plain.relative(found["object"].values, expected["object"].values) < 1e-5
    assert plain.relative(found["probe"].values, expected["probe"].values) < 1e-5
    np.testing.assert_array_equal(found["frame_number"], expected["frame_number"])
    np.testing.assert_allclose(found["frame_residual"], expected["frame_residual"], rtol=1e-3)
    np.testing.assert_allclose(found["residual"], expected["residual"], rtol=1e-4)


@pytest.mark.parametrize("moves", [False, True], ids=["frames that stay", "frames that move"])
def test_what_belongs_to_a_pixel_or_a_frame_stays_with_it(
    scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    valid = np.ones((16, 16), dtype=bool)
    valid[3, 5:9] = False
    numbers = scan["frame_number"].values
    # All frames of one stored tile, and one of the next.
    left_out = numbers[8:13]
    gain = 1 + 0.2 * np.sin(np.arange(len(numbers)))
    scan = scan.assign(valid=(("qy", "qx"), valid), gain=("frame", gain))
    scan["background"] = (("qy", "qx"), np.full((16, 16), 0.5, dtype=np.float32))
    refine = ["gain", dp.Positions(start=3) if moves else "positions"]
    options: dict[str, Any] = {
        **{"sweeps": 10 if moves else 3, "sync": dp.Sync("full", every=1, iterations=200)},
        **{"leave_out": left_out, "refine": refine, "algorithm": "ap", "update_probe": False},
    }
    found, expected = dp.reconstruct(scan, **options), as_it_is_stored(monkeypatch, scan, **options)
    apart = found["position"].values - expected["position"].values
    if moves:
        assert abs(found["position"] - found["position_given"]).max() > 0.1
        # Tiles agree but for the seams.
        assert plain.relative(found["object"].values, expected["object"].values) < 0.02
        assert np.sqrt((apart**2).mean()) < 0.05
        np.testing.assert_allclose(found["gain"], expected["gain"], rtol=1e-2)
    else:
        assert plain.relative(found["object"].values, expected["object"].values) < 1e-5
        for name in ("gain", "position", "frame_residual", "frame_overlap"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-3)
    for name in ("frame_residual", "frame_overlap"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=0.02)
    assert np.isnan(found["gain"].values[8:13]).all()
    np.testing.assert_array_equal(found["frame_used"], ~np.isin(numbers, left_out))


def test_joined_tiles_are_read_from_the_store_in_each_sweep(scan: xr.Dataset) -> None:
    options: dict[str, Any] = {"sweeps": 3, "update_probe": False, "algorithm": "ap"}
    held = dp.reconstruct(scan, **options)
    tiling, asked, here = lay_out_tiles(scan), check_options(**options), Workers(1, 1, None)
    joined = fit_tiles(scan, tiling, here, asked, KNOWN, 1)
    assert len(joined.tiles) == JOINED

    def streams(own: Tiling, memory: int) -> bool:
        workers = replace(here, memory=memory)
        return fit_options(scan, own, workers, asked, KNOWN, 1)[1].residency is Residency.STREAMED

    # Less and less memory than the run needs to hold its frames, until it streams. With stored tiles it would
    # then have its images on disk besides, since their windows overlap more.
    most = math.ceil(fit_options(scan, joined, here, asked, KNOWN, 1)[1].worker / FULL)
    memory = next(least for least in range(most, 0, -10_000) if streams(joined, least))
    assert not streams(tiling, memory)
    with dask.config.set(num_workers=1):
        assert tiles_of(scan, memory=memory, **options) == JOINED
        streamed = dp.reconstruct(scan, memory=memory, **options)
    xr.testing.assert_allclose(streamed.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)


@pytest.mark.timeout(100)
def test_joined_tiles_have_the_same_bits_on_two_workers(scan: xr.Dataset) -> None:
    expected = dp.reconstruct(scan, sweeps=3)
    with two_workers():
        found = dp.reconstruct(scan, sweeps=3)
    np.testing.assert_array_equal(found["object"], expected["object"])


# Resuming


def test_resumed_run_has_the_tiles_that_it_began_with(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dp.reconstruct(scan, sweeps=5)
    with pytest.raises(Stop):
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=5, checkpoint_every=1, callback=stop_at(3))
    # What would be joined by now does not matter.
    monkeypatch.setattr(fitting, "JOINED_PIXELS", ())
    found: list[int] = []
    result = dp.resume(
        tmp_path / "r.zarr", callback=lambda progress: found.append(len(progress.tiling.tiles))
    )
    assert found[0] == JOINED
    assert_equal(result, expected)


def test_run_with_stored_tiles_is_resumed_with_them(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"out": tmp_path / "r.zarr", "callback": stop_at(3), "checkpoint_every": 1}
    with pytest.raises(Stop):
        as_it_is_stored(monkeypatch, scan, sweeps=5, **options)
    found: list[int] = []
    dp.resume(tmp_path / "r.zarr", callback=lambda progress: found.append(len(progress.tiling.tiles)))
    assert found[0] == STORED


# Memory and tasks


def planned(side: int, frame: int, step: int, tile_frames: int) -> xr.Dataset:
    """A scan of so many frames along each side, to plan with; none of them is ever read."""
    position = float(step) * np.stack(np.divmod(np.arange(side**2), side), axis=1)
    frames = da.zeros((side**2, frame, frame), chunks=(tile_frames, frame, frame), dtype=np.uint16)
    return xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), frames),
            "position": (
                ("frame", "axis"),
                position[compact_order(position, tile_frames)],
                {"units": "pixel"},
            ),
            "probe": (("mode", "probe_y", "probe_x"), np.ones((1, frame, frame), dtype=np.complex64)),
        }
    )


def test_tiles_stay_as_stored_where_joined_ones_find_no_room() -> None:
    """They must not make a run read its frames in each sweep, or give up a part of its method."""
    large, options = planned(80, 128, 64, 256), check_options(update_probe=False)
    stored, four = lay_out_tiles(large), Workers(1, 4, None)

    def joined(memory: int | None) -> Tiling:
        return fit_tiles(large, stored, replace(four, memory=memory), options, KNOWN, 1)

    assert (len(stored.tiles), len(joined(None).tiles)) == (25, 16)
    needs = [fit_options(large, own, four, options, KNOWN, 1)[1] for own in (stored, joined(None))]
    enough, more = (math.ceil(one.worker / FULL) + 1 for one in needs)
    assert enough < more
    assert len(joined(more).tiles) == 16
    assert joined(enough) is stored
    # Where nothing fits, the run itself says so.
    with pytest.raises(dp.OptionError, match="memory"):
        fit_options(large, joined(1000), replace(four, memory=1000), options, KNOWN, 1)


def test_plan_says_what_is_joined(scan: xr.Dataset) -> None:
    told = read_facts(run("plan", scan.encoding["source"], "--threads", 1).stdout)
    assert told["tiles"] == f"{JOINED} with 144 frames in all, joined from {STORED} of the scan"


@pytest.mark.long
def test_a_million_frames_have_few_tasks() -> None:
    big = planned(1000, 32, 8, 1024)
    stored, two = lay_out_tiles(big), Workers(2, 1, None)
    joined = fit_tiles(big, stored, two, check_options(update_probe=False), KNOWN, 1)
    assert (len(stored.tiles), len(joined.tiles)) == (977, 16)
    for pairs in (0, 5):
        tasks = count_sweep_tasks(big, joined, Recipe(parameters=KNOWN, pairs=pairs), workers=2)
        assert tasks <= 2 * 20
