"""Reproduce the tables of the poster: sweeps to a squared error of 1e-4, and the share of the eigensolver.

    python benchmarks/poster.py            # half an hour
    python benchmarks/poster.py --quick    # a minute
    python benchmarks/poster.py --tiles --side 32 --side 64 --side 128 --side 256 --inner 1 --inner 2

Frames of 16x16 pixels, step 4, periodic, probe known. The numbers of the poster (its tables 1 and 2) are
shown beside ours. Its sample and probe are not published, so only the trends can be compared.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from measured_run import MeasuredRun, measure_run
from rich.console import Console
from rich.table import Table

import daskptycho as dp

SIDES = ("8", "16", "32", "64")
LARGE = ("128", "256")
# Frames per tile of a scan in several tiles: 64x64 frames are 8x8 tiles. A scan of more than ONE_TILE frames
# is not reconstructed in one tile for comparison.
TILE_FRAMES, ONE_TILE = 64, 64 * 64
TARGET = 1e-2  # squared, the 1e-4 of the poster

# Sweeps without sync, with sync in every sweep, and in every fifth (200 power steps).
POSTER_SYNC = {8: (95, 38, 58), 16: (407, 44, 90), 32: (1625, 44, 110), 64: (6465, 44, 120)}
# Sweeps, and share of the eigensolver in percent, with 50, 10 and 1 power steps.
POSTER_STEPS = {
    8: {50: (38, 85.6), 10: (38, 58.4), 1: (56, 23.9)},
    16: {50: (41, 85.3), 10: (51, 58.2), 1: (211, 23.3)},
    32: {50: (45, 85.0), 10: (194, 58.3), 1: (820, 23.5)},
    64: {50: (245, 85.7), 10: (758, 58.1), 1: (324, 22.4)},
}


def poster_options(every: int, steps: int) -> dict[str, Any]:
    """Options of the method of the poster: AP without momentum, power iteration on K."""
    sync = dp.Sync("full", eigensolver="power", iterations=steps, every=every, normalisation="frame")
    return {"sync": sync, "momentum": 0, "opening": None}


def describe_run(run: MeasuredRun) -> tuple[str, str, str]:
    """Sweeps to the target, seconds, and share of the eigensolver, as text."""
    sweeps = run.sweeps_to(TARGET)
    count = str(sweeps) if sweeps else f"over {len(run.error)}"
    return count, f"{run.seconds:.2f} s", f"{100 * run.eigensolver_share:.0f} %"


def compare_tiles(folder: Path, sizes: list[int], inner: tuple[int, ...], most: int, seed: int) -> Table:
    """Compare the rounds of communication of the two-level method in tiles with one tile and the exact H."""
    table = Table(title="Rounds to squared error 1e-4, from random phases")
    for name in ("frames", "tiles", "method", "rounds", "time"):
        table.add_column(name, justify="left" if name in ("frames", "method") else "right")
    for size in sizes:
        for frames, methods in (
            (TILE_FRAMES, {f"two-level, inner {count}": dp.Sync(inner=count) for count in inner}),
            (
                size * size,
                {f"one tile, {count} Lanczos steps": dp.Sync(iterations=count) for count in (12, 64)}
                | {"one tile": dp.Sync()},
            ),
        ):
            if frames > max(TILE_FRAMES, ONE_TILE):
                continue
            scan = dp.simulate_scan(
                folder / f"{size}-{frames}.zarr",
                frames=(size, size),
                frame_size=16,
                step=4,
                periodic=True,
                tile_frames=frames,
            )
            for name, sync in methods.items():
                run = measure_run(scan, most, stop_at=TARGET, start="random", seed=seed, sync=sync)
                rounds, seconds, _ = describe_run(run)
                table.add_row(f"{size}x{size}", str(size * size // frames), name, rounds, seconds)
        table.add_section()
    return table


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only 8x8 frames and few sweeps.")
@click.option(
    "--side",
    "sides",
    type=click.Choice(SIDES + LARGE),
    multiple=True,
    help="Frames along each side of the scan; by default, all up to 64.",
)
@click.option("--tiles", is_flag=True, help="Only the two-level method in tiles of 8x8 frames.")
@click.option(
    "--inner",
    type=int,
    multiple=True,
    default=(1,),
    help="With --tiles: sweeps inside a tile per round of communication.",
)
@click.option("--most-sweeps", default=500, help="Number of sweeps after which a run is given up.")
@click.option("--seed", default=0, help="Seed of the random phases.")
def main(
    quick: bool, sides: tuple[str, ...], tiles: bool, inner: tuple[int, ...], most_sweeps: int, seed: int
) -> None:
    console = Console(width=110)
    sizes = [8] if quick else [int(side) for side in sides or SIDES]
    most_sweeps = 12 if quick else most_sweeps
    table = Table(title="Sweeps to squared error 1e-4, from random phases")
    for name in ("frames", "method", "poster", "sweeps", "time", "eigensolver"):
        table.add_column(name, justify="left" if name in ("frames", "method") else "right")
    with tempfile.TemporaryDirectory() as folder:
        if tiles:
            console.print(compare_tiles(Path(folder), sizes, inner, most_sweeps, seed))
            return
        for size in sizes:
            scan = dp.simulate_scan(
                Path(folder) / f"{size}.zarr", frames=(size, size), frame_size=16, step=4, periodic=True
            )
            none, every, fifth = POSTER_SYNC.get(size, ("", "", ""))
            methods: list[tuple[str, str, dict[str, Any]]] = [
                ("AP, no sync", str(none), {"sync": dp.Sync(method=None), "momentum": 0}),
                ("AP, 200 power steps", str(every), poster_options(1, 200)),
                ("AP, 200 power steps, every 5", str(fifth), poster_options(5, 200)),
            ]
            for steps, (sweeps, share) in POSTER_STEPS.get(size, {}).items():
                methods.append((f"AP, {steps} power steps", f"{sweeps}, {share} %", poster_options(1, steps)))
            methods.append(("daskptycho's default", f"best {every}", {}))
            for name, poster, options in methods:
                run = measure_run(scan, most_sweeps, stop_at=TARGET, start="random", seed=seed, **options)
                table.add_row(f"{size}x{size}", name, poster, *describe_run(run))
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
