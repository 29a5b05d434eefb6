"""Measure the scaling over worker processes and the bytes on the wire, and model larger runs.

    python benchmarks/scale.py            # a quarter of an hour
    python benchmarks/scale.py --quick

Measured are the seconds per sweep on one and two worker processes (strong and weak scaling) and on the
threads of one process; the bytes that the workers sent each other, from Dask's log, compared with the strips
and with whole tiles; and the cost of a task, of planning a tile and of solving G. Modelled from these numbers
and from the time per frame in docs/gpu.md are scans of 10^6 and 10^9 frames on 100 and 1000 GPUs, which this
machine cannot run.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask
import numpy as np
from dask.utils import format_bytes, format_time
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho.cluster.client import STAY_AT_HOME
from daskptycho.graph import sweep
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.memory import count_sweep_tasks
from daskptycho.run.options import Recipe
from daskptycho.run.start import begin_uniform, place_values
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.two_level import GalerkinRow, find_tile_phases
from daskptycho.tasks.layout import lay_out
from daskptycho.tasks.spec import count_tasks, task
from daskptycho.tasks.state import SweepSettings
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling

# Sweeps before the timed ones, which compile and settle the cadence.
WARM = 2
# Modelled runs: pixels along a side of a frame and of a step, one mode, probe known; frames per tile.
FRAME, STEP, TILES = 256, 64, (1024, 16384)
# Seconds per frame of a sweep that synchronises on an H100, modelled (docs/gpu.md). Assumed: bytes per second
# between workers and from a store, and bytes of counts that a GPU keeps.
GPU_FRAME, WIRE, READ, KEPT = 5.74e-6, 10e9, 2e9, 64 * 2**30


@contextmanager
def start_workers(count: int) -> Iterator[Client]:
    """Start this number of processes with one thread each, as ``--workers`` does."""
    with (
        dask.config.set(STAY_AT_HOME),
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _received_bytes(dask_worker: Any) -> int:
    """Bytes that a worker has received since the last call."""
    log = dask_worker.transfer_incoming_log
    total = sum(entry["total"] for entry in log)
    log.clear()
    return int(total)


def time_sweeps(scan: Any, sweeps: int, client: Client | None = None) -> tuple[float, float]:
    """Median seconds of a sweep that synchronises, and median bytes received in one."""
    received: list[int] = []

    def keep_bytes(_: dp.Progress) -> None:
        if client is not None:
            received.append(sum(client.run(_received_bytes).values()))

    result = dp.reconstruct(
        scan, sweeps=WARM + sweeps, sync=Sync(every=1), update_probe=False, callback=keep_bytes
    )
    return float(np.median(result["seconds"].values[WARM:])), float(np.median(received[WARM:] or [0]))


def strip_bytes(tiling: Tiling, owners: int) -> int:
    """Bytes of the strips that this number of workers send each other."""
    travelling = tiling.strips_between_workers(owners)
    return 8 * sum(math.prod(part.stop - part.start for part in strip.to_target) for strip in travelling)


def time_g(tiles: int) -> float:
    """Seconds to solve G for a square of this number of tiles, each with eight neighbours."""
    side = math.isqrt(tiles)
    rows = []
    for y in range(side):
        for x in range(side):
            near = [
                (y + dy) * side + x + dx
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if 0 <= y + dy < side and 0 <= x + dx < side
            ]
            values = np.where(np.array(near) == y * side + x, 1.0, 0.1).astype(complex)
            others = {"misfit": 1.0, "power": 1.0, "spread": 0.0, "disagreement": 0.0, "localisation": 1.0}
            rows.append(GalerkinRow(np.array(near), values, **others))
    start = time.perf_counter()
    find_tile_phases(rows, Synchronisation(Sync(), "degree"), 1.0)
    return time.perf_counter() - start


def time_tasks(client: Client, count: int) -> float:
    """Seconds per task that does nothing; each task but the first depends on another."""
    values = [task(int, 1)]
    for _ in range(count):
        values.append(task(max, values[len(values) // 2], 1))
    start = time.perf_counter()
    compute(task(sum, persist(values[1:])))
    return (time.perf_counter() - start) / count


def count_own_tasks(small: Any, large: Any, *, recovered: bool) -> int:
    """Tasks that a tile adds to a sweep on as many workers as tiles, without those that cut strips."""
    recipe, counted = Recipe(parameters=(Probe(recovered=recovered),)), []
    for scan in (small, large):
        tiling = lay_out_tiles(scan)
        tiles = len(tiling.tiles)
        cuts = (2 if recovered else 1) * len(tiling.strips_between_workers(tiles))
        counted.append((count_sweep_tasks(scan, tiling, recipe, workers=tiles) - cuts, tiles))
    (few, few_tiles), (many, many_tiles) = counted
    return (many - few) // (many_tiles - few_tiles)


def time_planning(scan: Any, tiling: Tiling) -> float:
    """Seconds per tile to lay out a run with a known probe, and to make and walk the graph of a sweep."""
    start = time.perf_counter()
    model = Model((Probe(recovered=False),))
    layout = lay_out(scan, tiling, model, "two-level")
    state = begin_uniform(layout, *place_values(layout, {"probe": scan["probe"].values}), None)
    count_tasks(sweep(layout, state, SweepSettings()), given=[layout, state])
    return (time.perf_counter() - start) / len(tiling.tiles)


@dataclass(frozen=True)
class Measured:
    """Seconds per sweep and bytes on the wire."""

    one_thread: float
    two_threads: list[float]
    one_worker: float
    two_workers: list[float]
    twice_the_frames: float
    """Two workers with a scan of twice the frames."""
    received: float
    task: float


def measure(scan: Any, double: Any, sweeps: int, repeats: int, tasks: int) -> Measured:
    """Time sweeps on threads and on worker processes, and tasks that do nothing."""
    with dask.config.set(scheduler="threads", num_workers=1):
        one_thread, _ = time_sweeps(scan, sweeps)
    with start_workers(1) as client:
        one_worker, _ = time_sweeps(scan, sweeps, client)
    with start_workers(2) as client:
        two_threads, two_workers = [], []
        for _ in range(repeats):
            # In turn, so that other work on the machine affects both alike.
            with dask.config.set(scheduler="threads", num_workers=2):
                two_threads.append(time_sweeps(scan, sweeps)[0])
            seconds, received = time_sweeps(scan, sweeps, client)
            two_workers.append(seconds)
        twice_the_frames, _ = time_sweeps(double, sweeps, client)
        each_task = time_tasks(client, tasks)
    return Measured(one_thread, two_threads, one_worker, two_workers, twice_the_frames, received, each_task)


def make_measured_table(measured: Measured, tiles: int) -> Table:
    """Table of the seconds per sweep."""
    table = Table(title="Measured: seconds per sweep that synchronises, probe known")
    for column in ("run", "tiles", "seconds", "against one worker"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run, count, seconds in (
        ("one process, one thread", tiles, measured.one_thread),
        ("one process, two threads", tiles, float(np.median(measured.two_threads))),
        ("one worker process", tiles, measured.one_worker),
        ("two worker processes (strong)", tiles, float(np.median(measured.two_workers))),
        ("two worker processes, twice the frames (weak)", 2 * tiles, measured.twice_the_frames),
    ):
        table.add_row(run, str(count), f"{seconds:.3f}", f"{seconds / measured.one_worker:.2f}")
    return table


def describe_bytes(received: float, tiling: Tiling) -> str:
    """The bytes that two workers received in a sweep, compared with strips and with whole tiles."""
    crossing, every = strip_bytes(tiling, owners=2), strip_bytes(tiling, owners=len(tiling.tiles))
    whole = 8 * sum(math.prod(tile.window.shape) for tile in tiling.tiles)
    return (
        f"received per sweep, two workers: {format_bytes(int(received))}, {received / crossing:.2f} of the "
        f"strips between them ({format_bytes(crossing)}), {received / every:.2f} of the strips "
        f"of all tiles, {received / whole:.2f} of whole tiles"
    )


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small scans, few sweeps.")
@click.option(
    "--side",
    default=64,
    show_default=True,
    help="Frames along each side, of 128x128 pixels; weak scaling uses twice as many frames.",
)
@click.option("--sweeps", default=5, show_default=True, help="Number of timed sweeps in each run.")
@click.option("--repeats", default=3, show_default=True, help="Repetitions of processes against threads.")
@click.option("--tile-frames", default=512, show_default=True, help="Frames per tile.")
def main(quick: bool, side: int, sweeps: int, repeats: int, tile_frames: int) -> None:
    console = Console(width=110)
    size = 128
    if quick:
        side, size, sweeps, tile_frames, repeats = 8, 32, 2, 16, 1
    with tempfile.TemporaryDirectory() as folder:
        scan, double = (
            dp.simulate_scan(
                Path(folder) / f"{width}.zarr",
                frames=(side, width),
                frame_size=size,
                step=size // 4,
                photons=1e5,
                tile_frames=tile_frames,
            )
            for width in (side, 2 * side)
        )
        tiling = lay_out_tiles(scan)
        tiles = len(tiling.tiles)
        measured = measure(scan, double, sweeps, repeats, tasks=200 if quick else 2000)
    console.print(make_measured_table(measured, tiles))
    ratios = [
        process / thread for process, thread in zip(measured.two_workers, measured.two_threads, strict=True)
    ]
    console.print(
        f"sweep of one tile {measured.one_thread / tiles:.3f} s; two worker processes over two threads of "
        f"one process: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; one worker process over one thread: "
        f"{measured.one_worker / measured.one_thread:.2f}"
    )
    console.print(describe_bytes(measured.received, tiling))
    planning = time_planning(scan, tiling)
    known, recovered = (count_own_tasks(scan, double, recovered=own) for own in (False, True))
    solved = {count: time_g(count) for count in ((100, 400) if quick else (1_000, 10_000, 100_000))}
    console.print(
        f"{format_time(measured.task)} per task; {known} tasks per tile and sweep, {recovered} if the probe "
        f"is recovered, planned in {format_time(planning)}; G solved in "
        + ", ".join(f"{format_time(seconds)} for {count} tiles" for count, seconds in solved.items())
    )
    console.print(_make_model_table(measured.task, known, planning, solved))


def travelling_strips(tiles: float, workers: int) -> float:
    """Strips that a tile gets from other workers, if each has a run of tiles, row by row of a square."""
    each = tiles / workers
    rows = each / math.sqrt(tiles)
    if each < 1:
        return 8.0
    # Three come from the row above and three from the row below; with less than one row, all of them travel.
    return 6 / rows if rows > 1 else 6 + 2 / each


def tasks_that_cut(tiles: float, workers: int) -> float:
    """Tasks for a tile that cut strips: one for each of the neighbours of a worker, eight at most."""
    return min(travelling_strips(tiles, workers), 8 * workers / tiles)


def _model_g_seconds(tiles: float, solved: dict[int, float]) -> float:
    """Seconds to solve G: interpolated, and beyond the measured range with the power 3/2 of the tiles."""
    most = max(solved)
    if tiles > most:
        return solved[most] * (tiles / most) ** 1.5
    return float(np.exp(np.interp(np.log(tiles), np.log(list(solved)), np.log(list(solved.values())))))


def _make_model_table(each_task: float, own_tasks: int, planning: float, solved: dict[int, float]) -> Table:
    """Table of the modelled seconds per sweep."""
    table = Table(title="Modelled: seconds per sweep, frames of 256x256")
    columns = (
        "frames",
        "GPUs",
        "per tile",
        "tiles",
        "compute",
        "strips",
        "read",
        "G",
        "scheduler",
        "graph",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for frames in (10**6, 10**9):
        for gpus in (100, 1000):
            for tile in TILES:
                tiles = frames / tile
                if tiles < gpus / 2:
                    continue
                side = math.isqrt(tile)
                halo = ((side - 1) * STEP + FRAME) ** 2 - (side * STEP) ** 2
                busiest = math.ceil(tiles / gpus)
                counts = 2 * frames * FRAME**2 / gpus
                # A streamed run merges its images in tasks of their own.
                for_tile = own_tasks + (counts > KEPT) + tasks_that_cut(tiles, gpus)
                seconds = (
                    busiest * tile * GPU_FRAME,
                    busiest * 2 * 8 * halo / WIRE,
                    counts / READ if counts > KEPT else 0.0,
                    _model_g_seconds(tiles, solved),
                    tiles * for_tile * each_task,
                    tiles * planning,
                )
                row = (f"{frames:.0e}", str(gpus), str(tile), f"{tiles:.3g}")
                table.add_row(*row, *(f"{value:.3g}" for value in seconds))
    return table


if __name__ == "__main__":
    main()
