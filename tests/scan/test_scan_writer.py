"""Scans that grow: any order of frames, any moment of a reader, any end of a writer."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.scan import scan_writer
from daskptycho.storage import folder as folder_storage

SIDE, SIZE, TILE = 6, 8, 9
FRAMES = SIDE * SIDE


def plan() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] * 3.0
    return np.stack([y.ravel(), x.ravel()], axis=1)


@cache
def counts() -> np.ndarray:
    """Different counts in each frame, with about the same sum."""
    return np.random.default_rng(5).poisson(40, (FRAMES, SIZE, SIZE)).astype(np.uint16)


def lay_out(path: Path | str) -> xr.Dataset:
    return dp.create_scan(
        path,
        planned_position=plan(),
        frame_shape=(SIZE, SIZE),
        dtype="uint16",
        position_unit="pixel",
        tile_frames=TILE,
        probe=np.hanning(SIZE + 2)[1:-1, None] * np.hanning(SIZE + 2)[None, 1:-1],
        overwrite=True,
    )


def check_readable(path: Path | str) -> int:
    """Open the scan as it is now and compare every frame that it says it has; their number."""
    scan = dp.open_scan(path)
    used = scan["frame_used"].values
    number = scan["frame_number"].values[used]
    np.testing.assert_array_equal(scan["intensity"].values[used], counts()[number])
    np.testing.assert_array_equal(scan["position"].values[used], plan()[number])
    return int(used.sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("growing")


@settings(max_examples=8)
@given(order=st.permutations(range(FRAMES)), size=st.integers(3, 20))
def test_any_order_and_any_blocks_make_the_scan_that_is_written_at_once(
    folder: Path, order: list[int], size: int
) -> None:
    lay_out(folder / "grown.zarr")
    seen = 0
    with dp.ScanWriter(folder / "grown.zarr") as writer:
        for start in range(0, FRAMES, size):
            numbers = order[start : start + size]
            assert writer.write(counts()[numbers], numbers) == len(numbers)
            found = check_readable(folder / "grown.zarr")
            assert found % TILE == 0
            assert found >= seen
            assert found == writer.written
            assert writer.written + writer.pending == min(start + size, FRAMES)
            seen = found
    at_once = dp.create_scan(
        folder / "once.zarr", counts(), plan(), position_unit="pixel", tile_frames=TILE, overwrite=True
    )
    grown = dp.open_scan(folder / "grown.zarr")
    assert grown["frame_used"].all()
    assert grown["intensity"].chunks == at_once["intensity"].chunks
    for name in ("intensity", "position", "frame_number"):
        np.testing.assert_array_equal(grown[name].values, at_once[name].values)


class Killed(BaseException):
    """What stands for the end of the process: nothing of the package catches it."""


@settings(max_examples=20)
@given(after=st.integers(0, 15), torn=st.booleans())
def test_a_writer_that_ends_at_any_write_leaves_a_scan_to_go_on_with(
    folder: Path, after: int, torn: bool
) -> None:
    path = folder / "killed.zarr"
    lay_out(path)
    writes = 0
    write = LocalStore.set

    async def set_until_killed(self: LocalStore, key: str, value: object) -> None:
        nonlocal writes
        writes += 1
        if writes > after:
            if torn:
                # What a process that is killed within a write leaves beside the file.
                partial = Path(self.root / key).with_suffix(".0123.partial")
                partial.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(value.to_bytes()[:20])  # type: ignore[attr-defined]
            raise Killed
        await write(self, key, value)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        writer = dp.ScanWriter(path)
        patch.setattr(LocalStore, "set", set_until_killed)
        with pytest.raises(Killed), writer:
            writer.write(counts(), np.arange(FRAMES))
    there = check_readable(path)
    assert there == (after // 4) * TILE
    with dp.ScanWriter(path) as writer:
        assert writer.written == there
        missing = writer.missing
        assert len(missing) == FRAMES - there
        writer.write(counts()[missing], missing)
    assert check_readable(path) == FRAMES
    assert not list(path.rglob("*.partial"))


KILLED = """
import os, signal, sys
import numpy as np
from zarr.storage import LocalStore
import daskptycho as dp
from tests.scan.test_scan_writer import counts
path, after = sys.argv[1], int(sys.argv[2])
write, writes = LocalStore.set, 0
async def set_until_killed(self, key, value):
    global writes
    writes += 1
    if writes > after:
        os.kill(os.getpid(), signal.SIGKILL)
    await write(self, key, value)
