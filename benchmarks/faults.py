"""Runs whose workers are killed, and runs that are killed whole and resumed: the images are compared.

    python benchmarks/faults.py            # 20 runs that lose a worker, 10 that are killed; ten minutes
    python benchmarks/faults.py --quick

A worker is killed by SIGKILL at a random moment of the run, and Dask's nanny starts another. A whole run,
all of its processes, is killed at a random moment, every second one while it writes: a checkpoint, or
its result. `daskptycho resume` goes on with it; where it left no checkpoint yet it is begun anew.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho.tasks.spec import STAY_AT_HOME

COMMAND = [sys.executable, "-m", "daskptycho"]
SAME = 1e-5


class Computed(SchedulerPlugin):
    """How often each task was computed."""

    def __init__(self) -> None:
        self.times: Counter[Any] = Counter()

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            self.times[key] += 1


def kill_workers(cluster: LocalCluster, moments: list[float], rng: np.random.Generator) -> threading.Thread:
    """Kill one worker at each of these moments, in seconds from now."""
    chosen = [int(rng.integers(len(cluster.workers))) for _ in moments]

    def kill() -> None:
        begun = time.perf_counter()
        for moment, number in zip(sorted(moments), chosen, strict=True):
            time.sleep(max(0.0, begun + moment - time.perf_counter()))
            pids = [nanny.pid for nanny in list(cluster.workers.values()) if nanny.pid is not None]
            if pids:
                os.kill(pids[number % len(pids)], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def running(client: Client) -> list[int]:
    """Processes of the workers that answer."""
    try:
        return list(client.run(os.getpid, on_error="ignore").values())
    except OSError:
        return []


def lost_workers(scan: Any, sweeps: int, runs: int, kills: int, rng: np.random.Generator) -> Table:
    """Runs that lose workers, against one that loses none."""
    table = Table(title=f"Workers killed, {kills} in each run of {sweeps} sweeps")
    for name in (
        "run",
        "killed at",
        "sweeps done twice",
        "tasks computed twice",
        "time",
        "error of the image",
    ):
        table.add_column(name, justify="right")
    with (
        dask.config.set(STAY_AT_HOME),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        dp.reconstruct(scan, sweeps=2)
        begun = time.perf_counter()
        expected = dp.reconstruct(scan, sweeps=sweeps)["object"].values
        undisturbed = time.perf_counter() - begun
        for run in range(1, runs + 1):
            # A nanny whose worker is killed while it starts gives up; the cluster makes another when asked.
            until(lambda: cluster.scale(2) or len(running(client)) == 2)
            computed, seen = Computed(), []
            cluster.scheduler.add_plugin(computed, name="computed")
            moments = sorted(rng.uniform(0, undisturbed, kills))
            begun = time.perf_counter()
            killing = kill_workers(cluster, moments, rng)
            found = dp.reconstruct(
                scan, sweeps=sweeps, callback=lambda progress, seen=seen: seen.append(progress.sweep)
            )
            seconds = time.perf_counter() - begun
            killing.join()
            cluster.scheduler.remove_plugin("computed")
            again = sum(computed.times.values()) - len(computed.times)
            error = dp.relative_error(found["object"].values, expected)
            row = (
                str(run),
                ", ".join(f"{100 * moment / undisturbed:.0f} %" for moment in moments),
                str(len(seen) - sweeps),
                f"{again} of {len(computed.times)} ({100 * again / len(computed.times):.1f} %)",
                f"{seconds / undisturbed:.2f}",
                f"{error:.1e}",
            )
            print(*row, sep="   ", file=sys.stderr)
            table.add_row(*row)
            assert error < SAME, f"run {run} gave another image: {error:.1e}"
    table.caption = "time: of an undisturbed run"
    return table


def killed_whole(
    folder: Path, sweeps: int, runs: int, workers: int | None, rng: np.random.Generator
) -> Table:
    """Runs that are killed whole and gone on with, against one that is not."""
    table = Table(title=f"Whole runs killed, a checkpoint after each of {sweeps} sweeps")
    for name in ("run", "killed", "checkpoint", "gone on by", "error of the image"):
        table.add_column(name, justify="right")
    given = ["--sweeps", str(sweeps), "--checkpoint-every", "1"]
    where = [] if workers is None else ["--workers", str(workers)]

    def command(name: str, *options: str) -> list[str]:
        return [*COMMAND, name, *options, *where]

    def start(out: Path, *options: str) -> subprocess.Popen[bytes]:
        call = command("reconstruct", str(folder / "scan.zarr"), str(out), *given, *options)
        process = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(Path(f"{out}.partial").exists, process)
        return process

    first = start(folder / "whole.zarr")
    begun = time.perf_counter()
    assert first.wait() == 0
    undisturbed = time.perf_counter() - begun
    expected = dp.open_result(folder / "whole.zarr")["object"].values
    for run in range(1, runs + 1):
        out = folder / f"{run}.zarr"
        process = start(out)
        if run % 2:
            moment = rng.uniform(0, undisturbed)
            time.sleep(moment)
            told = f"at {100 * moment / undisturbed:.0f} %"
        elif run == 2:
            until(lambda out=out: any(Path(f"{out}.partial").glob("*")) or out.exists(), process)
            time.sleep(rng.uniform(0, 0.1))
            told = "writing its result"
        else:
            sweep = int(rng.integers(1, sweeps))
            until(lambda out=out, sweep=sweep: commits(out) > sweep, process)
            before = files(out)
            until(lambda out=out, before=before: files(out) > before, process)
            time.sleep(rng.uniform(0, 0.02))
            told = f"writing after sweep {sweep}"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        try:
            kept = str(dp.checkpoints(out)[-1].sweep)
            going_on = command("resume", str(out))
        except dp.ScanError:
            kept = "none"
            going_on = command("reconstruct", str(folder / "scan.zarr"), str(out), *given, "--overwrite")
        done = subprocess.run(going_on, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        error = dp.relative_error(dp.open_result(out)["object"].values, expected)
        row = (str(run), told, kept, going_on[len(COMMAND)], f"{error:.1e}")
        print(*row, sep="   ", file=sys.stderr)
        table.add_row(*row)
        assert error < SAME, f"run {run} gave another image: {error:.1e}"
    return table


def commits(out: Path) -> int:
    """Commits of a run's checkpoints, its first one included."""
    return sum(1 for _ in Path(f"{out}.checkpoints", "snapshots").glob("*"))


