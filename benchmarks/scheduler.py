"""Measure what Dask takes for the tasks of a sweep over many frames, with kernels that do nothing.

    python benchmarks/scheduler.py            # some minutes
    python benchmarks/scheduler.py --quick

The graphs are those of runs with a known probe, for frames of 32x32 with a step of 8, but each task returns
at once. The scheduler has a process of its own. For tiles as they are stored and for those that a run joins,
the script reports the tasks of a sweep, its seconds, and in it the processor time of the scheduler, of the
process that started the run, and of the busiest worker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import dask.array as da
import numpy as np
import psutil
import xarray as xr
from dask.task_spec import Task
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster
from rich.console import Console
from rich.table import Table

from daskptycho.cluster.workers import Workers
from daskptycho.graph import sweep
from daskptycho.model.algorithms import LBFGS
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.fitting import fit_tiles
from daskptycho.run.options import check_options
from daskptycho.run.start import begin_uniform
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks import spec
from daskptycho.tasks.layout import lay_out
from daskptycho.tasks.spec import count_tasks, place
from daskptycho.tasks.state import SweepSettings
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling, compact_order

FRAME, STEP = 32, 8
KNOWN = (Probe(recovered=False),)


def make_scan(frames: int, tile_frames: int) -> xr.Dataset:
    """A square of about so many frames, none of which is ever read."""
    side = round(frames**0.5)
    position = float(STEP) * np.stack(np.divmod(np.arange(side**2), side), axis=1)
    counts = da.zeros((side**2, FRAME, FRAME), chunks=(tile_frames, FRAME, FRAME), dtype=np.uint16)
    order = compact_order(position, tile_frames)
    return xr.Dataset(
        {
            "intensity": (("frame", "qy", "qx"), counts),
            "position": (("frame", "axis"), position[order], {"units": "pixel"}),
            "probe": (("mode", "probe_y", "probe_x"), np.ones((1, FRAME, FRAME), dtype=np.complex64)),
        }
    )


def _do_nothing(*_: Any) -> None:
    """Take the place of the function of a task."""


@contextmanager
def empty_tasks() -> Iterator[None]:
    """Let every task return at once; what it needs is brought to it as ever."""

    def make(key: Any, function: Any, *arguments: Any) -> Task:
        # Without a key it only puts the arguments of a task together.
        return Task(key, function if key is None else _do_nothing, *arguments)

    before = spec.Task
    spec.Task = make  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        spec.Task = before  # type: ignore[misc]


@contextmanager
def start_workers(count: int) -> Iterator[Client]:
    """A scheduler and so many workers with one thread, each in a process of its own."""
    os.environ["DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING"] = "False"
    options: dict[str, Any] = {"worker_kwargs": {"nthreads": 1}, "silence_logs": 50}
    with (
        SubprocessCluster(n_workers=count, dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(count)
        yield client


def _processor_time(dask_scheduler: Any = None) -> float:
    """Seconds that a process has computed."""
    times = psutil.Process().cpu_times()
    return times.user + times.system


@dataclass(frozen=True)
class Measured:
    """What sweeps took; medians."""

    tasks: int
    seconds: float
    scheduler: float
    client: float
    worker: float


def measure(client: Client, scan: xr.Dataset, tiling: Tiling, sweeps: int) -> Measured:
    """Make sweeps that synchronise, with L-BFGS and tasks that do nothing."""
    settings = SweepSettings(
        algorithm=LBFGS(), how=Synchronisation(Sync(), "degree"), due=frozenset(), counts=1.0
    )

    def times() -> tuple[float, float, float, float]:
        on_scheduler = client.run_on_scheduler(_processor_time)
        busiest = max(client.run(_processor_time).values())
        return time.perf_counter(), on_scheduler, time.process_time(), busiest

    with empty_tasks():
        layout = persist(lay_out(scan, tiling, Model(KNOWN), "two-level"))
        shared = place({Probe.name: scan["probe"].values})
        state = persist(begin_uniform(layout, shared, [{} for _ in tiling.tiles], None))
        taken, tasks = [], 0
        for _ in range(sweeps + 1):
            before = times()
            following, report = sweep(layout, state, settings)
            tasks = count_tasks([following, report], given=[layout, state])
            state, report = persist((following, report))
            compute(report)
            taken.append([after - then for after, then in zip(times(), before, strict=True)])
    # The first one begins with merged images.
    seconds, scheduler, own, worker = np.median(taken[1:], axis=0)
    return Measured(tasks, float(seconds), float(scheduler), float(own), float(worker))


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Few frames.")
@click.option("--frames", multiple=True, type=int, default=(10**5, 10**6), show_default=True)
@click.option("--tile-frames", default=1024, show_default=True, help="Frames of a stored tile.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("--sweeps", default=5, show_default=True, help="Sweeps that are measured.")
@click.option("--as-stored", is_flag=True, help="Only the tiles as they are stored.")
def main(
    quick: bool, frames: tuple[int, ...], tile_frames: int, workers: int, sweeps: int, as_stored: bool
) -> None:
    if quick:
        frames, tile_frames, sweeps = (2500,), 64, 2
    table = Table(title=f"A sweep with tasks that do nothing, {workers} workers")
    columns = ("frames", "tiles", "tasks", "a worker", "seconds", "scheduler", "client", "busiest worker")
    for name in columns:
        table.add_column(name, justify="right")
    with start_workers(workers) as client:
        for count in frames:
            scan = make_scan(count, tile_frames)
            stored = lay_out_tiles(scan)
            joined = fit_tiles(
                *(scan, stored, Workers(workers, 1, None), check_options(update_probe=False), KNOWN, 1)
            )
            for tiling in (stored,) if as_stored else (stored, joined):
                found = measure(client, scan, tiling, sweeps)
                times = (found.seconds, found.scheduler, found.client, found.worker)
                table.add_row(
                    *(f"{count:,}", f"{len(tiling.tiles):,}", f"{found.tasks:,}"),
                    f"{found.tasks / workers:.1f}",
                    *(f"{seconds:.3g} s" for seconds in times),
                )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
