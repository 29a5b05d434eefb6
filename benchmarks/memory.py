"""Peak memory of a run against the bytes of its amplitudes.

    python benchmarks/memory.py            # half a gigabyte of frames
    python benchmarks/memory.py --quick

Peak of the whole process above that of the same process after a run over a tiny scan, which is what the
interpreter, its libraries and the compiled kernels take. The amplitudes are counted as float32: those of all
tiles where they are held, those of the tiles in flight, one for each thread, where they are streamed. The
result that a run ends with, 12 bytes a pixel of the canvas, is part of its peak.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import dask
from dask.system import CPU_COUNT
from rich.console import Console
from rich.table import Table

import daskptycho as dp
from daskptycho.cluster.workers import Workers
from daskptycho.model.probe import Probe
from daskptycho.run.memory import FULL, Needs, estimate_needs
from daskptycho.run.options import Recipe
from daskptycho.scan.dataset import position_in_pixels, tile_chunks
from daskptycho.tiling import make_tiling

RUNS: dict[str, dict[str, Any]] = {
    "probe known, sync each sweep": {"update_probe": False, "sync": dp.Sync(every=1)},
    "probe recovered, sync each sweep": {"sync": dp.Sync(every=1)},
    "probe recovered, defaults": {},
    "waves twice, probe recovered, sync each sweep": {"sync": dp.Sync(every=1)},
    "streamed, probe known, sync each sweep": {"update_probe": False, "sync": dp.Sync(every=1)},
    "streamed, probe recovered, sync each sweep": {"sync": dp.Sync(every=1)},
    "images on disk, probe known": {"update_probe": False, "sync": dp.Sync(every=1)},
    "images on disk, probe recovered": {"sync": dp.Sync(every=1)},
}
QUICK = (
    "probe recovered, defaults",
    "streamed, probe known, sync each sweep",
    "images on disk, probe known",
)


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_of_run(folder: Path, run: str, sweeps: int, threads: int) -> int:
    """Bytes that the large scan's run adds to the peak of the tiny scan's."""
    options = RUNS[run]
    with dask.config.set(num_workers=threads):
        dp.reconstruct(dp.open_scan(folder / "tiny.zarr"), sweeps=sweeps, **options)
        scan = dp.open_scan(folder / "large.zarr")
        memory = None
        # Less and less, until no more than the run's own grade fits.
        while not _is_so(run, needs := _needs(scan, options, threads, memory)):
            memory = math.floor(needs.worker / FULL) - 1
        before = _peak()
        dp.reconstruct(scan, sweeps=sweeps, memory=memory, **options)
    return _peak() - before


def _is_so(run: str, needs: Needs) -> bool:
    if run.startswith("images"):
        return needs.residency.images_on_disk
    if run.startswith("streamed"):
        return needs.residency.streamed
    return needs.residency.waves_twice or not run.startswith("waves twice")


def _held(run: str) -> bool:
    return not run.startswith(("streamed", "images"))


def _needs(scan: Any, options: dict[str, Any], threads: int, memory: int | None) -> Needs:
    tiling = make_tiling(position_in_pixels(scan), (scan.sizes["qy"], scan.sizes["qx"]), tile_chunks(scan))
    recipe = Recipe(parameters=(Probe(recovered=options.get("update_probe", True)),))
    return estimate_needs(scan, tiling, Workers(1, threads, memory), recipe)


def _simulate(folder: Path, size: int, frame_size: int, step: int, tile_frames: int | None) -> None:
    for name, frames, per_tile in (("tiny", 3, None), ("large", size, tile_frames)):
        dp.simulate_scan(
            folder / f"{name}.zarr",
            frames=(frames, frames),
            frame_size=frame_size,
            step=step,
            photons=1e6,
            tile_frames=per_tile,
        )


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a new process: a peak is never taken back, and a child's begins at what its parent had."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="24x24 frames.")
@click.option("--side", default=80, show_default=True, help="Frames.")
@click.option("--frame-size", default=128, show_default=True, help="Pixels.")
@click.option("--step", default=32, show_default=True, help="Pixels.")
@click.option("--tile-frames", type=int, help="As `simulate` chooses them unless given.")
@click.option("--threads", default=CPU_COUNT, show_default=True)
@click.option("--run", "runs", multiple=True, help="Begin of a run's name; all of them unless given.")
def main(
    quick: bool,
    side: int,
    frame_size: int,
    step: int,
    tile_frames: int | None,
    threads: int,
    runs: tuple[str, ...],
) -> None:
    side, sweeps = (24, 2) if quick else (side, 4)
    table = Table(title=f"Peak memory, {side}x{side} frames of {frame_size}x{frame_size}, step {step}")
    for name in ("run", "amplitudes", "peak", "of the amplitudes"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _elsewhere(_simulate, folder, side, frame_size, step, tile_frames)
        scan = dp.open_scan(folder / "large.zarr")
        amplitudes = 4 * scan["intensity"].size
        tiles = len(scan["intensity"].chunksizes["frame"])
        for run in QUICK if quick else RUNS:
            if runs and not run.startswith(runs):
                continue
            peak = _elsewhere(_peak_of_run, folder, run, sweeps, threads)
            flying = amplitudes if _held(run) else amplitudes * threads / tiles
            table.add_row(run, f"{flying / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB", f"{peak / flying:.2f}")
    table.caption = f"{tiles} tiles, {threads} threads"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
