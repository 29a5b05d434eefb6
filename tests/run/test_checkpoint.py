"""Checkpoints: as often as asked for, each opened again, each whole, and the store that they lie in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.cluster.workers import find_workers
from daskptycho.model.algorithms import AP
from daskptycho.run import keeper
from daskptycho.run.checkpoint import location_of
from daskptycho.run.driving import Run
from daskptycho.run.keeper import Keeper
from daskptycho.run.laying_out import choose_setting
from daskptycho.run.options import RunOptions
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.storage import checkpoints as checkpoint_store
from daskptycho.storage.checkpoint_tiles import read_tile, write_tile
from daskptycho.storage.checkpoints import CheckpointStore, Part
from daskptycho.storage.location import parse_location
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("scans")
    return dp.simulate_scan(
        folder / "scan.zarr", frames=(5, 5), frame_size=16, step=4, jitter=1, tile_frames=9
    )


def sweeps_of(out: Path) -> list[int]:
    return [found.sweep for found in dp.checkpoints(out)]


# When


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [7]),
        ({"checkpoint_every": 3}, [3, 6, 7]),
        ({"checkpoint_every": 7}, [7]),
        ({"checkpoint_every": 1, "checkpoint_minutes": None}, [1, 2, 3, 4, 5, 6, 7]),
        ({"checkpoint_minutes": 1e-9}, [1, 2, 3, 4, 5, 6, 7]),
    ],
    ids=str,
)
def test_as_often_as_asked_for(scan: xr.Dataset, tmp_path: Path, options: Any, expected: list[int]) -> None:
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=7, **options)
    assert sweeps_of(tmp_path / "r.zarr") == expected


def test_none_where_none_are_asked_for(scan: xr.Dataset, tmp_path: Path) -> None:
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=2, checkpoint_minutes=None)
    assert [path.name for path in tmp_path.iterdir()] == ["r.zarr"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every is 0; expected a whole number, 1 or more"),
        ({"checkpoint_minutes": 0}, "checkpoint_minutes is 0; expected above 0"),
        ({"checkpoint_every": 3, "out": None}, "checkpoint_every is 3 without out; expected a place"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(scan: xr.Dataset, tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(dp.OptionError, match=said):
        dp.reconstruct(scan, **{"out": tmp_path / "r.zarr"} | options)


def run_on(
    clock: Callable[[], float],
    scan: xr.Dataset,
    out: Path,
    callback: Callable[[dp.Progress], None],
    **every: Any,
) -> None:
    """A run of seven sweeps that reads the time from this clock, in seconds."""
    options = RunOptions(
        opening_sweeps=0,
        sweeps=7,
        algorithm=AP(),
        opening=None,
        momentum="nesterov",
        sync=dp.Sync(),
        update_probe=True,
        start="ones",
        seed=0,
        tolerance=None,
        polish=False,
        polish_sweeps=0,
        subpixel=True,
        **{"checkpoint_every": None, "checkpoint_minutes": None} | every,
    )
    setting = choose_setting(scan, lay_out_tiles(scan), options, find_workers(None, "cpu"))
    keeping = Keeper(options, scan, parse_location(out), "cpu", clock=clock)
    Run(setting.lay_out, setting.begin, keeping).carry_out(callback, None)


@pytest.mark.parametrize(
    ("options", "minutes", "expected"),
    [
        ({"checkpoint_minutes": 10}, [4] * 7, [3, 6, 7]),
        ({"checkpoint_minutes": 10}, [10] * 7, [1, 2, 3, 4, 5, 6, 7]),
        ({"checkpoint_minutes": 10}, [1] * 7, [7]),
        ({"checkpoint_minutes": 0.5}, [0.2] * 7, [3, 6, 7]),
        # Whatever is due first, each counted from the last checkpoint of either kind.
        ({"checkpoint_every": 2, "checkpoint_minutes": 10}, [4] * 7, [2, 4, 6, 7]),
        ({"checkpoint_every": 5, "checkpoint_minutes": 10}, [10, 1, 1, 1, 1, 1, 1], [1, 6, 7]),
        ({"checkpoint_every": 3}, [1000] * 7, [3, 6, 7]),
    ],
    ids=str,
)
def test_minutes_go_by_the_clock(
    scan: xr.Dataset, tmp_path: Path, options: Any, minutes: list[float], expected: list[int]
) -> None:
    # From any moment: a clock need not begin at zero.
    time = [12345.0]

    def pass_time(progress: dp.Progress) -> None:
        time[0] += 60 * minutes[progress.sweep - 1]

    run_on(lambda: time[0], scan, tmp_path / "r.zarr", pass_time, **options)
    assert sweeps_of(tmp_path / "r.zarr") == expected


# The history


def test_every_checkpoint_opens_as_the_result_of_its_sweep(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    begun = datetime.now(UTC)
    dp.reconstruct(scan, out, sweeps=6, checkpoint_every=2)
    for number, found in enumerate(dp.checkpoints(out), start=1):
        then = dp.reconstruct(scan, sweeps=2 * number)
        opened = dp.open_checkpoint(out, found.sweep)
        # Frames are measured at the end of a run only.
        of_end = ["seconds", "frame_residual", "frame_overlap"]
        xr.testing.assert_equal(opened.drop_vars("seconds"), then.drop_vars(of_end))
        assert found.residual == then["residual"][-1]
        assert begun < found.written < datetime.now(UTC)
        assert opened.attrs["source"] == then.attrs["source"]
    result = dp.open_result(out)
    xr.testing.assert_equal(dp.open_checkpoint(out), result.drop_vars(["frame_residual", "frame_overlap"]))
    with pytest.raises(dp.OptionError, match="there is no checkpoint of sweep 3; expected one of 2, 4, 6"):
        dp.open_checkpoint(out, 3)


def test_history_on_the_command_line(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    result = dp.reconstruct(scan, out, sweeps=4, checkpoint_every=2)
    done = CliRunner().invoke(daskptycho, ["history", str(out)])
    assert done.exit_code == 0
    rows = [line.split() for line in done.output.splitlines() if line.strip()]
    assert rows[0] == ["sweep", "residual", "written"]
    assert [row[:2] for row in rows[-2:]] == [
        [str(sweep), f"{float(result['residual'][sweep - 1]):.4g}"] for sweep in (2, 4)
    ]
    picture = tmp_path / "two.png"
    drawn = CliRunner().invoke(daskptycho, ["view", str(out), str(picture), "--sweep", "2"])
    assert drawn.exit_code == 0, drawn.output
    assert picture.stat().st_size > 0


def test_checkpoints_are_removed_as_a_folder(scan: xr.Dataset, tmp_path: Path) -> None:
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=2)
    folder = str(location_of(parse_location(tmp_path / "r.zarr")))
    assert folder == f"{tmp_path}/r.zarr.checkpoints"
    assert icechunk.Repository.exists(icechunk.local_filesystem_storage(folder))


# The store


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    header = xr.Dataset({"position": (("frame", "axis"), np.zeros((3, 2)))})
    created = CheckpointStore.create(
        parse_location(tmp_path / "c"), header, {"counts": 1.5}, {"a": Part((4, 2), "complex64")}, 2
    )
    created.settle()
    return created


def commit(store: CheckpointStore, sweep: int, value: float, *, temporary: bool = False) -> str:
    session = store.begin(sweep, temporary=temporary)
    forks = [
        write_tile(store.location, session.fork(), tile, {"a": np.full((3 + tile, 2), value + tile)})
        for tile in range(2)
    ]
    return store.commit(session, forks, {"probe": np.arange(3.0)}, {"sweep": sweep}, np.full((sweep, 4), 0.5))


def test_store_gives_back_what_was_written(store: CheckpointStore) -> None:
    first, second = commit(store, 1, 1), commit(store, 2, 5)
    opened = CheckpointStore(store.location)
    assert [(found.id, found.sweep, found.residual) for found in opened.list_snapshots()] == [
        (first, 1, 0.5),
        (second, 2, 0.5),
    ]
    for snapshot, sweep, value in ((first, 1, 1), (second, 2, 5)):
        for tile in range(2):
            found = read_tile(store.location, snapshot, "a", tile, (3 + tile,))
            np.testing.assert_array_equal(found, np.full((3 + tile, 2), value + tile))
        assert opened.read_attributes(snapshot)["sweep"] == sweep
        assert opened.read_small(snapshot, "history").shape == (sweep, 4)
    assert opened.read_constants()["counts"] == 1.5
    assert opened.read_header()["position"].shape == (3, 2)


def test_a_new_store_replaces_an_old_one_as_a_whole(store: CheckpointStore) -> None:
    kept = commit(store, 1, 1)
    header = xr.Dataset({"position": (("frame", "axis"), np.zeros((3, 2)))})
    parts = {"a": Part((4, 2), "complex64")}
    new = CheckpointStore.create(store.location, header, {"counts": 2.5}, parts, 2)
    replacing = commit(new, 7, 7)
    assert [found.id for found in CheckpointStore(store.location).list_snapshots()] == [kept]
    new.settle()
    opened = CheckpointStore(store.location)
    assert new.location == store.location
    assert [found.id for found in opened.list_snapshots()] == [replacing]
    assert opened.read_constants()["counts"] == 2.5
    assert read_tile(store.location, replacing, "a", 1, (4,))[0, 0] == 8
    assert [path.name for path in store.location.local_path.parent.iterdir()] == ["c"]


def test_a_run_that_begins_after_a_kill_between_two_renames_loses_no_store(store: CheckpointStore) -> None:
    kept, folder = commit(store, 1, 1), store.location.local_path
    # As a run is killed that replaces a store: the old one is aside, the new one is not yet in its place.
    folder.rename(folder.with_name("c.old"))
    shutil.copytree(folder.with_name("c.old"), folder.with_name("c.new"))
    header = xr.Dataset({"position": (("frame", "axis"), np.zeros((3, 2)))})
    # Killed too, before its first checkpoint.
    CheckpointStore.create(store.location, header, {"counts": 2.5}, {"a": Part((4, 2), "complex64")}, 2)
    assert CheckpointStore.exists(store.location)
    assert [found.id for found in CheckpointStore(store.location).list_snapshots()] == [kept]


def test_a_store_without_checkpoints_is_nothing_to_lose(scan: xr.Dataset, tmp_path: Path) -> None:
    """It has nothing that resume could continue, so that a run may begin."""
    out = tmp_path / "r.zarr"
    header = xr.Dataset({"position": (("frame", "axis"), np.zeros((3, 2)))})
    CheckpointStore.create(location_of(parse_location(out)), header, {}, {}, 1).settle()
    with pytest.raises(dp.ScanError, match="has no checkpoints"):
        dp.resume(out)
    dp.reconstruct(scan, out, sweeps=1)
    assert sweeps_of(out) == [1]


def test_what_is_not_committed_is_not_there(store: CheckpointStore) -> None:
    snapshot = commit(store, 1, 1)
    session = store.begin(2, temporary=False)
    write_tile(store.location, session.fork(), 0, {"a": np.zeros((3, 2))})
    store.begin(2, temporary=True)
    opened = CheckpointStore(store.location)
    assert [found.id for found in opened.list_snapshots()] == [snapshot]
    assert read_tile(store.location, snapshot, "a", 0, (3,))[0, 0] == 1
    # Nor does it stand in the way.
    assert opened.list_snapshots()[-1].id != commit(opened, 2, 3)


def files(store: CheckpointStore) -> int:
    return sum(path.is_file() for path in store.location.local_path.rglob("*"))


def test_temporary_checkpoints_go_and_the_history_stays(store: CheckpointStore) -> None:
    kept = [commit(store, 1, 1)]
    before = files(store)
    for sweep in (2, 3, 4):
        temporary = commit(store, sweep, sweep, temporary=True)
        assert [found.sweep for found in store.list_snapshots()][-1] == sweep
        store.forget_temporary(keep=temporary)
        assert [found.id for found in store.list_snapshots()] == [*kept, temporary]
        assert read_tile(store.location, temporary, "a", 1, (4,))[0, 0] == sweep + 1
    kept.append(commit(store, 5, 5))
    store.forget_temporary()
    assert [found.id for found in store.list_snapshots()] == kept
    assert read_tile(store.location, kept[0], "a", 0, (3,))[0, 0] == 1
    assert files(store) < 2.5 * before


def test_store_that_is_no_run_is_said_so(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_store, "FORMAT_VERSION", 3)
    with pytest.raises(dp.ScanError, match="holds daskptycho-checkpoints 2; expected"):
        store.read_constants()


def test_large_parts_are_cut_into_chunks() -> None:
    assert checkpoint_store._chunk_shape(Part((300, 1, 128, 128), "complex64")) == (256, 1, 128, 128)
    assert checkpoint_store._chunk_shape(Part((300, 200), "complex64")) == (300, 200)
    assert checkpoint_store._chunk_shape(Part((7,), "complex64")) == (7,)


# Lineage


def scheduler_knows(client: Client) -> bool:
    """Whether the scheduler has heard which values the client still holds."""
    name = client.id
    wanted = client.run_on_scheduler(
        lambda dask_scheduler: {task.key for task in dask_scheduler.clients[name].wants_what}
    )
    return wanted == set(client.futures)


def test_scheduler_forgets_the_sweeps_before(scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[int] = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def count(progress: dp.Progress) -> None:
            wait_until(lambda: scheduler_knows(client))
            tasks.append(len(cluster.scheduler.tasks))

        dp.reconstruct(scan, sweeps=32, callback=count)
        cut = keeper.LINEAGE_SWEEPS
        # Those of the first sweeps, and from then on no more.
        assert max(tasks[:cut]) > 3 * tasks[0]
        assert max(tasks[cut:]) <= 1.1 * max(tasks[:cut])
        monkeypatch.setattr(keeper, "LINEAGE_SWEEPS", 1000)
        growing, tasks = tasks, []
        dp.reconstruct(scan, sweeps=32, callback=count)
    assert max(tasks) > 2 * max(growing)
