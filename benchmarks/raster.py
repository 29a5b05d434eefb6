"""Count the sweeps to a relative error of 1e-2 and 1e-3 on a jittered raster, with and without sync.

    python benchmarks/raster.py            # minutes
    python benchmarks/raster.py --quick

Frames of 32x32 pixels, step 8, positions jittered by a pixel, probe known, no noise, start from ones. The
error is weighted by the illumination, which makes it the relative error of the exit waves.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from measured_run import measure_run
from rich.console import Console
from rich.table import Table

import daskptycho as dp


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only 8x8 frames.")
@click.option("--tiles", default=1, help="Number of tiles of each scan.")
@click.option("--seed", default=0, help="Seed of the jitter.")
def main(quick: bool, tiles: int, seed: int) -> None:
    table = Table(title=f"Sweeps to relative error, jittered raster, tiles {tiles}, seed {seed}")
    for name in ("frames", "sync", "to 1e-2", "to 1e-3", "last error", "time"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for size in (8,) if quick else (16, 32, 64):
            scan = dp.simulate_scan(
                Path(folder) / f"{size}.zarr",
                frames=(size, size),
                frame_size=32,
                step=8,
                jitter=1,
                seed=seed,
                tile_frames=-(-(size**2) // tiles),
            )
            for name, sync in (("default", dp.Sync()), ("none", dp.Sync(method=None))):
                run = measure_run(scan, 20 if quick else 80, stop_at=9e-4, weighted=True, sync=sync)
                sweeps = [run.sweeps_to(error, weighted=True) for error in (1e-2, 1e-3)]
                counts = [str(n) if n else f"over {len(run.error)}" for n in sweeps]
                table.add_row(
                    f"{size}x{size}", name, *counts, f"{run.weighted_error[-1]:.1e}", f"{run.seconds:.1f} s"
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
