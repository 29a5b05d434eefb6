"""Runs that follow a scan while it grows: what is taken up, what is kept, and what the end is like."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.run.fitting import fit_options
from daskptycho.run.following import Follower
from daskptycho.run.growth import Growth, Watch
from daskptycho.run.guard import MOST_RETURNS
from daskptycho.run.loop import Loop
from daskptycho.run.taking_up import DIM
from daskptycho.scan.frames import StoredArray
from daskptycho.storage.checkpoints import CheckpointStore
from tests import plain

TILE = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """A simulated scan of 64 frames in the order of acquisition."""
    folder = tmp_path_factory.mktemp("source")
    scan = dp.simulate_scan(
        folder / "scan.zarr", frames=(8, 8), frame_size=16, step=4, jitter=1, tile_frames=TILE
    )
    return scan.isel(frame=np.argsort(scan["frame_number"].values)).compute()


class Beamline:
    """A scan that grows by some frames each time that it is asked to."""

    def __init__(
        self, source: xr.Dataset, url: Path, lost: tuple[int, ...] = (), probe: str | None = "truth_probe"
    ) -> None:
        self.source, self.url, self.sent = source, url, 0
        self.numbers = [number for number in range(64) if number not in lost]
        dp.create_scan(
            url,
            planned_position=source["position"].values,
            frame_shape=(16, 16),
            dtype=source["intensity"].dtype,
            position_unit="pixel",
            probe=None if probe is None else source[probe].values,
            tile_frames=TILE,
        )
        self.writer = dp.ScanWriter(url)

    def send(self, frames: int) -> None:
        if self.sent >= len(self.numbers):
            return
        numbers = self.numbers[self.sent : self.sent + frames]
        self.writer.write(self.source["intensity"].values[numbers], numbers)
        self.sent += frames
        if self.sent >= len(self.numbers):
            self.writer.close()

    def send_with_sweeps(self, frames: int, then: Callable[[dp.Progress], Any] | None = None) -> Any:
        """Begin with a complete tile; the callback of a run that sends more frames after each sweep."""
        while not self.writer.written:
            self.send(frames)

        def callback(progress: dp.Progress) -> Any:
            self.send(frames)
            return None if then is None else then(progress)

        return callback


@pytest.fixture
def beamline(source: xr.Dataset, tmp_path: Path) -> Iterator[Beamline]:
    own = Beamline(source, tmp_path / "scan.zarr")
    yield own
    own.writer.close()


def test_the_image_is_as_good_as_that_of_a_run_that_begins_at_the_end(beamline: Beamline) -> None:
    seen = {}
    callback = beamline.send_with_sweeps(7, lambda progress: seen.update({progress.sweep: progress.growth}))
    options: dict[str, Any] = {"update_probe": False, "sweeps": 60}
    followed = dp.reconstruct(dp.open_scan(beamline.url), follow=True, callback=callback, **options)
    offline = dp.reconstruct(dp.open_scan(beamline.url), **options)
    taken = [growth.taken_up for growth in seen.values()]
    assert taken[0] < taken[-1] == 64
    assert taken == sorted(taken)
    # The sweep before the last frames came, after which they were seen, and 60 more.
    assert [growth.ended for growth in seen.values()].count(True) == 61
    assert followed.attrs["ended"] == "sweeps"
    assert followed.sizes["sweep"] == len(seen)
    assert float(followed["residual"][-1]) < 1.02 * float(offline["residual"][-1]) + 1e-9
    lit = followed["illumination"].values > 0.1 * followed["illumination"].values.max()
    difference = dp.relative_error(followed["object"].values * lit, offline["object"].values * lit)
    assert difference < 1e-3


def test_no_frame_is_read_twice(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    of_store = StoredArray.__getitem__

    def note(self: StoredArray, index: Any) -> Any:
        if self.name == "intensity":
            read.append(index[0].start)
        return of_store(self, index)

    monkeypatch.setattr(StoredArray, "__getitem__", note)
    callback = beamline.send_with_sweeps(9)
    dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=2, callback=callback)
    assert sorted(read) == [0, 16, 32, 48]


def test_a_new_tile_begins_with_the_pixels_that_it_shares(beamline: Beamline) -> None:
    images: list[np.ndarray] = []
    windows = []

    def keep(progress: dp.Progress) -> None:
        images.append(progress.object())
        windows.append(progress.tiling.window)

    callback = beamline.send_with_sweeps(8, keep)
    dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=1, update_probe=False, callback=callback)
    for before, after, old, new in zip(images, images[1:], windows, windows[1:], strict=False):
        shared = old.intersection(new)
        assert shared == old
        lit = before != 0
        # From ones, nothing of the image would be left; one sweep changes what there is by less.
        change = np.linalg.norm((after[new.slices_of(old)] - before)[lit]) / np.linalg.norm(before[lit])
        assert change < 0.5


def test_new_tiles_are_seen_before_the_next_sweep(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many only some at a time, whose frames are swept once, as if the others fitted the image."""
    monkeypatch.setattr(Follower, "_most_tiles", lambda own, scan: 1)
    seen: list[tuple[int, int]] = []
    images = []

    def callback(progress: dp.Progress) -> None:
        seen.append((progress.sweep, progress.growth.taken_up))
        images.append((progress.object(), progress.tiling.window, progress.probe()))
        if progress.sweep == 2:
            beamline.send(64)

    while not beamline.writer.written:
        beamline.send(1)
    dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=1, update_probe=False, callback=callback)
    assert seen == [(1, 16), (2, 16), (2, 32), (2, 48), (2, 64), (3, 64)]
    scan = dp.open_scan(beamline.url)
    for tile in (1, 2, 3):
        (earlier, old, probe), (image, new, _) = images[tile : tile + 2]
        corner = scan["position"].values.astype(int) - (new.y, new.x)
        before, own = corner[: tile * TILE], corner[tile * TILE : (tile + 1) * TILE]
        light = plain.illuminate(probe[None].repeat(len(before), axis=0), before, new.shape)
        start = np.ones(new.shape, dtype=complex)
        known = start[new.slices_of(old)]
        known[earlier != 0] = earlier[earlier != 0]
        probes = probe[None].repeat(len(own), axis=0)
        coming = plain.illuminate(probes, own, new.shape)
        # Where earlier frames hardly see it, their image is taken over in part only.
        coming_share = np.minimum(coming, DIM * (abs(probe) ** 2).sum(axis=0).max())
        start = 1 + light / np.maximum(light + coming_share, 1e-9) * (start - 1)
        amplitude = np.sqrt(scan["intensity"].values[tile * TILE : (tile + 1) * TILE])
        waves = plain.project(plain.split(start, probes, own), np.fft.ifftshift(amplitude, axes=(1, 2)))
        total = plain.overlap(plain.weigh(waves, probes), own, new.shape) + light * start
        light += coming
        expected, lit = total / np.maximum(light, 1e-9), light > 0.1 * light.max()
        assert dp.relative_error(start * lit, expected * lit) > 0.05
        assert dp.relative_error(image * lit, expected * lit) < 0.005


