"""Reconstruct a scan of several times the memory of the workers, and measure the peak memory of each worker.

    python benchmarks/larger_than_memory.py            # 8.6 GB, two workers of 1 GiB: half an hour
    python benchmarks/larger_than_memory.py --quick

The workers are processes of a LocalCluster with that memory limit. Dask enforces it: a worker spills at 70 %
of it and is killed at 95 %. The script also reports the bytes spilled and the workers lost.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import dask
import xarray as xr
from distributed import Client, LocalCluster
from peak_memory import PeakMemory
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho.cluster.client import STAY_AT_HOME
from daskptycho.run.memory import INTERPRETER


def _spilled_bytes(dask_worker: Any) -> int:
    """Bytes that a worker has written to disk since its start."""
    written = dask_worker.data.cumulative_metrics.get(("disk-write", "bytes"), 0)
    return int(written)


def simulate(path: Path, side: int, size: int, step: int, tile_frames: int, console: Console) -> None:
    """Simulate the scan and print the seconds that it took."""
    start = time.perf_counter()
    dp.simulate_scan(
        path,
        frames=(side, side),
        frame_size=size,
        step=step,
        jitter=1,
        photons=1e5,
        tile_frames=tile_frames,
    )
    console.print(f"simulated in {time.perf_counter() - start:.0f} s")


@dataclass(frozen=True)
class Measured:
    """Memory of the workers of one run, in bytes."""

    peaks: list[int]
    limit: int
    spilled: int
    lost: int
    residual: float


def measure(scan: xr.Dataset, sweeps: int, memory: str, update_probe: bool, console: Console) -> Measured:
    """Reconstruct on two worker processes and watch their memory."""
    with (
        dask.config.set(STAY_AT_HOME),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            memory_limit=memory,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
        PeakMemory(client.run(os.getpid).values()) as watch,
    ):
        limit = next(iter(client.scheduler_info()["workers"].values()))["memory_limit"]

        def print_sweep(progress: dp.Progress) -> None:
            console.print(
                f"sweep {progress.sweep}: residual {progress.residual:.4f}, {progress.seconds:.1f} s"
            )

        result = dp.reconstruct(scan, sweeps=sweeps, update_probe=update_probe, callback=print_sweep)
        spilled = sum(client.run(_spilled_bytes).values())
        alive = set(client.run(os.getpid).values())
    return Measured(
        list(watch.peak.values()),
        limit,
        spilled,
        len(set(watch.peak) - alive),
        float(result["residual"][-1]),
    )


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A tiny scan, to check that the script runs.")
@click.option("--side", default=362, show_default=True, help="Frames along each side, of 128x128 pixels.")
@click.option("--step", default=5, show_default=True, help="Pixels from frame to frame.")
@click.option("--tile-frames", default=512, show_default=True, help="Frames per tile.")
@click.option("--sweeps", default=3, show_default=True, help="Number of sweeps.")
@click.option("--memory", default="1GiB", show_default=True, help="Memory limit of each worker.")
@click.option("--update-probe/--known-probe", default=True, help="Recover the probe, or keep it.")
@click.option("--scan", "path", type=click.Path(path_type=Path), help="Keep the scan there and use it again.")
def main(
    quick: bool,
    side: int,
    step: int,
    tile_frames: int,
    sweeps: int,
    memory: str,
    update_probe: bool,
    path: Path | None,
) -> None:
    size = 128
    if quick:
        side, sweeps, size = 12, 2, 32
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as folder:
        path = path or Path(folder) / "scan.zarr"
        if not path.exists():
            simulate(path, side, size, step, tile_frames, console)
        scan = dp.open_scan(path)
        found = measure(scan, sweeps, memory, update_probe, console)
    amplitudes = 4 * math.prod(scan["intensity"].shape)
    tiles = len(scan["intensity"].chunksizes["frame"])
    table = Table(
        title=f"{amplitudes / 1e9:.2f} GB of amplitudes, {tiles} tiles, probe "
        f"{'recovered' if update_probe else 'known'}, residual {found.residual:.4f}"
    )
    for name in ("worker", "peak", "of its limit", "above the interpreter"):
        table.add_column(name, justify="right")
    for number, peak in enumerate(found.peaks, start=1):
        table.add_row(
            str(number),
            f"{peak / 1e6:.0f} MB",
            f"{100 * peak / found.limit:.0f} %",
            f"{(peak - INTERPRETER) / 1e6:.0f} MB",
        )
    console.print(table)
    console.print(
        f"amplitudes over the memory of the workers: {amplitudes / (2 * found.limit):.2f}; "
        f"spilled {found.spilled / 1e6:.0f} MB; workers lost: {found.lost}"
    )


if __name__ == "__main__":
    main()
