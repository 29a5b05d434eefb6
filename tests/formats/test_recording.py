"""Recording of frames that another process or thread is still writing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.formats.arriving_frames import open_source

FRAMES, SIZE = 36, 8


def counts() -> np.ndarray:
    return np.random.default_rng(5).poisson(40, (FRAMES, SIZE, SIZE)).astype(np.uint16)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors of other tests may take their time."""
    monkeypatch.setattr("daskptycho.formats.recording.SILENT", np.inf)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Planned positions as a motor controller writes them: x before y, in micrometres."""
    y, x = np.mgrid[:6, :6] * 0.3
    lines = [f"{a:.3f},{b:.3f}" for a, b in zip(x.ravel(), y.ravel(), strict=True)]
    path = tmp_path / "plan.csv"
    path.write_text("\n".join(["x_um,y_um", *lines]))
    return path


GEOMETRY = {"pixel_size_m": 1e-7, "tile_frames": 9}

# A detector that writes into a file of its own, in a process of its own.
DETECTOR = """
import sys, time
import h5py
from tests.formats.test_recording import counts
path, mode, rows = sys.argv[1:]
swmr = mode == "swmr"
with h5py.File(path, "w", libver="latest" if swmr else None) as file:
    data = file.create_dataset(
        "entry/data", (0, 8, 8), "uint16", maxshape=(None, 8, 8), chunks=(int(rows), 8, 8)
    )
    if swmr:
        file.swmr_mode = True
    for number, frame in enumerate(counts()):
        data.resize(number + 1, axis=0)
        data[number] = frame
        file.flush()
        time.sleep(0.01)
    sys.stdin.readline()
