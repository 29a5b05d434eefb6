"""Measure the peak memory of a run relative to the bytes of its amplitudes.

    python benchmarks/memory.py            # half a gigabyte of frames
    python benchmarks/memory.py --quick

The peak of the process is measured above that of the same process after a run of a tiny scan, which is the
memory of the interpreter, its libraries and the compiled kernels. The amplitudes are counted as float32:
those of all tiles if they are held, those of one tile per thread if they are streamed. The result at the end
of a run, 12 bytes per pixel of the canvas, is part of its peak.
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


def _peak_bytes() -> int:
    """Peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_of_run(folder: Path, run: str, sweeps: int, threads: int) -> int:
    """Bytes that the run of the large scan adds to the peak of the run of the tiny scan."""
    options = RUNS[run]
    with dask.config.set(num_workers=threads):
        dp.reconstruct(dp.open_scan(folder / "tiny.zarr"), sweeps=sweeps, **options)
        scan = dp.open_scan(folder / "large.zarr")
        memory = None
        # Reduce the memory until only the grade of this run fits.
        while not _has_grade(run, needs := _estimate_run(scan, options, threads, memory)):
            memory = math.floor(needs.worker / FULL) - 1
        before = _peak_bytes()
        dp.reconstruct(scan, sweeps=sweeps, memory=memory, **options)
    return _peak_bytes() - before


def _has_grade(run: str, needs: Needs) -> bool:
    """Whether a run of this name keeps in memory what the plan says."""
    if run.startswith("images"):
        return needs.residency.images_on_disk
    if run.startswith("streamed"):
        return needs.residency.streamed
    return needs.residency.waves_twice or not run.startswith("waves twice")


def _holds_amplitudes(run: str) -> bool:
    return not run.startswith(("streamed", "images"))


def _estimate_run(scan: Any, options: dict[str, Any], threads: int, memory: int | None) -> Needs:
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


def _run_in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a new process, because the peak of a process never falls and a fork inherits it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="24x24 frames and few runs.")
@click.option("--side", default=80, show_default=True, help="Frames along each side of the scan.")
@click.option("--frame-size", default=128, show_default=True, help="Pixels along each side of a frame.")
@click.option("--step", default=32, show_default=True, help="Pixels from frame to frame.")
@click.option("--tile-frames", type=int, help="Frames per tile; by default, as `simulate` chooses them.")
@click.option("--threads", default=CPU_COUNT, show_default=True, help="Number of threads.")
@click.option("--run", "runs", multiple=True, help="Beginning of the name of a run; by default, all runs.")
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
        _run_in_new_process(_simulate, folder, side, frame_size, step, tile_frames)
        scan = dp.open_scan(folder / "large.zarr")
        amplitudes = 4 * scan["intensity"].size
        tiles = len(scan["intensity"].chunksizes["frame"])
        for run in QUICK if quick else RUNS:
            if runs and not run.startswith(runs):
                continue
            peak = _run_in_new_process(_peak_of_run, folder, run, sweeps, threads)
            in_flight = amplitudes if _holds_amplitudes(run) else amplitudes * threads / tiles
            table.add_row(run, f"{in_flight / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB", f"{peak / in_flight:.2f}")
    table.caption = f"{tiles} tiles, {threads} threads"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
