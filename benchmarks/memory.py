"""Peak memory of a run against the bytes of its amplitudes.

    python benchmarks/memory.py            # half a gigabyte of frames
    python benchmarks/memory.py --quick

Peak of the whole process above that of the same process after a run over a tiny scan, which is what the
interpreter, its libraries and the compiled kernels take. The amplitudes are counted as float32.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import daskptycho as dp

RUNS: dict[str, dict[str, Any]] = {
    "probe known, sync each sweep": {"update_probe": False, "sync": dp.Sync(every=1)},
    "probe recovered, sync each sweep": {"sync": dp.Sync(every=1)},
    "probe recovered, defaults": {},
}


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_of_run(folder: Path, options: dict[str, Any], sweeps: int) -> int:
    """Bytes that the large scan's run adds to the peak of the tiny scan's."""
    dp.reconstruct(dp.open_scan(folder / "tiny.zarr"), sweeps=sweeps, **options)
    before = _peak()
    dp.reconstruct(dp.open_scan(folder / "large.zarr"), sweeps=sweeps, **options)
    return _peak() - before


def _simulate(folder: Path, size: int) -> None:
    for name, frames in (("tiny", 3), ("large", size)):
        dp.simulate_scan(
            folder / f"{name}.zarr", frames=(frames, frames), frame_size=128, step=32, photons=1e6
        )


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a new process: a peak is never taken back, and a child's begins at what its parent had."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="12x12 frames.")
def main(quick: bool) -> None:
    size, sweeps = (12, 2) if quick else (80, 4)
    table = Table(title=f"Peak memory, {size}x{size} frames of 128x128")
    for name in ("run", "amplitudes", "peak", "of the amplitudes"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _elsewhere(_simulate, folder, size)
        scan = dp.open_scan(folder / "large.zarr")
        amplitudes = 4 * scan["intensity"].size
        for run, options in RUNS.items():
            peak = _elsewhere(_peak_of_run, folder, options, sweeps)
            table.add_row(
                run, f"{amplitudes / 1e6:.0f} MB", f"{peak / 1e6:.0f} MB", f"{peak / amplitudes:.2f}"
            )
        tiles = len(scan["intensity"].chunksizes["frame"])
    table.caption = f"{tiles} tiles"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