def files(out: Path) -> int:
    return sum(1 for _ in Path(f"{out}.checkpoints").rglob("*"))


def until(condition: Any, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for it, looking every millisecond, or for the end of the process that is to bring it about."""
    while not condition() and (process is None or process.poll() is None):
        time.sleep(0.001)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two runs of each, of few sweeps.")
@click.option("--lost", default=20, show_default=True, help="Runs that lose a worker.")
@click.option("--killed", default=10, show_default=True, help="Runs that are killed whole.")
@click.option("--kills", default=1, show_default=True, help="Workers killed in each run.")
@click.option("--side", default=16, show_default=True, help="Frames a side, of 64x64.")
@click.option("--sweeps", default=40, show_default=True)
@click.option("--workers", type=int, help="Of the runs that are killed whole; threads unless given.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(
    quick: bool, lost: int, killed: int, kills: int, side: int, sweeps: int, workers: int | None, seed: int
) -> None:
    console = Console(width=110)
    rng = np.random.default_rng(seed)
    if quick:
        lost, killed, side, sweeps = 2, 2, 8, 14
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = dp.simulate_scan(
            folder / "scan.zarr",
            frames=(side, side),
            frame_size=64,
            step=16,
            jitter=1,
            photons=1e5,
            tile_frames=side * side // 8,
        )
        if lost:
            console.print(lost_workers(scan, sweeps, lost, kills, rng))
        if killed:
            console.print(killed_whole(folder, sweeps, killed, workers, rng))
    console.print(
        f"{lost} runs that lost workers and {killed} that were killed: the image of an undisturbed run"
    )


if __name__ == "__main__":
    main()
