"""A scan of several times the memory of its workers, and the peak memory of each worker.

    python benchmarks/larger_than_memory.py            # 8.6 GB, two workers of 1 GiB: half an hour
    python benchmarks/larger_than_memory.py --quick

The workers are processes of a LocalCluster with that memory limit, which Dask enforces: at 70 % of it a
worker spills, at 95 % it is killed. Bytes spilled and workers lost are told too.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import dask
import psutil
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho.cluster.client import STAY_AT_HOME
from daskptycho.run.memory import INTERPRETER


class Watch:
    """The largest memory of each worker process, looked at ten times a second."""

    def __init__(self, client: Client) -> None:
        self.peak: dict[int, int] = dict.fromkeys(client.run(_process).values(), 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for pid in self.peak:
                try:
                    self.peak[pid] = max(self.peak[pid], psutil.Process(pid).memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def _process() -> int:
    return psutil.Process().pid


def _spilled(dask_worker: Any) -> int:
    """Bytes that the worker ever wrote to disk."""
    written = dask_worker.data.cumulative_metrics.get(("disk-write", "bytes"), 0)
    return int(written)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A tiny scan, to see that it runs.")
@click.option("--side", default=362, show_default=True, help="Frames a side, of 128x128.")
@click.option("--step", default=5, show_default=True, help="Pixels.")
@click.option("--tile-frames", default=512, show_default=True)
@click.option("--sweeps", default=3, show_default=True)
@click.option("--memory", default="1GiB", show_default=True, help="Of each worker.")
@click.option("--update-probe/--known-probe", default=True)
@click.option("--scan", "kept", type=click.Path(path_type=Path), help="Made there and kept.")
def main(
    quick: bool,
    side: int,
    step: int,
    tile_frames: int,
    sweeps: int,
    memory: str,
    update_probe: bool,
    kept: Path | None,
) -> None:
    size = 128
    if quick:
        side, sweeps, size = 12, 2, 32
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as name:
        path = kept or Path(name) / "scan.zarr"
        if not path.exists():
            begun = time.perf_counter()
            dp.simulate_scan(
                path,
                frames=(side, side),
                frame_size=size,
                step=step,
                jitter=1,
                photons=1e5,
                tile_frames=tile_frames,
            )
            console.print(f"simulated in {time.perf_counter() - begun:.0f} s")
        scan = dp.open_scan(path)
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
            Watch(client) as watch,
        ):
            limit = next(iter(client.scheduler_info()["workers"].values()))["memory_limit"]

            def note(progress: dp.Progress) -> None:
                console.print(
                    f"sweep {progress.sweep}: residual {progress.residual:.4f}, {progress.seconds:.1f} s"
                )

            result = dp.reconstruct(scan, sweeps=sweeps, update_probe=update_probe, callback=note)
            spilled = sum(client.run(_spilled).values())
            alive = set(client.run(_process).values())
    amplitudes = 4 * math.prod(scan["intensity"].shape)
    tiles = len(scan["intensity"].chunksizes["frame"])
    table = Table(
        title=f"{amplitudes / 1e9:.2f} GB of amplitudes, {tiles} tiles, probe "
        f"{'recovered' if update_probe else 'known'}, residual {float(result['residual'][-1]):.4f}"
    )
    for name in ("worker", "peak", "of its limit", "above the interpreter"):
        table.add_column(name, justify="right")
    for number, peak in enumerate(watch.peak.values(), start=1):
        table.add_row(
            str(number),
            f"{peak / 1e6:.0f} MB",
            f"{100 * peak / limit:.0f} %",
            f"{(peak - INTERPRETER) / 1e6:.0f} MB",
        )
    console.print(table)
    console.print(
        f"amplitudes over the workers' memory: {amplitudes / (2 * limit):.2f}; "
        f"spilled {spilled / 1e6:.0f} MB; workers lost: {len(set(watch.peak) - alive)}"
    )


if __name__ == "__main__":
    main()