def test_missing_frames_are_no_part_of_the_image(source: xr.Dataset, tmp_path: Path) -> None:
    lost = (3, 20, 21, 50)
    beamline = Beamline(source, tmp_path / "scan.zarr", lost)
    with pytest.warns(UserWarning, match="frames 3, 20, 21 and 50 of 64 planned frames never came"):
        followed = dp.reconstruct(
            dp.open_scan(beamline.url),
            follow=True,
            sweeps=40,
            update_probe=False,
            callback=beamline.send_with_sweeps(11),
        )
    unused = ~followed["frame_used"].values
    assert sorted(followed["frame_number"].values[unused].tolist()) == list(lost)
    assert float(followed["residual"][-1]) < 1e-4


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_at", [2, 6, 12])
def test_a_run_that_is_cut_off_goes_on_to_the_same_bits(
    source: xr.Dataset, tmp_path: Path, stop_at: int
) -> None:
    """With frames that come after the same sweeps, a resumed run is the undisturbed one."""
    results = []
    for name, stops in (("undisturbed", False), ("stopped", True)):
        beamline, out = Beamline(source, tmp_path / f"{name}.zarr"), tmp_path / f"{name}-result.zarr"

        def stop(progress: dp.Progress, stops: bool = stops) -> None:
            if stops and progress.sweep == stop_at:
                raise Stopped

        options: dict[str, Any] = {"follow": True, "sweeps": 8, "checkpoint_every": 1}
        callback = beamline.send_with_sweeps(6, stop)
        scan = dp.open_scan(beamline.url)
        if stops:
            with pytest.raises(Stopped):
                dp.reconstruct(scan, out, callback=callback, **options)
            results.append(dp.resume(out, callback=lambda progress, own=beamline: own.send(6)))
        else:
            results.append(dp.reconstruct(scan, out, callback=callback, **options))
        assert dp.open_result(out).sizes["sweep"] == results[-1].sizes["sweep"]
    np.testing.assert_array_equal(results[1]["residual"], results[0]["residual"])
    np.testing.assert_array_equal(results[1]["object"], results[0]["object"])