"""


@pytest.fixture(params=[("swmr", 1), ("plain", 1), ("swmr", 12)])
def detector_file(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    pytest.importorskip("h5py")
    path, (mode, rows) = tmp_path / "frames.h5", request.param
    with subprocess.Popen(
        [sys.executable, "-c", DETECTOR, str(path), mode, str(rows)], stdin=subprocess.PIPE
    ) as detector:
        try:
            yield path
            assert detector.poll() is None, "the detector ended before its file was read"
        finally:
            detector.communicate(b"\n")


def check(scan: Any) -> None:
    assert scan["frame_used"].all()
    number = scan["frame_number"].values
    np.testing.assert_array_equal(scan["intensity"].values, counts()[number])
    planned = np.stack([number // 6, number % 6], axis=1) * 0.3e-6
    np.testing.assert_allclose(scan["position"].values, planned, atol=1e-15)
    assert scan["position"].attrs["units"] == "m"


def test_a_file_that_is_being_written_is_recorded(detector_file: Path, plan: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    check(
        dp.record(
            detector_file, tmp_path / "scan.zarr", plan, progress=lambda *now: seen.append(now), **GEOMETRY
        )
    )
    assert seen == sorted(seen)
    assert seen[-1] == (FRAMES, FRAMES)


def test_files_that_fall_into_a_folder_are_recorded_on_the_command_line(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()

    def write() -> None:
        for number in np.random.default_rng(1).permutation(FRAMES):
            np.save(folder / f"frame_{number + 1:04d}.npy", counts()[number])
            sleep(0.005)

    thread = threading.Thread(target=write)
    thread.start()
    np.save(tmp_path / "probe.npy", np.ones((SIZE, SIZE)))
    done = CliRunner().invoke(
        daskptycho,
        [
            *("record", str(folder), str(tmp_path / "scan.zarr"), "--plan", str(plan)),
            *("--first-number", "1", "--pixel-size-m", "1e-7", "--tile-frames", "9"),
            *("--probe", str(tmp_path / "probe.npy")),
        ],
    )
    thread.join()
    assert done.exit_code == 0, done.output
    assert "36 frames of 36 planned ones" in done.output
    scan = dp.open_scan(tmp_path / "scan.zarr")
    check(scan)
    assert (scan["probe"] == 1).all()


def test_a_recording_that_was_cut_off_goes_on(plan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(counts()):
        np.save(folder / f"{number}.npy", frame)

    class CutOff(Exception):
        pass

    def cut_off(number: int, total: int) -> None:
        if number == 30:
            raise CutOff

    with pytest.raises(CutOff):
        dp.record(folder, tmp_path / "scan.zarr", plan, progress=cut_off, **GEOMETRY)
    assert 0 < dp.open_scan(tmp_path / "scan.zarr").attrs["tiles_written"] < 4
    check(dp.record(folder, tmp_path / "scan.zarr", plan, **GEOMETRY))


def test_the_parts_of_an_eiger_follow_one_another(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "run_master.h5", "w") as master:
        for part in (1, 2, 3):
            name = f"data_{part:06d}"
            master[f"entry/data/{name}"] = h5py.ExternalLink(f"run_{name}.h5", "entry/data/data")
    source = open_source(tmp_path / "run_master.h5")
    wanted = np.ones(FRAMES, dtype=bool)
    assert list(source.arrived(wanted)) == []
    for part, frames in enumerate(np.split(counts(), [15, 30]), start=1):
        with h5py.File(tmp_path / f"run_data_{part:06d}.h5", "w") as file:
            file["entry/data/data"] = frames
        # The last frame of a part without chunks counts once it is the same at two looks.
        for _ in range(2):
            for numbers, block in source.arrived(wanted):
                np.testing.assert_array_equal(block, counts()[numbers])
                wanted[numbers] = False
        assert not wanted[: 15 * part].any()
    assert not wanted.any()


def test_what_never_comes_is_said(plan: Path, tmp_path: Path) -> None:
    with pytest.raises(dp.ScanError, match=r"no frame has come from .*nothing.h5 for 0.2 s"):
        dp.record(tmp_path / "nothing.h5", tmp_path / "scan.zarr", plan, wait_seconds=0.2)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(30):
        np.save(folder / f"{number}.npy", counts()[number])
    with pytest.warns(UserWarning, match="frames 30, 31, 32, 33, 34 and 35 of 36 planned frames never came"):
        scan = dp.record(folder, tmp_path / "scan.zarr", plan, wait_seconds=0.5, **GEOMETRY)
    assert scan["frame_used"].sum() == 30
    with pytest.raises(dp.OptionError, match="wait_seconds is 0; expected above 0"):
        dp.record(folder, tmp_path / "scan.zarr", plan, wait_seconds=0)


@pytest.mark.parametrize("chunks", [(12, SIZE, SIZE), (1, SIZE // 2, SIZE), (5, SIZE, SIZE // 2), None])
def test_frames_of_a_dataset_that_is_only_partly_written_are_not_taken(
    tmp_path: Path, chunks: tuple[int, ...] | None
) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", counts().shape, "uint16", chunks=chunks)
    source, came = open_source(path), np.zeros(FRAMES, dtype=bool)
    shown = counts()
    # A dark frame in between is one like the others.
    shown[7] = 0
    for number, frame in enumerate(shown):
        half = frame.copy()
        half[SIZE // 2 :] = 0
        for written in (half, frame):
            with h5py.File(path, "r+") as file:
                file["entry/data"][number] = written
            for numbers, block in source.arrived(~came):
                np.testing.assert_array_equal(block, shown[numbers])
                came[numbers] = True
            assert not came[number + 1 :].any()
    for numbers, _ in source.arrived(~came):
        came[numbers] = True
    assert came.all()


def test_frames_of_a_virtual_dataset_come_with_the_files_that_hold_them(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layout = h5py.VirtualLayout(counts().shape, "uint16")
    for part in range(3):
        layout[12 * part : 12 * part + 12] = h5py.VirtualSource(
            str(tmp_path / f"part{part}.h5"), "data", (12, SIZE, SIZE)
        )
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    source, came = open_source(tmp_path / "all.h5"), np.zeros(FRAMES, dtype=bool)
    for part in range(3):
        with h5py.File(tmp_path / f"part{part}.h5", "w") as file:
            file["data"] = counts()[12 * part : 12 * part + 12]
        for _ in range(2):
            for numbers, block in source.arrived(~came):
                np.testing.assert_array_equal(block, counts()[numbers])
                came[numbers] = True
        np.testing.assert_array_equal(came, np.arange(FRAMES) < 12 * part + 12)


def test_names_in_capitals_and_files_that_vanish_are_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "0.npy", counts()[0])
    (tmp_path / "0.npy").rename(tmp_path / "0.NPY")
    gone = tmp_path / "1.npy"
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([*listed(folder), gone]))
    source, wanted = open_source(tmp_path), np.ones(2, dtype=bool)
    assert list(source.arrived(wanted)) == []
    ((numbers, block),) = source.arrived(wanted)
    np.testing.assert_array_equal(numbers, [0])
    np.testing.assert_array_equal(block, counts()[:1])


def test_frames_beyond_the_plan_are_named(plan: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file.create_dataset(
            "entry/data", data=np.concatenate([counts(), counts()[:3]]), chunks=(1, SIZE, SIZE)
        )
    said = r"frames 36, 37 and 38 of .*frames\.h5 are beyond the plan of 36 positions, and left out"
    with pytest.warns(UserWarning, match=said):
        check(dp.record(tmp_path / "frames.h5", tmp_path / "scan.zarr", plan, **GEOMETRY))


def test_what_a_recording_waits_for_is_said(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr("daskptycho.formats.recording.SILENT", 0.0)
    path, folder = tmp_path / "frames.h5", tmp_path / "folder"
    folder.mkdir()

    def record(source: Path, lacking: str, **options: Any) -> None:
        with (
            pytest.warns(UserWarning, match=f"record waits: .*{lacking}.* \\(for 0.3 s at most\\)"),
            pytest.raises(dp.ScanError, match=f"no frame has come from .* for 0.3 s: .*{lacking}"),
        ):
            dp.record(source, tmp_path / "scan.zarr", plan, wait_seconds=0.3, **options, **GEOMETRY)

    record(path, "frames.h5 does not exist yet")
    path.write_bytes(b"not yet")
    record(path, "frames.h5 cannot be opened yet")
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/dark", (0, SIZE, SIZE), "uint16", maxshape=(None, SIZE, SIZE))
    record(path, r"has no entry/frames yet \(intensity_key, --intensity-key\)", intensity_key="entry/frames")
    record(path, "has 0 frames, and no new one that is whole")
    record(folder, "has 0 numbered files")
    assert not (tmp_path / "scan.zarr").exists()
