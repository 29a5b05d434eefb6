"""Kill workers of runs, and whole runs that are then resumed, and compare the images; interrupt others.

    python benchmarks/faults.py            # 20 runs that lose a worker, 10 killed, 50 interrupted; 20 minutes
    python benchmarks/faults.py --quick

A worker is killed by SIGKILL at a random moment of the run, and Dask's nanny starts another. Whole runs are
killed with all of their processes: every second one at a random moment, the others while they write a
checkpoint or the result. `daskptycho resume` continues the run; if it has no checkpoint yet, it is started
again. Others, with a live page, are interrupted as by Ctrl-C at random moments, from the start of Python on,
and have to end within seconds; a second process watches the page of every other one.
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
from daskptycho.cluster.client import STAY_AT_HOME

COMMAND = [sys.executable, "-m", "daskptycho"]
# A program that opens a page, as a browser does, says so and keeps it open.
WATCH = "import sys, bokeh.client as c; c.pull_session(url=sys.argv[1]); print('open'); sys.stdin.read()"
# Exit codes of an interrupted run: the command's own, and that of Python while it starts.
INTERRUPTED = (130, -signal.SIGINT)
# Largest relative difference of two images that count as equal.
SAME = 1e-5


class TaskCounter(SchedulerPlugin):
    """Count how often each task is computed."""

    def __init__(self) -> None:
        self.times: Counter[Any] = Counter()

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        if (start, finish) == ("processing", "memory"):
            self.times[key] += 1


def kill_workers(cluster: LocalCluster, moments: list[float], rng: np.random.Generator) -> threading.Thread:
    """Kill one worker at each of these moments, in seconds from now, from a thread."""
    chosen = [int(rng.integers(len(cluster.workers))) for _ in moments]

    def kill() -> None:
        started = time.perf_counter()
        for moment, number in zip(sorted(moments), chosen, strict=True):
            time.sleep(max(0.0, started + moment - time.perf_counter()))
            pids = [nanny.pid for nanny in list(cluster.workers.values()) if nanny.pid is not None]
            if pids:
                os.kill(pids[number % len(pids)], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def worker_pids(client: Client) -> list[int]:
    """Process numbers of the workers that answer."""
    try:
        return list(client.run(os.getpid, on_error="ignore").values())
    except OSError:
        return []


def lose_workers(scan: Any, sweeps: int, runs: int, kills: int, rng: np.random.Generator) -> Table:
    """Compare runs that lose workers with a run that loses none."""
    table = Table(title=f"Workers killed, {kills} in each run of {sweeps} sweeps")
    for name in (
        "run",
        "killed at",
        "sweeps repeated",
        "tasks repeated",
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
        started = time.perf_counter()
        expected = dp.reconstruct(scan, sweeps=sweeps)["object"].values
        undisturbed = time.perf_counter() - started
        for run in range(1, runs + 1):
            # A nanny whose worker is killed during its start gives up; `scale` makes the cluster start
            # another.
            wait_until(lambda: cluster.scale(2) or len(worker_pids(client)) == 2)
            counter, seen = TaskCounter(), []
            cluster.scheduler.add_plugin(counter, name="computed")
            moments = sorted(rng.uniform(0, undisturbed, kills))
            started = time.perf_counter()
            killing = kill_workers(cluster, moments, rng)
            found = dp.reconstruct(
                scan, sweeps=sweeps, callback=lambda progress, seen=seen: seen.append(progress.sweep)
            )
            seconds = time.perf_counter() - started
            killing.join()
            cluster.scheduler.remove_plugin("computed")
            again = sum(counter.times.values()) - len(counter.times)
            error = dp.relative_error(found["object"].values, expected)
            row = (
                str(run),
                ", ".join(f"{100 * moment / undisturbed:.0f} %" for moment in moments),
                str(len(seen) - sweeps),
                f"{again} of {len(counter.times)} ({100 * again / len(counter.times):.1f} %)",
                f"{seconds / undisturbed:.2f}",
                f"{error:.1e}",
            )
            print(*row, sep="   ", file=sys.stderr)
            table.add_row(*row)
            assert error < SAME, f"run {run} gave another image: {error:.1e}"
    table.caption = "time: relative to an undisturbed run"
    return table


def kill_whole_runs(
    folder: Path, sweeps: int, runs: int, workers: int | None, rng: np.random.Generator
) -> Table:
    """Compare runs that are killed and continued with a run that is not."""
    table = Table(title=f"Whole runs killed, a checkpoint after each of {sweeps} sweeps")
    for name in ("run", "killed", "checkpoint", "continued by", "error of the image"):
        table.add_column(name, justify="right")
    options = ["--sweeps", str(sweeps), "--checkpoint-every", "1"]
    cluster = [] if workers is None else ["--workers", str(workers)]

    def command(name: str, *arguments: str) -> list[str]:
        return [*COMMAND, name, *arguments, *cluster]

    def start(out: Path) -> subprocess.Popen[bytes]:
        call = command("reconstruct", str(folder / "scan.zarr"), str(out), *options)
        process = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(Path(f"{out}.partial").exists, process)
        return process

    first = start(folder / "whole.zarr")
    started = time.perf_counter()
    assert first.wait() == 0
    undisturbed = time.perf_counter() - started
    expected = dp.open_result(folder / "whole.zarr")["object"].values
    for run in range(1, runs + 1):
        out = folder / f"{run}.zarr"
        process = start(out)
        if run % 2:
            moment = rng.uniform(0, undisturbed)
            time.sleep(moment)
            when = f"at {100 * moment / undisturbed:.0f} %"
        elif run == 2:
            wait_until(lambda out=out: any(Path(f"{out}.partial").glob("*")) or out.exists(), process)
            time.sleep(rng.uniform(0, 0.1))
            when = "writing its result"
        else:
            sweep = int(rng.integers(1, sweeps))
            wait_until(lambda out=out, sweep=sweep: count_commits(out) > sweep, process)
            before = count_files(out)
            wait_until(lambda out=out, before=before: count_files(out) > before, process)
            time.sleep(rng.uniform(0, 0.02))
            when = f"writing after sweep {sweep}"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        try:
            kept = str(dp.checkpoints(out)[-1].sweep)
            continuation = command("resume", str(out))
        except dp.ScanError:
            kept = "none"
            continuation = command(
                "reconstruct", str(folder / "scan.zarr"), str(out), *options, "--overwrite"
            )
        done = subprocess.run(continuation, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        error = dp.relative_error(dp.open_result(out)["object"].values, expected)
        row = (str(run), when, kept, continuation[len(COMMAND)], f"{error:.1e}")
        print(*row, sep="   ", file=sys.stderr)
        table.add_row(*row)
        assert error < SAME, f"run {run} gave another image: {error:.1e}"
    return table


def interrupt_runs(folder: Path, runs: int, moments: float, limit: float, rng: np.random.Generator) -> Table:
    """Interrupt runs with a live page, and measure the time from Ctrl-C to their end."""
    table = Table(title="Runs with a live page, interrupted by Ctrl-C")
    for name in ("run", "interrupted after", "the page was", "ended after", "exit code"):
        table.add_column(name, justify="right")
    # A shell lets what it starts in the background ignore Ctrl-C, and processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for run in range(1, runs + 1):
        call = [*COMMAND, "reconstruct", str(folder / "scan.zarr"), str(folder / f"interrupted-{run}.zarr")]
        said = folder / f"interrupted-{run}.log"
        with said.open("w") as log:
            process = subprocess.Popen(
                [*call, "--sweeps", "1000000", "--dashboard"], stdout=subprocess.DEVNULL, stderr=log
            )
        watcher = None
        if run % 2 == 0:
            wait_until(lambda said=said: "Live page: " in said.read_text(), process)
            link = said.read_text().split("Live page: ")[1].split()[0]
            watcher = subprocess.Popen(
                [sys.executable, "-c", WATCH, link], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert watcher.stdout is not None
            watcher.stdout.readline()
        moment = rng.uniform(0, moments)
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        started = time.perf_counter()
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if watcher is not None:
                watcher.kill()
                watcher.communicate()
        seconds = time.perf_counter() - started
        row = (str(run), f"{moment:.1f} s", "open" if watcher else "not open", f"{seconds:.1f} s", str(code))
        print(*row, sep="   ", file=sys.stderr)
        table.add_row(*row)
        assert code in INTERRUPTED, f"run {run} ended with {code}: {said.read_text()}"
    return table


def count_commits(out: Path) -> int:
    """Number of commits in the checkpoints of a run, including the first one."""
    return sum(1 for _ in Path(f"{out}.checkpoints", "snapshots").glob("*"))


def count_files(out: Path) -> int:
    return sum(1 for _ in Path(f"{out}.checkpoints").rglob("*"))


def wait_until(condition: Any, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for a condition, or for the end of the process that should bring it about."""
    while not condition() and (process is None or process.poll() is None):
        time.sleep(0.001)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Two runs of each kind with few sweeps.")