writer = dp.ScanWriter(path)
LocalStore.set = set_until_killed
for number in range(len(counts())):
    writer.write(counts()[number], number)
"""


@pytest.mark.parametrize("after", [0, 6, 7])
def test_a_process_that_is_killed_is_succeeded_by_the_next(tmp_path: Path, after: int) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(after)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert check_readable(path) == (after // 4) * TILE
    with dp.ScanWriter(path) as writer:
        writer.write(counts()[writer.missing], writer.missing)
    assert check_readable(path) == FRAMES
    assert [left.name for left in tmp_path.iterdir()] == ["scan.zarr"]


def test_two_writers_take_what_is_theirs_of_the_same_frames(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    with dp.ScanWriter(path, tiles=range(2)) as one, dp.ScanWriter(path, tiles=[2, 3]) as other:
        with pytest.raises(dp.ScanError, match="is being written by process"):
            dp.ScanWriter(path, tiles=[1, 2])
        taken = [
            (one.write(counts()[number], number), other.write(counts()[number], number))
            for number in range(FRAMES)
        ]
        assert {sum(of_both) for of_both in taken} == {1}
    assert check_readable(path) == FRAMES
    with pytest.raises(dp.OptionError, match="expected consecutive ones of the scan's 4"):
        dp.ScanWriter(path, tiles=[0, 2])


def test_frames_outside_the_plan_and_repeated_ones_are_counted_and_said(tmp_path: Path) -> None:
    lay_out(tmp_path / "scan.zarr")
    other = counts()[:3, ::-1]
    writer = dp.ScanWriter(tmp_path / "scan.zarr")
    with pytest.warns(UserWarning, match="frames 36 and 99 are outside the plan of 36 frames"):
        assert writer.write(other, [36, 7, 99]) == 1
    assert writer.write(counts()[[3]], [7]) == 0
    writer.write(counts()[:7], np.arange(7))
    writer.write(counts()[8:], np.arange(8, FRAMES))
    assert (writer.outside, writer.repeated, writer.written) == (2, 1, FRAMES)
    assert writer.write(counts()[[7]], [7]) == 0
    with pytest.warns(UserWarning, match="2 frames were outside the plan, and are left out"):
        writer.close()
    kept = dp.open_scan(tmp_path / "scan.zarr")
    own = kept["intensity"].values[kept["frame_number"].values == 7][0]
    np.testing.assert_array_equal(own, other[1])


def test_missing_frames_are_left_out_at_the_end_and_said(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    tile = set(dp.open_scan(path)["frame_number"].values[:TILE].tolist())
    lost = sorted({*tile, 33})
    writer = dp.ScanWriter(path)
    came = np.setdiff1d(np.arange(FRAMES), lost)
    writer.write(counts()[came], came)
    np.testing.assert_array_equal(writer.missing, lost)
    with pytest.warns(UserWarning, match="of 36 planned frames never came, and are left out"):
        writer.close()
    assert check_readable(path) == len(came)
    scan = dp.open_scan(path)
    assert scan.attrs["tiles_written"] == scan.attrs["tiles"] == 4
    assert set(scan["frame_number"].values[~scan["frame_used"].values].tolist()) == set(lost)
    assert dp.reconstruct(scan, sweeps=2)["frame_used"].sum() == len(came)


def test_measured_positions_come_before_with_or_after_their_frames(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    measured = plan() + np.random.default_rng(0).uniform(-1, 1, (FRAMES, 2))
    with dp.ScanWriter(path) as writer:
        writer.write_position(np.arange(10), measured[:10])
        writer.write(counts()[:20], np.arange(20))
        writer.write(counts()[20:], np.arange(20, FRAMES), measured[20:])
        assert writer.pending == 0
        writer.write_position(np.arange(10, 20), measured[10:20])
    scan = dp.open_scan(path)
    np.testing.assert_array_equal(scan["position"].values, measured[scan["frame_number"].values])


def test_a_frame_measured_off_the_canvas_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    position = plan()
    position[17] += 500
    with (
        pytest.warns(UserWarning, match="frame 17 lie off the canvas of the plan"),
        pytest.warns(UserWarning, match="1 frames were outside the plan"),
        dp.ScanWriter(path) as writer,
    ):
        writer.write(counts(), np.arange(FRAMES), position)
    scan = dp.open_scan(path)
    assert scan["frame_number"].values[~scan["frame_used"].values].tolist() == [17]


def test_what_is_wrong_with_the_detector_is_said_after_the_first_tile(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    faulty = counts().copy()
    faulty[:, 2, 3] = 65535
    writer = dp.ScanWriter(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(FRAMES):
            writer.write(faulty[number], number)
            if writer.written == TILE and number < FRAMES - 1 and writer.pending == 0:
                assert any("taken as not valid" in str(said.message) for said in caught)
        writer.close()
    assert sum("taken as not valid" in str(said.message) for said in caught) == 1
    scan = dp.open_scan(path)
    assert np.argwhere(~scan["valid"].values).tolist() == [[2, 3]]
    assert (scan["intensity"].values[:, 2, 3] == 0).all()


def test_info_says_how_far_a_scan_is(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    tile = dp.open_scan(path)["frame_number"].values[:TILE]
    with dp.ScanWriter(path) as writer:
        writer.write(counts()[tile], tile)
        said = CliRunner().invoke(daskptycho, ["info", str(path)]).output
        assert "1 of 4 tiles so far" in said
        assert "9 of 8 x 8 pixels" in said
        writer.write(counts()[writer.missing], writer.missing)
    assert "so far" not in CliRunner().invoke(daskptycho, ["info", str(path)]).output


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    with pytest.raises(dp.OptionError, match="frame_shape None and dtype uint16; expected the pixels"):
        dp.create_scan(path, planned_position=plan(), dtype="uint16")
    with pytest.raises(dp.OptionError, match="position and leave_out with planned_position"):
        dp.create_scan(
            path, position=plan(), planned_position=plan(), frame_shape=(8, 8), dtype="uint16", leave_out=[1]
        )
    with pytest.raises(dp.ScanError, match="no intensity, or no position"):
        dp.create_scan(path)
    lay_out(path)
    with pytest.raises(dp.ScanError, match="frame_used is False for every frame"):
        dp.reconstruct(dp.open_scan(path), sweeps=1)
    with dp.ScanWriter(path) as writer:
        with pytest.raises(dp.ScanError, match="expected frames of 8 x 8 pixels"):
            writer.write(np.zeros((2, 4, 8)), [0, 1])
        large = counts().astype(np.int64)
        large[0] += 70_000
        with pytest.raises(dp.ScanError, match=r"frame 0 of type int64 holds .* counts that fit into uint16"):
            writer.write(large, np.arange(FRAMES))
        np.testing.assert_array_equal(writer.missing, [0])
        with pytest.raises(dp.ScanError, match="position has 3 places; expected 1"):
            writer.write(counts()[0], 0, plan()[:3])
        writer.write(counts()[0].astype(np.int64), 0)
    assert check_readable(path) == FRAMES
    dp.create_scan(tmp_path / "once.zarr", counts(), plan(), position_unit="pixel")
    with pytest.raises(dp.ScanError, match="was written at once; expected a scan laid out"):
        dp.ScanWriter(tmp_path / "once.zarr")


def tile_numbers(path: Path, tile: int) -> np.ndarray:
    """Numbers of the frames of a tile."""
    return dp.open_scan(path)["frame_number"].values[TILE * tile : TILE * (tile + 1)]


def test_a_tile_without_any_count_is_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    dark = counts().copy()
    dark[tile_numbers(path, 1)] = 0
    with (
        warnings.catch_warnings(),
        dp.ScanWriter(path) as writer,
    ):
        warnings.simplefilter("ignore")
        writer.write(dark, np.arange(FRAMES))
    scan = dp.open_scan(path)
    np.testing.assert_array_equal(scan["intensity"].values, dark[scan["frame_number"].values])


def test_a_tile_that_is_wholly_off_the_canvas_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    lost = tile_numbers(path, 2)
    position = plan()
    position[lost] += 500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dp.ScanWriter(path) as writer:
            writer.write(counts(), np.arange(FRAMES), position)
    assert writer.outside == TILE
    scan = dp.open_scan(path)
    np.testing.assert_array_equal(scan["frame_number"].values[~scan["frame_used"].values], lost)


def test_a_writer_that_comes_while_another_one_ends_sees_what_that_one_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    first = dp.ScanWriter(path)
    claim = scan_writer.claim_part

    def end_first_and_claim(*part: Any) -> Path | None:
        first.write(counts(), np.arange(FRAMES))
        first.close()
        return claim(*part)

    monkeypatch.setattr(scan_writer, "claim_part", end_first_and_claim)
    with dp.ScanWriter(path) as second:
        assert second.written == FRAMES
        assert second.missing.size == 0
    assert check_readable(path) == FRAMES


def test_a_writer_that_cannot_begin_leaves_its_tiles_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)

    def fail(*_: Any) -> None:
        raise dp.StoreError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(scan_writer, "open_arrays", fail)
        with pytest.raises(dp.StoreError, match="the disk is gone"):
            dp.ScanWriter(path)
    assert [left.name for left in tmp_path.iterdir()] == ["scan.zarr"]


def test_a_position_off_the_canvas_that_comes_late_leaves_its_frame_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    writer = dp.ScanWriter(path)
    writer.write(counts(), np.arange(FRAMES))
    with pytest.warns(UserWarning, match="frame 17 lie off the canvas of the plan"):
        writer.write_position([16, 17], [plan()[16] + 0.5, plan()[17] + 500])
    with pytest.warns(UserWarning, match="1 frames were outside the plan"):
        writer.close()
    scan = dp.open_scan(path)
    assert scan["frame_number"].values[~scan["frame_used"].values].tolist() == [17]
    own = scan["position"].values[scan["frame_number"].values == 16][0]
    np.testing.assert_array_equal(own, plan()[16] + 0.5)


def test_a_position_that_comes_with_a_frame_of_a_written_tile_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    with dp.ScanWriter(path) as writer:
        writer.write(counts(), np.arange(FRAMES))
        assert writer.write(counts()[5], 5, plan()[[5]] + 0.25) == 0
    scan = dp.open_scan(path)
    own = scan["position"].values[scan["frame_number"].values == 5][0]
    np.testing.assert_array_equal(own, plan()[5] + 0.25)


def test_a_frame_with_impossible_counts_is_given_up_and_may_come_once_more(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    faulty = counts().astype(np.float64)
    faulty[5, 3, 4] = -1
    with dp.ScanWriter(path) as writer:
        with pytest.raises(dp.ScanError, match="1 negative value in frame 5 of the input"):
            writer.write(faulty, np.arange(FRAMES))
        np.testing.assert_array_equal(writer.missing, [5])
        assert writer.written == FRAMES - TILE
        assert writer.write(counts()[5], 5) == 1
        assert writer.repeated == 0
    assert check_readable(path) == FRAMES


def test_a_frame_with_impossible_counts_does_not_keep_a_scan_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    faulty = counts().astype(np.float64)
    bad, lost = tile_numbers(path, 0)[:2]
    faulty[bad, 3, 4] = -1
    came = np.setdiff1d(np.arange(FRAMES), [lost, tile_numbers(path, 3)[0]])
    writer = dp.ScanWriter(path)
    writer.write(faulty[came], came)
    with (
        pytest.warns(UserWarning, match="of 36 planned frames never came"),
        pytest.raises(dp.ScanError, match=f"1 negative value in frame {bad} of the input"),
    ):
        writer.close()
    assert check_readable(path) == FRAMES - 3
    assert dp.open_scan(path).attrs["tiles_written"] == 4
    assert [left.name for left in tmp_path.iterdir()] == ["scan.zarr"]


@pytest.mark.parametrize(
    ("options", "code"), [({"mask_value": -1}, -1), ({"mask_value": 70_000}, 70_000), ({}, -1)]
)
def test_codes_of_frames_of_a_signed_type_are_masked(
    tmp_path: Path, options: dict[str, Any], code: int
) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    coded = counts().astype(np.int32)
    coded[:, 2, 3] = code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dp.ScanWriter(path, **options) as writer:
            writer.write(coded, np.arange(FRAMES))
    scan = dp.open_scan(path)
    assert np.argwhere(~scan["valid"].values).tolist() == [[2, 3]]
    good = scan["valid"].values
    np.testing.assert_array_equal(
        scan["intensity"].values[:, good], counts()[scan["frame_number"].values][:, good]
    )
    assert scan["intensity"].dtype == np.uint16


def test_negative_counts_of_a_signed_type_are_clipped(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    below = counts().astype(np.int16)
    below[3, 4, 4] = -2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dp.ScanWriter(path, clip_negative=True) as writer:
            writer.write(below, np.arange(FRAMES))
    scan = dp.open_scan(path)
    assert scan["valid"].all()
    np.testing.assert_array_equal(scan["intensity"].values, np.maximum(below, 0)[scan["frame_number"].values])


def write_faulty_tiles(url: Path | str) -> None:
    """Two writers at once, each with a bad pixel in its own frames, which it finds with the first tile."""
    faulty = counts().copy()
    faulty[np.concatenate([tile_numbers(url, 0), tile_numbers(url, 1)]), 2, 3] = 65535
    faulty[np.concatenate([tile_numbers(url, 2), tile_numbers(url, 3)]), 5, 6] = 65535
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dp.ScanWriter(url, tiles=[0, 1]) as one, dp.ScanWriter(url, tiles=[2, 3]) as other:
            writers = [
                threading.Thread(target=own.write, args=(faulty, np.arange(FRAMES))) for own in (one, other)
            ]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join(timeout=60)
            assert np.argwhere(~dp.open_scan(url)["valid"].values).tolist() == [[2, 3], [5, 6]]


def test_the_masks_of_two_writers_are_joined(tmp_path: Path) -> None:
    lay_out(tmp_path / "scan.zarr")
    write_faulty_tiles(tmp_path / "scan.zarr")
    stored = zarr.open_group(tmp_path / "scan.zarr", mode="r")
    assert np.argwhere(stored["masked"][...]).tolist() == [[0, 2, 3], [2, 5, 6]]
    assert stored["valid"][...].all()


def test_a_writer_knows_the_mask_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    faulty = counts().copy()
    faulty[:, 2, 3] = 65535
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = dp.ScanWriter(path)
        first.write(faulty[tile_numbers(path, 0)], tile_numbers(path, 0))
        first._release()
        with dp.ScanWriter(path) as writer:
            writer.write(faulty[writer.missing], writer.missing)
    scan = dp.open_scan(path)
    assert np.argwhere(~scan["valid"].values).tolist() == [[2, 3]]
    assert (scan["intensity"].values[:, 2, 3] == 0).all()
    assert np.argwhere(zarr.open_group(path, mode="r")["masked"][...]).tolist() == [[0, 2, 3]]


def test_of_two_writers_whose_tiles_overlap_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.zarr"
    lay_out(path)
    claim, begun, refused = folder_storage.claim, [], []
    threads: list[threading.Thread] = []

    def begin(tiles: range) -> None:
        try:
            begun.append(dp.ScanWriter(path, tiles=tiles))
        except dp.ScanError as error:
            refused.append(error)

    def let_the_other_in(note: Path) -> Any:
        if ".tiles-" in note.name and not threads:
            # Between the look at the notes of others and the note of its own.
            threads.append(threading.Thread(target=begin, args=(range(1, 3),)))
            threads[0].start()
            threads[0].join(timeout=0.5)
        return claim(note)

    monkeypatch.setattr(folder_storage, "claim", let_the_other_in)
    begin(range(2))
    threads[0].join(timeout=60)
    assert len(begun) == len(refused) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun[0].close()
    assert [left.name for left in tmp_path.iterdir()] == ["scan.zarr"]
