"""The poster's tables on this package: sweeps to squared error 1e-4, and the eigensolver's share.

    python benchmarks/poster.py            # half an hour
    python benchmarks/poster.py --quick    # a minute

Frames of 16x16, step 4, periodic, probe known. The poster's own numbers stand beside ours (POSTER tables 1
and 2); its sample and probe are not published, so only the trends compare.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from measured_run import MeasuredRun, measured_run
from rich.console import Console
from rich.table import Table

import daskptycho as dp

SIDES = ("8", "16", "32", "64")
TARGET = 1e-2  # squared: the poster's 1e-4

# Sweeps: no sync, sync every sweep, sync every 5 (200 power steps).
POSTER_SYNC = {8: (95, 38, 58), 16: (407, 44, 90), 32: (1625, 44, 110), 64: (6465, 44, 120)}
# Sweeps and share of the eigensolver (%) with 50, 10 and 1 power steps.
POSTER_STEPS = {
    8: {50: (38, 85.6), 10: (38, 58.4), 1: (56, 23.9)},
    16: {50: (41, 85.3), 10: (51, 58.2), 1: (211, 23.3)},
    32: {50: (45, 85.0), 10: (194, 58.3), 1: (820, 23.5)},
    64: {50: (245, 85.7), 10: (758, 58.1), 1: (324, 22.4)},
}


def plain_ap(every: int, steps: int) -> dict[str, Any]:
    """The poster's method: AP without momentum, power iteration on K."""
    sync = dp.Sync("full", eigensolver="power", iterations=steps, every=every, normalisation="frame")
    return {"sync": sync, "momentum": 0, "opening": None}


def told(run: MeasuredRun) -> tuple[str, str, str]:
    sweeps = run.sweeps_to(TARGET)
    count = str(sweeps) if sweeps else f"over {len(run.error)}"
    return count, f"{run.seconds:.2f} s", f"{100 * run.eigensolver_share:.0f} %"


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="8x8 frames alone, and few sweeps.")
@click.option(
    "--side", "sides", type=click.Choice(SIDES), multiple=True, help="Frames a side; all unless given."
)
@click.option("--most-sweeps", default=500, help="Where a run without sync is given up.")
@click.option("--seed", default=0, help="Of the random phases.")
def main(quick: bool, sides: tuple[str, ...], most_sweeps: int, seed: int) -> None:
    console = Console(width=110)
    sizes = [8] if quick else [int(side) for side in sides or SIDES]
    most_sweeps = 12 if quick else most_sweeps
    table = Table(title="Sweeps to squared error 1e-4, from random phases")
    for name in ("frames", "method", "poster", "sweeps", "time", "eigensolver"):
        table.add_column(name, justify="left" if name in ("frames", "method") else "right")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            scan = dp.simulate_scan(
                Path(folder) / f"{size}.zarr", frames=(size, size), frame_size=16, step=4, periodic=True
            )
            none, every, fifth = POSTER_SYNC[size]
            methods: list[tuple[str, str, dict[str, Any]]] = [
                ("AP, no sync", str(none), {"sync": dp.Sync(method=None), "momentum": 0}),
                ("AP, 200 power steps", str(every), plain_ap(1, 200)),
                ("AP, 200 power steps, every 5", str(fifth), plain_ap(5, 200)),
            ]
            for steps, (sweeps, share) in POSTER_STEPS[size].items():
                methods.append((f"AP, {steps} power steps", f"{sweeps}, {share} %", plain_ap(1, steps)))
            methods.append(("daskptycho's default", f"best {every}", {}))
            for name, poster, options in methods:
                run = measured_run(scan, most_sweeps, stop_at=TARGET, start="random", seed=seed, **options)
                table.add_row(f"{size}x{size}", name, poster, *told(run))
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
