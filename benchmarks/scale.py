"""Scaling over worker processes, bytes on the wire, and a model of runs that this machine cannot make.

    python benchmarks/scale.py            # a quarter of an hour
    python benchmarks/scale.py --quick

Measured: seconds a sweep on one and two worker processes (strong and weak scaling) and on the threads of one
process; the bytes that workers really sent each other, from Dask's own log, against the strips and against
whole tiles; the cost of a task, of planning a tile and of G's solution. Modelled from these, and from the
time that docs/gpu.md models for a frame: scans of 10^6 and 10^9 frames on 100 and 1000 GPUs.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from daskptycho.scan.dataset import position_in_pixels, tile_chunks
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.two_level import GalerkinRow, find_tile_phases
from daskptycho.tasks.layout import lay_out
from daskptycho.tasks.spec import count_tasks, task
from daskptycho.tasks.state import SweepSettings
from daskptycho.tasks.waiting import compute, persist
from daskptycho.tiling import Tiling, make_tiling

# Sweeps that are timed, after two that warm up and settle the cadence.
WARM = 2
# Modelled runs: frames of 256x256, stepped by a quarter, one mode, probe known; frames of a tile.
FRAME, STEP, TILES = 256, 64, (1024, 16384)
# Seconds a frame of a sweep that synchronises on an H100, modelled (docs/gpu.md); bytes a second between
# workers and from a store, and bytes of counts that a GPU keeps, assumed.
GPU_FRAME, WIRE, READ, KEPT = 5.74e-6, 10e9, 2e9, 64 * 2**30


@contextmanager
def workers(count: int) -> Iterator[Client]:
    """So many processes with one thread each, as ``--workers`` starts them."""
    with (
        dask.config.set(STAY_AT_HOME),
        LocalCluster(
            n_workers=count, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _received(dask_worker: Any) -> int:
    """Bytes that a worker received since this was last asked."""
    log = dask_worker.transfer_incoming_log
    total = sum(entry["total"] for entry in log)
    log.clear()
    return int(total)


def sweep_seconds(scan: Any, sweeps: int, client: Client | None = None) -> tuple[float, float]:
    """Median seconds of a sweep that synchronises, and median bytes received in one."""
    received: list[int] = []

    def note(_: dp.Progress) -> None:
        if client is not None:
            received.append(sum(client.run(_received).values()))

    result = dp.reconstruct(scan, sweeps=WARM + sweeps, sync=Sync(every=1), update_probe=False, callback=note)
    return float(np.median(result["seconds"].values[WARM:])), float(np.median(received[WARM:] or [0]))


def strip_bytes(tiling: Tiling, owners: int) -> int:
    """Bytes of the strips that so many workers send each other."""
    travelling = tiling.strips_between_workers(owners)
    return 8 * sum(math.prod(part.stop - part.start for part in strip.to_target) for strip in travelling)


def g_seconds(tiles: int) -> float:
    """Time to solve G for a square of so many tiles, each with eight neighbours."""
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
            alike = {"misfit": 1.0, "power": 1.0, "spread": 0.0, "consensus": 0.0, "localisation": 1.0}
            rows.append(GalerkinRow(np.array(near), values, **alike))
    begun = time.perf_counter()
    find_tile_phases(rows, Synchronisation(Sync(), "degree"), 1.0)
    return time.perf_counter() - begun


def task_seconds(client: Client, count: int) -> float:
    """What a task costs that does nothing, each but the first needing another."""
    values = [task(int, 1)]
    for _ in range(count):
        values.append(task(max, values[len(values) // 2], 1))
    begun = time.perf_counter()
    compute(task(sum, persist(values[1:])))
    return (time.perf_counter() - begun) / count


def tiling_of(scan: Any) -> Tiling:
    shape = (scan.sizes["qy"], scan.sizes["qx"])
    return make_tiling(position_in_pixels(scan), shape, tile_chunks(scan))


def own_tasks(small: Any, large: Any, *, recovered: bool) -> int:
    """Tasks that a tile adds to a sweep on as many workers as tiles, except those that cut what they send."""
    recipe, counted = Recipe(parameters=(Probe(recovered=recovered),)), []
    for scan in (small, large):
        tiling = tiling_of(scan)
        tiles = len(tiling.tiles)
        cuts = (2 if recovered else 1) * len(tiling.strips_between_workers(tiles))
        counted.append((count_sweep_tasks(scan, tiling, recipe, workers=tiles) - cuts, tiles))
    (few, few_tiles), (many, many_tiles) = counted
    return (many - few) // (many_tiles - few_tiles)


def planning_seconds(scan: Any, tiling: Tiling) -> float:
    """Time for each tile to lay out a run with the probe known, and to make and walk the graph of a sweep."""
    begun = time.perf_counter()
    model = Model((Probe(recovered=False),))
    layout = lay_out(scan, tiling, model, "two-level")
    state = begin_uniform(layout, *place_values(layout, {"probe": scan["probe"].values}), None)
    count_tasks(sweep(layout, state, SweepSettings()), given=[layout, state])
    return (time.perf_counter() - begun) / len(tiling.tiles)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small scans, few sweeps.")
@click.option(
    "--side", default=64, show_default=True, help="Frames, of 128x128; weak scaling takes twice as many."
)
@click.option("--sweeps", default=5, show_default=True, help="That are timed in each run.")
@click.option("--repeats", default=3, show_default=True, help="Of processes against threads.")
@click.option("--tile-frames", default=512, show_default=True)
def main(quick: bool, side: int, sweeps: int, repeats: int, tile_frames: int) -> None:
    console = Console(width=110)
    size, per_tile = 128, tile_frames
    if quick:
        side, size, sweeps, per_tile, repeats = 8, 32, 2, 16, 1
    with tempfile.TemporaryDirectory() as name:
        made = {
            frames: dp.simulate_scan(
                Path(name) / f"{frames[1]}.zarr",
                frames=frames,
                frame_size=size,
                step=size // 4,
                photons=1e5,
                tile_frames=per_tile,
            )
            for frames in ((side, side), (side, 2 * side))
        }
        scan, double = made.values()
        measured = Table(title="Measured: seconds a sweep that synchronises, probe known")
        for column in ("run", "tiles", "seconds", "against one worker"):
            measured.add_column(column, justify="left" if column == "run" else "right")
        tiling = tiling_of(scan)
        tiles = len(tiling.tiles)
        with dask.config.set(scheduler="threads", num_workers=1):
            one_thread, _ = sweep_seconds(scan, sweeps)
        with workers(1) as client:
            one, _ = sweep_seconds(scan, sweeps, client)
        with workers(2) as client:
            of_threads, of_processes = [], []
            for _ in range(repeats):
                # By turns, so that what else the machine does falls on both.
                with dask.config.set(scheduler="threads", num_workers=2):
                    of_threads.append(sweep_seconds(scan, sweeps)[0])
                seconds, wire = sweep_seconds(scan, sweeps, client)
                of_processes.append(seconds)
            two_threads, two = (float(np.median(times)) for times in (of_threads, of_processes))
            weak, _ = sweep_seconds(double, sweeps, client)
            each_task = task_seconds(client, 200 if quick else 2000)
    for run, count, seconds in (
        ("one process, one thread", tiles, one_thread),
        ("one process, two threads", tiles, two_threads),
        ("one worker process", tiles, one),
        ("two worker processes (strong)", tiles, two),
        ("two worker processes, twice the frames (weak)", 2 * tiles, weak),
    ):
        measured.add_row(run, str(count), f"{seconds:.3f}", f"{seconds / one:.2f}")
    console.print(measured)
    ratios = [process / thread for process, thread in zip(of_processes, of_threads, strict=True)]
    console.print(
        f"a tile's sweep {one_thread / tiles:.3f} s; two worker processes over two threads of one process: "
        f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}; one worker process over one thread: "
        f"{one / one_thread:.2f}"
    )
    crossing, alone = strip_bytes(tiling, owners=2), strip_bytes(tiling, owners=tiles)
    whole = 8 * sum(math.prod(tile.window.shape) for tile in tiling.tiles)
    console.print(
        f"received a sweep, two workers: {format_bytes(int(wire))}, {wire / crossing:.2f} of the strips "
        f"between them ({format_bytes(crossing)}), {wire / alone:.2f} of the strips "
        f"of all tiles, {wire / whole:.2f} of whole tiles"
    )
    planning = planning_seconds(scan, tiling)
    known, recovered = (own_tasks(scan, double, recovered=own) for own in (False, True))
    solved = {count: g_seconds(count) for count in ((100, 400) if quick else (1_000, 10_000, 100_000))}
    console.print(
        f"a task {format_time(each_task)}; {known} tasks a tile and sweep of its own, {recovered} where the "
        f"probe is recovered, planned in {format_time(planning)}; G solved in "
        + ", ".join(f"{format_time(seconds)} for {count} tiles" for count, seconds in solved.items())
    )
    console.print(_model(each_task, known, planning, solved))


def travelling_strips(tiles: float, workers: int) -> float:
    """Strips that a tile gets from other workers: each has a run of tiles, row by row of a square."""
    each = tiles / workers
    rows = each / math.sqrt(tiles)
    if each < 1:
        return 8.0
    # Three come from the row above and three from the one below; with less than a row, all of them travel.
    return 6 / rows if rows > 1 else 6 + 2 / each


def _g_seconds_modelled(tiles: float, solved: dict[int, float]) -> float:
    """Between the measured ones; beyond, Lanczos' steps grow with the root of the tiles, a step with them."""
    most = max(solved)
    if tiles > most:
        return solved[most] * (tiles / most) ** 1.5
    return float(np.exp(np.interp(np.log(tiles), np.log(list(solved)), np.log(list(solved.values())))))


def _model(each_task: float, of_tile: int, planning: float, solved: dict[int, float]) -> Table:
    table = Table(title="Modelled: seconds a sweep, frames of 256x256")
    columns = ("frames", "GPUs", "a tile", "tiles", "compute", "strips", "read", "G", "scheduler", "planning")
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
                seconds = (
                    busiest * tile * GPU_FRAME,
                    busiest * 2 * 8 * halo / WIRE,
                    counts / READ if counts > KEPT else 0.0,
                    _g_seconds_modelled(tiles, solved),
                    tiles * (of_tile + travelling_strips(tiles, gpus)) * each_task,
                    tiles * planning,
                )
                row = (f"{frames:.0e}", str(gpus), str(tile), f"{tiles:.3g}")
                table.add_row(*row, *(f"{value:.3g}" for value in seconds))
    return table


if __name__ == "__main__":
    main()
