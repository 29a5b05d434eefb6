"""What a run depends on fails it: workers, their memory, the scheduler, the store of scan or checkpoints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import icechunk
import pytest
import xarray as xr
from dask.task_spec import DataNode
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.model.amplitudes import Detector
from daskptycho.model.forward import FarField
from daskptycho.run import keeper, loop
from daskptycho.run.standing import Standing
from daskptycho.storage import retrying
from daskptycho.tasks import waiting
from daskptycho.tasks.frames import Reading, StoredAmplitudes, confirm_counts
from daskptycho.tasks.spec import futures_in
from daskptycho.tasks.waiting import WorkersLost
from tests.full_disk import full_disk
from tests.run.test_memory import HERE, recipe_of, tight
from tests.run.test_resumption import assert_equal
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = 8


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return dp.simulate_scan(
        tmp_path_factory.mktemp("scans") / "scan.zarr", frames=(6, 6), frame_size=16, step=4, tile_frames=9
    )


@pytest.fixture(scope="module")
def expected(scan: xr.Dataset) -> xr.Dataset:
    return dp.reconstruct(scan, sweeps=SWEEPS)


pytestmark = pytest.mark.usefixtures("pauses")


@pytest.fixture(autouse=True)
def _close_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK", 0.05)


def failing_at(
    monkeypatch: pytest.MonkeyPatch, sweeps: set[int], error: Callable[[], Exception], *, times: int = 1
) -> None:
    """Let each of these sweeps fail so many times."""
    advance = loop.Loop.advance
    left = dict.fromkeys(sweeps, times)

    def fail(own: loop.Loop, standing: Standing) -> Standing:
        number = standing.sweep + 1
        if left.get(number, 0) > 0:
            left[number] -= 1
            raise error()
        return advance(own, standing)

    monkeypatch.setattr(loop.Loop, "advance", fail)


# Workers that are lost, as Dask tells it


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"checkpoint_every": 3}, [1, 2, 3, 4, 4, 5, 6, 7, 8]),
    ],
    ids=["begins anew", "goes back"],
)
def test_run_goes_back_to_its_last_checkpoint(
    scan: xr.Dataset,
    expected: xr.Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Any,
    seen: list[int],
) -> None:
    failing_at(monkeypatch, {5}, lambda: WorkersLost("killed"))
    found: list[int] = []
    result = dp.reconstruct(
        scan, tmp_path / "r.zarr", sweeps=SWEEPS, callback=lambda p: found.append(p.sweep), **options
    )
    assert found == seen
    assert_equal(result, expected)


def test_resumed_run_goes_back_too(
    scan: xr.Dataset, expected: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=3)
    failing_at(monkeypatch, {5, 7}, lambda: WorkersLost("killed"))
    assert_equal(dp.resume(tmp_path / "r.zarr", sweeps=SWEEPS), expected)


def test_run_that_gets_no_further_ends_and_can_be_resumed(
    scan: xr.Dataset, expected: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.zarr"
    with monkeypatch.context() as patched:
        # Once on the way is no harm; where it comes again and again, something is wrong.
        failing_at(patched, {2, 4}, lambda: WorkersLost("one died four times over sweep-12"), times=2)
        failing_at(patched, {7}, lambda: WorkersLost("one died four times over sweep-12"), times=100)
        with pytest.raises(dp.FaultError) as failed:
            dp.reconstruct(scan, out, sweeps=SWEEPS, checkpoint_every=1)
    said = "workers were lost 3 times in a row: one died four times over sweep-12"
    assert str(failed.value) == said
    assert failed.value.__notes__ == [
        f"Sweep 6 is kept in {out}.checkpoints; resume with: daskptycho resume {out}"
    ]
    assert_equal(dp.resume(out), expected)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        yield cluster


def test_state_that_is_cancelled_on_the_cluster_is_computed_anew(
    scan: xr.Dataset, expected: xr.Dataset, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LINEAGE_SWEEPS", 3)
    seen: list[int] = []

    def cancel(progress: dp.Progress) -> None:
        seen.append(progress.sweep)
        if seen == [1, 2, 3, 4, 5]:
            client = dask.base.get_scheduler().__self__
            futures = futures_in([tile.image for tile in progress._state.tiles])
            client.cancel(list(futures.values()), force=True)

    result = dp.reconstruct(scan, sweeps=SWEEPS, callback=cancel)
    assert seen == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8]
    xr.testing.assert_allclose(result.drop_vars("seconds"), expected.drop_vars("seconds"), rtol=1e-5)


def test_run_waits_for_workers_with_a_bound(
    scan: xr.Dataset, tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(progress: dp.Progress) -> None:
        if progress.sweep == 3:
            cluster.scale(0)
            wait_until(lambda: not waiting.has_workers())
            monkeypatch.setattr(waiting, "PATIENCE", 0.5)

    with pytest.raises(dp.FaultError, match=r"no worker is left on .*, and none came in") as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, checkpoint_every=2, callback=leave)
    assert failed.value.__notes__ == [
        "Sweep 3 could not be kept (it went with the workers). "
        f"Sweep 2 is kept in {tmp_path}/r.zarr.checkpoints; resume with: daskptycho resume {tmp_path}/r.zarr"
    ]


def test_scheduler_that_is_gone_is_said_so(
    scan: xr.Dataset, tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(progress: dp.Progress) -> None:
        if progress.sweep == 3:
            cluster.close()
            monkeypatch.setattr(waiting, "PATIENCE", 0.5)

    with pytest.raises(dp.FaultError, match="the connection to the Dask scheduler is gone") as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, checkpoint_every=2, callback=leave)
    assert f"Sweep 2 is kept in {tmp_path}/r.zarr.checkpoints" in failed.value.__notes__[0]


# Memory


def test_run_out_of_memory_says_what_was_planned(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory() -> Exception:
        return waiting.OutOfMemory("a task found no memory")

    failing_at(monkeypatch, {4}, no_memory)
    with pytest.raises(dp.FaultError) as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, memory="8 GiB")
    said = str(failed.value)
    assert said.startswith("a task found no memory; ")
    assert "were planned for its largest task, and" in said
    assert "of 8.00 GiB for each of 1 workers, amplitudes held; expected more memory" in said
    assert "smaller tiles than the largest of 9 frames" in said
    assert "Sweep 3 is kept" in failed.value.__notes__[0]


def test_run_out_of_memory_before_its_first_sweep_says_what_was_planned(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(reading: Reading) -> Any:
        raise MemoryError("no room for a tile")

    monkeypatch.setattr(Reading, "__call__", read)
    with pytest.raises(dp.FaultError, match=r"\(no room for a tile\); .* were planned for its largest task"):
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, memory="8 GiB")


# Stores


def failing_reads(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """Let reads of frames fail, by their number."""
    read, numbers = Reading.__call__, iter(range(10**9))

    def sometimes(own: Reading) -> Any:
        if fails(next(numbers)):
            raise ConnectionResetError("the bucket hung up on https://host/a?sig=PLANTED")
        return read(own)

    monkeypatch.setattr(Reading, "__call__", sometimes)


def test_store_that_fails_now_and_then_is_tried_again(
    scan: xr.Dataset, expected: xr.Dataset, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    failing_reads(monkeypatch, lambda number: number % 3 != 2)
    # On one thread the first two attempts at each tile fail.
    with dask.config.set(num_workers=HERE.threads):
        found = dp.reconstruct(scan, sweeps=SWEEPS)
    assert_equal(found, expected)
    assert pauses == 4 * [retrying.FIRST_PAUSE, 4 * retrying.FIRST_PAUSE]


@pytest.fixture
def streaming(scan: xr.Dataset) -> Iterator[dict[str, Any]]:
    """Options of a run that reads its frames in every sweep."""
    with dask.config.set(num_workers=HERE.threads):
        yield {"memory": tight(scan, recipe_of(update_probe=False)), "update_probe": False, "sweeps": SWEEPS}


def test_store_that_is_gone_ends_the_run_which_can_be_resumed(
    scan: xr.Dataset, tmp_path: Path, streaming: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dp.reconstruct(scan, **streaming)
    out = tmp_path / "r.zarr"
    with monkeypatch.context() as patched:
        # Four tiles read for their counts, then in each sweep.
        failing_reads(patched, lambda number: number >= 4 * 5)
        with pytest.raises(dp.FaultError) as failed:
            dp.reconstruct(scan, out, **streaming)
    assert "a store failed, also when it was tried again: frames of the scan cannot be read" in str(
        failed.value
    )
    assert "the bucket hung up on https://host/a" in str(failed.value)
    assert "PLANTED" not in str(failed.value)
    assert failed.value.__notes__ == [
        f"Sweep 4 is kept in {out}.checkpoints; resume with: daskptycho resume {out}"
    ]
    assert_equal(dp.resume(out), whole)


def test_frames_that_vanish_do_not_become_zeros(
    tmp_path: Path, streaming: dict[str, Any], scan: xr.Dataset
) -> None:
    own = dp.simulate_scan(tmp_path / "scan.zarr", frames=(6, 6), frame_size=16, step=4, tile_frames=9)

    def vanish(progress: dp.Progress) -> None:
        if progress.sweep == 3:
            (tmp_path / "scan.zarr" / "intensity" / "c" / "2" / "0" / "0").unlink()

    with pytest.raises(dp.FaultError, match=r"9 frames of the scan have 0 counts where they had \d+"):
        dp.reconstruct(own, tmp_path / "r.zarr", callback=vanish, **streaming)
    assert [found.sweep for found in dp.checkpoints(tmp_path / "r.zarr")] == [3]


def test_frames_that_are_held_are_not_read_anew_as_zeros(scan: xr.Dataset) -> None:
    frames = Reading(DataNode("x", scan["intensity"].values[:9]), 9)
    amplitudes = StoredAmplitudes([frames], Detector(None, FarField(), "cpu")).read()
    assert confirm_counts(amplitudes, amplitudes.total()) is amplitudes
    with pytest.raises(OSError, match="parts of its store are gone"):
        confirm_counts(amplitudes, 2 * amplitudes.total())


def test_store_that_was_waited_for_is_not_waited_for_again(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dp.StoreError("the bucket cannot be reached")
    away.__cause__ = RuntimeError("what a library says of it")
    patiences: list[float] = []

    def rescue(own: keeper.Keeper, *_: Any, **__: Any) -> str:
        patiences.append(retrying.patience())
        return "Kept."

    failing_at(monkeypatch, {3}, lambda: away)
    monkeypatch.setattr(keeper.Keeper, "rescue", rescue)
    with pytest.raises(dp.StoreError) as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS)
    assert patiences == [0.0]
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_checkpoint_that_cannot_be_written_ends_the_run(scan: xr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    said = r"r\.zarr\.checkpoints cannot be read or written"
    with full_disk(after=5) as callback, pytest.raises(dp.FaultError, match=said) as failed:
        dp.reconstruct(scan, out, sweeps=SWEEPS, checkpoint_every=2, callback=callback)
    (note,) = failed.value.__notes__
    assert note.startswith("Sweep 6 could not be kept (")
    assert f"Sweep 4 is kept in {out}.checkpoints; resume with: daskptycho resume {out}" in note


@pytest.mark.parametrize("failure", [icechunk.IcechunkError("full"), KeyboardInterrupt()], ids=repr)
def test_checkpoints_whose_making_is_cut_off_leave_nothing(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(icechunk.Session, "commit", fail)
        with pytest.raises((dp.FaultError, KeyboardInterrupt)):
            dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=2, checkpoint_every=1)
    assert list(tmp_path.iterdir()) == []
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=2)


def test_checkpoint_that_cannot_be_committed_ends_the_run(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = icechunk.Session.commit

    def full(own: icechunk.Session, message: str, **options: Any) -> str:
        if message == "Sweep 6":
            raise icechunk.IcechunkError("No space left on device")
        return commit(own, message, **options)

    monkeypatch.setattr(icechunk.Session, "commit", full)
    with pytest.raises(dp.FaultError, match=r"a checkpoint cannot be written: .*No space left") as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, checkpoint_every=2)
    assert "Sweep 4 is kept" in failed.value.__notes__[0]


def test_checkpoints_that_cannot_be_tidied_are_a_fault_of_the_run(
    scan: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise icechunk.IcechunkError("away")

    monkeypatch.setattr(icechunk.Repository, "garbage_collect", fail)
    with pytest.raises(dp.FaultError, match=r"a checkpoint cannot be written: .*: away") as failed:
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, checkpoint_every=3)
    assert "Sweep 3 is kept" in failed.value.__notes__[0]


# Whole processes


@pytest.mark.long
@pytest.mark.parametrize("given", [("--lost", "3", "--killed", "0"), ("--lost", "0", "--killed", "3")])
def test_killed_workers_and_killed_runs_change_nothing(given: tuple[str, ...]) -> None:
    sizes = ("--side", "8", "--sweeps", "12", "--interrupted", "0")
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", *sizes, *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all images equal that of an undisturbed run" in done.stdout


def test_runs_with_a_live_page_end_when_they_are_interrupted() -> None:
    # The limit only tells a run that hangs from one on a busy machine.
    given = ("--lost", "0", "--killed", "0", "--interrupted", "2", "--moments", "5", "--limit", "300")
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--side", "8", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 runs were interrupted: all ended" in done.stdout


@pytest.mark.long
def test_worker_killed_for_its_memory_ends_the_run_with_the_plan(scan: xr.Dataset, tmp_path: Path) -> None:
    # Less than the interpreter with its libraries takes, and a plan that was told otherwise.
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            memory_limit="230MB",
            dashboard_address=None,
        ) as cluster,
        Client(cluster),
        pytest.raises(dp.FaultError, match=r"was killed at .* of memory; .* planned for its largest task"),
    ):
        dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=SWEEPS, memory="8 GiB")