def test_a_scan_that_has_ended_is_reconstructed_as_ever(beamline: Beamline) -> None:
    beamline.send(64)
    scan = dp.open_scan(beamline.url)
    followed, offline = dp.reconstruct(scan, follow=True, sweeps=4), dp.reconstruct(scan, sweeps=4)
    np.testing.assert_array_equal(followed["object"], offline["object"])


class Views:
    """A display that keeps what the page shows."""

    link = ""

    def __init__(self) -> None:
        self.views: list[Any] = []

    def show(self, view: Any) -> bool:
        self.views.append(view)
        return True

    def looked_at(self) -> Any:
        return None

    def is_up_to_date(self) -> bool:
        return True

    def close(self) -> None:
        pass


def test_the_page_says_how_far_the_scan_and_the_run_are(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    display = Views()
    monkeypatch.setattr("daskptycho.dashboard.servers.LocalServer", lambda view: display)
    page = dp.LivePage(dp.open_scan(beamline.url), "out.zarr")
    # Numbers are due at each sweep.
    monkeypatch.setattr(page, "clock", iter(range(0, 10**6, 1000)).__next__)
    with page:
        callback = beamline.send_with_sweeps(6, page)
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=2, callback=callback)
    notes = [view.note for view in display.views]
    live = [note for note in notes if "frames measured" in note]
    assert live[0].startswith("16 of 64 frames measured")
    assert live[0].endswith(", 16 in the image.")
    assert notes[-1] == "The result is in out.zarr."
    # The tiles to come lie where they are once they are there.
    first, *_, last = (view.tiles for view in display.views if view.tiles is not None)
    assert first.written.tolist() == [True, False, False, False]
    np.testing.assert_allclose(first.planned, last.extent)
    assert len(first.extent) == 1
    assert len(last.planned) == 0


def test_what_is_behind_is_counted() -> None:
    growth = Growth(planned=5000, measured=1200, taken_up=900, ended=False, rate=99.6)
    assert growth.behind == 300
    assert growth.describe() == (
        "1,200 of 5,000 frames measured at 100 a second, 900 in the image, 300 behind"
    )


def test_what_cannot_be_followed_is_refused(source: xr.Dataset, beamline: Beamline) -> None:
    with pytest.raises(dp.OptionError, match="the scan is in memory; expected one that create_scan"):
        dp.reconstruct(source.drop_encoding(), follow=True)
    beamline.send(64)
    with pytest.raises(dp.OptionError, match="start with follow; expected 'ones'"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, start="random")
    with pytest.raises(dp.OptionError, match="probe_variation refined with follow, while frames"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, refine="probe-variation")
    with pytest.raises(dp.OptionError, match="positions and gain refined with follow, while frames"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, refine=["positions", "gain"])
    with pytest.raises(dp.OptionError, match="leave_out names frame 64, which the scan does not have"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, leave_out=[64])


def test_a_background_is_found_along(source: xr.Dataset, tmp_path: Path) -> None:
    counts = source["intensity"].values + np.random.default_rng(0).poisson(20, source["intensity"].shape)
    with_more = source.assign(intensity=(source["intensity"].dims, counts.astype(np.uint32)))
    beamline = Beamline(with_more, tmp_path / "scan.zarr")
    options: dict[str, Any] = {"sweeps": 40, "update_probe": False, "refine": "background", "algorithm": "ap"}
    callback = beamline.send_with_sweeps(6)
    followed = dp.reconstruct(dp.open_scan(beamline.url), follow=True, callback=callback, **options)
    offline = dp.reconstruct(dp.open_scan(beamline.url), **options)
    found, expected = (float(result["background"].mean()) for result in (followed, offline))
    assert found == pytest.approx(expected, rel=0.01)
    assert found == pytest.approx(20, rel=0.2)


