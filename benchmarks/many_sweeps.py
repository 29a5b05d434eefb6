"""What the scheduler has to keep after 500 sweeps, against 50.

    python benchmarks/many_sweeps.py            # some minutes
    python benchmarks/many_sweeps.py --quick

Tasks that the scheduler knows, the most that it ever knew, and the memory of the process that scheduler,
client and worker are in. Every tenth sweep the state is read back from a checkpoint, which lets the scheduler
forget all before.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import click
import psutil
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

import daskptycho as dp


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="20 sweeps against 40.")
@click.option("--few", default=50, show_default=True, help="Sweeps.")
@click.option("--many", default=500, show_default=True, help="Sweeps.")
def main(quick: bool, few: int, many: int) -> None:
    few, many = (20, 40) if quick else (few, many)
    table = Table(title="The scheduler's tasks, and the memory of its process")
    for name in ("sweeps", "tasks now", "most tasks so far", "memory"):
        table.add_column(name, justify="right")
    with (
        tempfile.TemporaryDirectory() as name,
        LocalCluster(
            1, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=None
        ) as cluster,
        Client(cluster),
    ):
        scan = dp.simulate_scan(
            Path(name) / "scan.zarr", frames=(8, 8), frame_size=16, step=4, jitter=1, tile_frames=16
        )
        most = 0

        def look(progress: dp.Progress) -> None:
            nonlocal most
            tasks = len(cluster.scheduler.tasks)
            most = max(most, tasks)
            # At once, where Python would take its time: what is left is what is kept.
            if progress.sweep in (few, (few + many) // 2, many):
                gc.collect()
                memory = psutil.Process().memory_info().rss
                table.add_row(str(progress.sweep), str(tasks), str(most), f"{memory / 1e6:.0f} MB")

        dp.reconstruct(scan, sweeps=many, callback=look)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
