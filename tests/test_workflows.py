"""The workflows on clusters; on a machine without SLURM, its jobs run as processes."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from distributed import LocalCluster

import daskptycho as dp

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / "workflows"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    dp.simulate_scan(tmp_path / "scan.zarr", frames=(6, 6), frame_size=16, step=4, tile_frames=9)
    return tmp_path / "scan.zarr"


def run_script(name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(WORKFLOWS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_any_cluster_is_used_and_an_existing_run_is_continued(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    dp.reconstruct(dp.open_scan(scan), out, sweeps=97)
    with LocalCluster(
        1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        done = run_script("any_cluster.py", cluster.scheduler_address, scan, out)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("sweep")] == [
        "sweep 98",
        "sweep 99",
        "sweep 100",
    ]
    assert dp.open_result(out).sizes["sweep"] == 100
    assert "any_cluster.py tcp://" in run_script("any_cluster.py").stderr


@pytest.mark.parametrize("lose", [0, 7])
def test_frames_of_a_zeromq_stream_are_written_while_they_come(scan: Path, tmp_path: Path, lose: int) -> None:
    pytest.importorskip("zmq")
    source, grown = dp.open_scan(scan), tmp_path / "grown.zarr"
    in_order = np.argsort(source["frame_number"].values)
    np.savetxt(tmp_path / "plan.txt", source["position"].values[in_order])
    address = f"ipc://{tmp_path}/stream"
    detector = subprocess.Popen(
        [
            *(sys.executable, str(WORKFLOWS / "zeromq_detector.py"), str(scan), address),
            *("--rate", "1000", "--lose", str(lose), "--shuffle", "5"),
        ]
    )
    try:
        done = run_script(
            *("zeromq.py", address, grown, "--plan", tmp_path / "plan.txt", "--probe", scan),
            *("--tile-frames", 9, "--queue", 4),
        )
    finally:
        detector.kill()
        detector.wait()
    assert done.returncode == 0, done.stderr
    lost = [] if lose == 0 else [6, 13, 20, 27, 34]
    assert f"{36 - len(lost)} frames written, 0 outside the plan, 0 repeated" in done.stdout
    assert ("frames 6, 13, 20, 27 and 34 of 36 planned frames never came" in done.stderr) == bool(lost)
    found = dp.open_scan(grown)
    used = found["frame_used"].values
    assert sorted(found["frame_number"].values[~used].tolist()) == lost
    assert (found["frame_number"] == source["frame_number"]).all()
    np.testing.assert_array_equal(found["intensity"].values[used], source["intensity"].values[used])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stop_after", [36, 30])
def test_frames_of_a_run_on_a_tiled_server_are_written_while_they_come(
    scan: Path, tmp_path: Path, stop_after: int
) -> None:
    """With measured positions, which differ from the planned ones; and where the run ends early."""
    server = pytest.importorskip("tiled.server", reason="tiled[server] is not installed")
    source, grown = dp.open_scan(scan), tmp_path / "grown.zarr"
    order = np.argsort(source["frame_number"].values)
    planned = source["position"].values[order]
    np.savetxt(tmp_path / "plan.txt", planned + np.random.default_rng(0).uniform(-1, 1, planned.shape))
    with server.SimpleTiledServer(tmp_path / "server") as running:
        address = running.uri.partition("?")[0]
        key = {"TILED_API_KEY": running.api_key}
        detector = subprocess.Popen(
            [
                *(sys.executable, str(WORKFLOWS / "tiled_detector.py"), str(scan), address, "42"),
                *("--rate", "100", "--stop-after", str(stop_after)),
            ],
            env=os.environ | key,
        )
        try:
            done = run_script(
                *("tiled_scan.py", address, "42", grown, "--plan", tmp_path / "plan.txt"),
                *("--positions", "positions", "--tile-frames", 9),
                **key,
            )
        finally:
            detector.kill()
            detector.wait()
    assert done.returncode == 0, done.stderr
    assert f"{stop_after} frames written, 0 outside the plan" in done.stdout
    assert ("frames 30, 31, 32, 33, 34 and 35 of 36 planned frames never came" in done.stderr) == (
        stop_after == 30
    )
    found = dp.open_scan(grown)
    used, number = found["frame_used"].values, found["frame_number"].values
    assert sorted(number[used]) == list(range(stop_after))
    expected = source.isel(frame=order[number[used]])
    np.testing.assert_array_equal(found["intensity"].values[used], expected["intensity"].values)
    np.testing.assert_allclose(found["position"].values[used], expected["position"].values)


def test_frames_on_a_tiled_server_wait_for_their_positions(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the array of positions appears after that of the frames, no frame gets its planned position."""
    source, grown = dp.open_scan(scan), tmp_path / "grown.zarr"
    order = np.argsort(source["frame_number"].values)
    measured = source["position"].values[order]
    np.savetxt(tmp_path / "plan.txt", measured + np.random.default_rng(0).uniform(-1, 1, measured.shape))

    class Run(dict[str, np.ndarray]):
        looks = 0

        @property
        def metadata(self) -> dict[str, dict]:
            return {"stop": {}} if self.looks > 2 else {}

        def __contains__(self, name: object) -> bool:
            self.looks += name == "positions"
            return super().__contains__(name) and (name == "frames" or self.looks > 2)

    run = Run(frames=source["intensity"].values[order], positions=measured)
    client = ModuleType("tiled.client")
    vars(client)["from_uri"] = lambda _: {"42": run}
    monkeypatch.setitem(sys.modules, "tiled", ModuleType("tiled"))
    monkeypatch.setitem(sys.modules, "tiled.client", client)
    given = ["http://server", "42", str(grown), "--plan", str(tmp_path / "plan.txt")]
    monkeypatch.setattr(sys, "argv", ["tiled_scan.py", *given, "--positions", "positions"])
    runpy.run_path(str(WORKFLOWS / "tiled_scan.py"), run_name="__main__")
    found = dp.open_scan(grown)
    expected = source["position"].values[order][found["frame_number"].values]
    np.testing.assert_allclose(found["position"].values, expected)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[str]:
    """A PATH on which sbatch starts a job script in the background, and scancel ends it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    commands = {
        "sbatch": f"""
            # SLURM keeps a copy as well, because the script is removed as soon as sbatch ends.
            cp "$1" {jobs}/script.$$
            setsid sh {jobs}/script.$$ > {jobs}/out.$$ 2>&1 < /dev/null &
            echo $! > {jobs}/$!
            echo "Submitted batch job $!"
        """,
        "scancel": """
            for job in "$@"; do kill -TERM -- "-$job"; done
        """,
    }
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}")
        (folder / name).chmod(0o755)
    yield f"{folder}{os.pathsep}{os.environ['PATH']}"
    for job in jobs.glob("[0-9]*"):
        subprocess.run(["kill", "-KILL", "--", f"-{job.name}"], check=False, stderr=subprocess.DEVNULL)


@pytest.mark.long
def test_slurm_jobs_compute(scan: Path, tmp_path: Path, slurm: str) -> None:
    pytest.importorskip("dask_jobqueue", reason="comes with daskptycho[slurm]")
    out = tmp_path / "r.zarr"
    done = run_script(
        *("slurm.py", scan, out, "--jobs", 2, "--cores", 1, "--memory", "2GiB", "--sweeps", 4),
        *("--walltime", "00:30:00", "--queue", "short", "--account", "mx1234", "--interface", "lo"),
        PATH=slurm,
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "#SBATCH -p short",
        "#SBATCH -A mx1234",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --mem=2G",
        "#SBATCH -t 00:30:00",
    ):
        assert line in done.stdout
    script = next((tmp_path / "jobs").glob("script.*")).read_text()
    assert "--lifetime 1680s" in script
    assert "sweep 4: residual" in done.stdout
    expected = dp.reconstruct(dp.open_scan(scan), sweeps=4)["object"].values
    assert dp.relative_error(dp.open_result(out)["object"].values, expected) < 1e-5