def test_frames_to_leave_out_may_be_all_that_there_are_so_far_or_still_to_come(
    beamline: Beamline, tmp_path: Path
) -> None:
    first = dp.open_scan(beamline.url)["frame_number"].values[:TILE]
    beamline.writer.write(beamline.source["intensity"].values[first], first)
    beamline.numbers = [number for number in range(64) if number not in first]
    out = tmp_path / "result.zarr"

    def stop_in_time(progress: dp.Progress) -> bool:
        assert not progress.growth.ended
        return True

    Watch(dp.open_scan(beamline.url), first).open()
    beamline.send(40)
    left_out = sorted([*first, beamline.numbers[-1]])
    scan = dp.open_scan(beamline.url)
    options: dict[str, Any] = {"follow": True, "sweeps": 2, "leave_out": left_out, "checkpoint_every": 1}
    dp.reconstruct(scan, out, callback=stop_in_time, **options)
    beamline.send(40)
    result = dp.resume(out)
    assert sorted(result["frame_number"].values[~result["frame_used"].values]) == left_out


class Clock:
    """A time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_frames_a_second_are_those_that_came_lately(beamline: Beamline) -> None:
    clock = Clock()
    watch = Watch(dp.open_scan(beamline.url), clock=clock)
    order = dp.open_scan(beamline.url)["frame_number"].values
    rates = []
    for tile in range(3):
        watch.look()
        rates.append(watch.growth(0).rate)
        numbers = order[tile * TILE : (tile + 1) * TILE]
        beamline.writer.write(beamline.source["intensity"].values[numbers], numbers)
        clock.now += 4
    assert rates == [0, TILE / 4, TILE / 4]
    for pause in (0, 60, 1):
        clock.now += pause
        watch.look()
    assert watch.growth(0).rate == 0
    beamline.send(64)


def test_who_writes_is_said_once_no_frame_has_come_for_long(beamline: Beamline) -> None:
    clock = Clock()
    watch = Watch(dp.open_scan(beamline.url), clock=clock)
    watch.look()
    assert watch.describe_silence() == ""
    clock.now += 60
    host = gethostname()
    alive = f"no tile has come for 60 s; its writer, process {os.getpid()} on {host}, lives"
    assert watch.describe_silence() == alive
    assert watch.growth(0).describe() == f"0 of 64 frames measured, 0 in the image; {alive}"
    (note,) = beamline.url.parent.glob("*.writer")
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    writer = json.loads(note.read_text())
    note.write_text(json.dumps(writer | {"pid": int(ended.stdout)}))
    assert (
        f"its writer, process {int(ended.stdout)} on {host}, has died: start it again"
        in watch.describe_silence()
    )
    note.write_text(json.dumps(writer | {"machine": "another", "host": "detector"}))
    assert "its writer is process" in watch.describe_silence()
    note.unlink()
    assert watch.describe_silence().endswith("no process writes the scan: start its writer")
    beamline.send(64)
    watch.look()
    assert watch.describe_silence() == ""


def test_a_run_that_waits_says_so(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("growth.SILENT", 0.0), ("following.REPORT", 0.0), ("following.IDLE_SWEEPS", 2)):
        monkeypatch.setattr(f"daskptycho.run.{name}", value)
    reports: list[tuple[int, str]] = []

    def callback(progress: dp.Progress) -> None:
        reports.append((progress.sweep, progress.growth.silence))
        if len(reports) == 5:
            beamline.send(64)

    while not beamline.writer.written:
        beamline.send(1)
    with pytest.warns(UserWarning, match=r"the run waits: no tile has come for \d+ s; its writer, process"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=1, callback=callback)
    assert [sweep for sweep, _ in reports[:5]] == [1, 2, 2, 2, 2]
    assert "lives" in reports[4][1]
    assert reports[-1] == (3, "")


def test_a_scan_that_has_ended_without_frames_is_an_error(beamline: Beamline) -> None:
    with pytest.warns(UserWarning, match="of 64 planned frames never came"):
        beamline.writer.close()
    with pytest.raises(dp.ScanError, match="the scan has ended with 0 frames in its store, and none of them"):
        dp.reconstruct(dp.open_scan(beamline.url), follow=True)


def test_a_run_that_diverges_again_and_again_waits_for_more_frames(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.send_with_sweeps(6)
    advance, wait = Loop.advance, Watch.wait
    waited: list[int] = []
    sweeps: list[int] = []

    def spoil(own: Loop, standing: Any) -> Any:
        """R2 is NaN from the third sweep on, until the scan has ended."""
        spoilt = standing.sweep >= 2 and not own.is_last
        return advance(replace(own, counts=np.nan) if spoilt else own, standing)

    def send_rest(own: Watch, seconds: float) -> bool:
        waited.append(len(sweeps))
        beamline.send(64)
        return wait(own, seconds)

    monkeypatch.setattr(Loop, "advance", spoil)
    monkeypatch.setattr(Watch, "wait", send_rest)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = dp.reconstruct(
            dp.open_scan(beamline.url),
            follow=True,
            sweeps=3,
            update_probe=False,
            callback=lambda progress: sweeps.append(progress.sweep),
        )
    assert waited == [2 + MOST_RETURNS + 1]
    assert "gone back 6 times and waits for more frames with the start" in str(said[MOST_RETURNS].message)
    assert result.sizes["sweep"] == waited[0] + 3
    assert result.attrs["ended"] == "sweeps"
    assert float(result["residual"][-1]) < float(result["residual"][-3])


def test_sweeps_are_kept_where_more_frames_do_not_fit(
    beamline: Beamline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.zarr"

    def fit_one_tile(scan: xr.Dataset, tiling: Any, *rest: Any) -> Any:
        if len(tiling.tiles) > 1:
            raise dp.OptionError("the run does not fit into memory")
        return fit_options(scan, tiling, *rest)

    callback = beamline.send_with_sweeps(6)
    with monkeypatch.context() as small:
        small.setattr("daskptycho.run.laying_out.fit_options", fit_one_tile)
        with pytest.raises(dp.OptionError, match="does not fit") as refused:
            dp.reconstruct(dp.open_scan(beamline.url), out, follow=True, sweeps=3, callback=callback)
    (kept,) = dp.checkpoints(out)
    assert kept.sweep >= 1
    (note,) = refused.value.__notes__
    assert note.startswith(f"Sweep {kept.sweep} is kept in {out}.checkpoints; resume with: daskptycho resume")
    result = dp.resume(out, callback=lambda progress: beamline.send(6))
    assert result["frame_used"].all()


def test_a_run_that_is_killed_in_a_new_stage_keeps_its_checkpoints(
    beamline: Beamline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    found: list[Path] = []
    begin, commit = CheckpointStore.begin, CheckpointStore.commit

    def keep_what_a_kill_leaves() -> None:
        found.append(tmp_path / f"killed-{len(found)}")
        # Without the note of this process, which lives.
        shutil.copytree(folder, found[-1], ignore=shutil.ignore_patterns("*.writer"))

    def begin_copied(own: CheckpointStore, *given: Any, **options: Any) -> Any:
        keep_what_a_kill_leaves()
        return begin(own, *given, **options)

    def commit_copied(own: CheckpointStore, *given: Any) -> Any:
        keep_what_a_kill_leaves()
        done = commit(own, *given)
        keep_what_a_kill_leaves()
        return done

    monkeypatch.setattr(CheckpointStore, "begin", begin_copied)
    monkeypatch.setattr(CheckpointStore, "commit", commit_copied)
    callback = beamline.send_with_sweeps(16)
    options: dict[str, Any] = {"follow": True, "sweeps": 2, "checkpoint_every": 1, "callback": callback}
    dp.reconstruct(dp.open_scan(beamline.url), folder / "result.zarr", **options)
    assert [path.name for path in sorted(folder.iterdir())] == ["result.zarr", "result.zarr.checkpoints"]
    monkeypatch.undo()
    assert len(found) > 9
    for number, left in enumerate(found):
        # Three copies a checkpoint; the first has none before it.
        if number >= 3:
            assert dp.checkpoints(left / "result.zarr")[-1].sweep >= number // 3
    resumed = dp.resume(found[4] / "result.zarr")
    assert resumed["frame_used"].all()


def test_a_run_that_is_killed_between_two_renames_keeps_its_checkpoints(
    beamline: Beamline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "run", Path.rename
    folder.mkdir()
    found: list[Path] = []

    def rename_copied(own: Path, target: Path) -> Path:
        done = rename(own, target)
        if target.name == "result.zarr.checkpoints.old":
            found.append(tmp_path / f"killed-{len(found)}")
            shutil.copytree(folder, found[-1], ignore=shutil.ignore_patterns("*.writer"))
        return done

    monkeypatch.setattr(Path, "rename", rename_copied)
    options: dict[str, Any] = {"follow": True, "sweeps": 2, "checkpoint_every": 1}
    callback = beamline.send_with_sweeps(16)
    dp.reconstruct(dp.open_scan(beamline.url), folder / "result.zarr", callback=callback, **options)
    monkeypatch.undo()
    assert found
    for killed in found:
        assert not (killed / "result.zarr.checkpoints").exists()
        assert dp.checkpoints(killed / "result.zarr")[-1].sweep >= 1
    assert dp.resume(found[0] / "result.zarr")["frame_used"].all()
    assert sorted(left.name for left in found[0].iterdir()) == ["result.zarr", "result.zarr.checkpoints"]


def test_the_command_line_follows(beamline: Beamline, tmp_path: Path) -> None:
    beamline.send(64)
    out = str(tmp_path / "result.zarr")
    done = CliRunner().invoke(
        daskptycho, ["reconstruct", str(beamline.url), out, "--follow", "--sweeps", "3", "--verbose"]
    )
    assert done.exit_code == 0, done.output
    assert "after 3 sweeps" in done.output
    assert dp.open_result(out)["frame_used"].all()


@pytest.mark.parametrize("out", [None, "result.zarr"])
def test_workers_of_a_cluster_follow_too(source: xr.Dataset, tmp_path: Path, out: str | None) -> None:
    """With the same frames after the same sweeps, the image is that of threads, also over checkpoints."""
    images = []
    for name in ("threads", "cluster"):
        beamline = Beamline(source, tmp_path / f"{name}.zarr")
        callback = beamline.send_with_sweeps(6)
        options: dict[str, Any] = {"follow": True, "sweeps": 12, "callback": callback}
        with ExitStack() as open_now:
            if name == "cluster":
                cluster = open_now.enter_context(
                    LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=None)
                )
                open_now.enter_context(Client(cluster))
            target = None if out is None else tmp_path / f"{name}-{out}"
            images.append(dp.reconstruct(dp.open_scan(beamline.url), target, **options)["object"].values)
    assert dp.relative_error(images[1], images[0]) < 1e-4


@pytest.mark.timeout(300)
def test_workers_may_join_as_tiles_come(source: xr.Dataset, tmp_path: Path) -> None:
    """They get tiles of their own, and the image is that of threads."""
    beamline = Beamline(source, tmp_path / "scan.zarr")
    seen: list[tuple[int, int]] = []
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        adaptive = cluster.adapt(minimum=1, maximum=1, interval="50 ms")

        def widen(progress: dp.Progress) -> None:
            if progress.growth.taken_up > TILE and adaptive.minimum == 1:
                adaptive.minimum = adaptive.maximum = 3
                client.wait_for_workers(3, timeout=60)
            seen.append((progress.growth.taken_up, len(set(progress.homes()))))

        callback = beamline.send_with_sweeps(6, widen)
        followed = dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=12, callback=callback)
    assert seen[0] == (TILE, 1)
    assert seen[-1] == (64, 3)
    again = Beamline(source, tmp_path / "again.zarr")
    threads = dp.reconstruct(
        dp.open_scan(again.url), follow=True, sweeps=12, callback=again.send_with_sweeps(6)
    )
    assert dp.relative_error(followed["object"].values, threads["object"].values) < 1e-4


def test_without_a_probe_one_is_guessed_from_the_first_frames(source: xr.Dataset, tmp_path: Path) -> None:
    beamline = Beamline(source.drop_vars("truth_probe"), tmp_path / "scan.zarr", probe=None)
    sweeps: list[int] = []
    callback = beamline.send_with_sweeps(16, lambda progress: sweeps.append(progress.growth.taken_up))
    with warnings.catch_warnings():
        # What is guessed is said.
        warnings.simplefilter("ignore")
        result = dp.reconstruct(dp.open_scan(beamline.url), follow=True, sweeps=3, callback=callback)
    assert sweeps[0] < 64
    assert result["probe"].shape == (1, 16, 16)