@click.option("--lost", default=20, show_default=True, help="Number of runs that lose a worker.")
@click.option("--killed", default=10, show_default=True, help="Number of runs that are killed.")
@click.option("--kills", default=1, show_default=True, help="Number of workers killed in each run.")
@click.option("--interrupted", default=50, show_default=True, help="Number of runs that are interrupted.")
@click.option(
    "--moments", default=10.0, show_default=True, help="Latest moment of an interruption, in seconds."
)
@click.option("--limit", default=30.0, show_default=True, help="Most seconds until an interrupted run ends.")
@click.option(
    "--side", default=16, show_default=True, help="Frames along each side of the scan, of 64x64 pixels."
)
@click.option("--sweeps", default=40, show_default=True, help="Sweeps of each run.")
@click.option(
    "--workers", type=int, help="Worker processes of the runs that are killed; by default, threads."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random moments.")
def main(
    quick: bool,
    lost: int,
    killed: int,
    kills: int,
    interrupted: int,
    moments: float,
    limit: float,
    side: int,
    sweeps: int,
    workers: int | None,
    seed: int,
) -> None:
    console = Console(width=110)
    rng = np.random.default_rng(seed)
    if quick:
        lost, killed, interrupted, side, sweeps = 2, 2, 2, 8, 14
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
            console.print(lose_workers(scan, sweeps, lost, kills, rng))
        if killed:
            console.print(kill_whole_runs(folder, sweeps, killed, workers, rng))
        if interrupted:
            console.print(interrupt_runs(folder, interrupted, moments, limit, rng))
    console.print(
        f"{lost} runs lost workers and {killed} were killed: all images equal that of an undisturbed run"
    )
    console.print(f"{interrupted} runs were interrupted: all ended within {limit:g} s")


if __name__ == "__main__":
    main()
