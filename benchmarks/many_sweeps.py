"""Measure what the scheduler has to keep after 500 sweeps, compared with 50.

    python benchmarks/many_sweeps.py            # some minutes
    python benchmarks/many_sweeps.py --quick

The script reports the number of tasks that the scheduler knows, the largest number so far, and the memory of
its process. Every tenth sweep the state is read back from a checkpoint, so that the scheduler forgets all
earlier tasks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import psutil
from distributed import Client
from distributed.deploy.subprocess import SubprocessCluster
from rich.console import Console
from rich.table import Table

import daskptycho as dp


def _scheduler_size(dask_scheduler: Any) -> tuple[int, int]:
    """Number of tasks that the scheduler knows, and the memory of its process."""
    return len(dask_scheduler.tasks), psutil.Process().memory_info().rss


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="20 and 40 sweeps.")
@click.option("--few", default=50, show_default=True, help="Sweeps of the first row.")
@click.option("--many", default=500, show_default=True, help="Sweeps of the last row.")
def main(quick: bool, few: int, many: int) -> None:
    few, many = (20, 40) if quick else (few, many)
    table = Table(title="The scheduler, in a process of its own")
    for name in ("sweeps", "tasks now", "most tasks so far", "memory"):
        table.add_column(name, justify="right")
    with (
        tempfile.TemporaryDirectory() as name,
        SubprocessCluster(
            n_workers=1, worker_kwargs={"nthreads": 1}, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        scan = dp.simulate_scan(
            Path(name) / "scan.zarr", frames=(8, 8), frame_size=16, step=4, jitter=1, tile_frames=16
        )
        most = 0

        def look(progress: dp.Progress) -> None:
            nonlocal most
            tasks, memory = client.run_on_scheduler(_scheduler_size)
            most = max(most, tasks)
            if progress.sweep in (few, (few + many) // 2, many):
                table.add_row(str(progress.sweep), str(tasks), str(most), f"{memory / 1e6:.0f} MB")

        dp.reconstruct(scan, sweeps=many, callback=look)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
