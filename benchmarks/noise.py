"""Compare the error with and without sync and polish on a jittered raster at several doses.

    python benchmarks/noise.py --picture docs/noise.png
    python benchmarks/noise.py --blur 0.5
    python benchmarks/noise.py --side 16 --seed 3 --probe aperture --other-object
    python benchmarks/noise.py --quick

The scan has 32x32 frames of 32x32 pixels, step 8, jitter 1; the probe is known, and runs start from ones. The
error is weighted by the illumination, or that of well-lit pixels (--unweighted). Alternating projections with
momentum run without sync, with it, and without it from the truth, which shows what noise alone causes. The
default is L-BFGS; its last 20 sweeps are the polish, so each number of sweeps is a run of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from measured_run import measure_run
from raster import PROBES, simulate
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

import daskptycho as dp

DOSES = (1_000, 3_000, 10_000, 100_000, 1_000_000, None)


def blur_object(sample: np.ndarray, width: float) -> np.ndarray:
    """Blur an object by a Gaussian of this standard deviation in pixels."""
    return gaussian_filter(sample.real, width) + 1j * gaussian_filter(sample.imag, width)


def draw(errors: dict[tuple[int | None, str], list[float]], sweeps: tuple[int, ...], path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    doses = [dose for dose in DOSES if dose is not None and (dose, "default") in errors]
    styles = {
        "momentum, no sync": ("#1f4e79", "o", "momentum without sync"),
        "momentum": ("#c8553d", "x", "momentum with sync"),
        "default": ("#3a7d44", "s", "default with polish"),
    }
    for name, (colour, marker, label) in styles.items():
        for index, line in zip(range(len(sweeps)), (":", "--", "-"), strict=False):
            values = [errors[dose, name][index] for dose in doses]
            text = f"{label}, {sweeps[index]} sweeps"
            axes.loglog(doses, values, line, marker=marker, color=colour, label=text)
    axes.set_xlabel("photons per frame")
    axes.set_ylabel("relative error of the image")
    axes.set_title("Frames of 32x32 pixels, start from ones")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="8x8 frames, one dose, few sweeps.")
@click.option("--tiles", default=1, help="Number of tiles of each scan.")
@click.option("--blur", default=0.0, help="Blur of the object in pixels (standard deviation of a Gaussian).")
@click.option("--side", default=32, help="Frames along a side.")
@click.option("--seed", default=0, help="Seed of the jitter and the noise.")
@click.option("--probe", type=click.Choice(list(PROBES)), default="default")
@click.option("--other-object", "other", is_flag=True, help="An object that no default was chosen with.")
@click.option("--unweighted", is_flag=True, help="The error of well-lit pixels, all with the same weight.")
@click.option("--dose", "doses", type=int, multiple=True, help="Photons per frame; all by default.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the table into this file as well.")
def main(
    quick: bool,
    tiles: int,
    blur: float,
    side: int,
    seed: int,
    probe: str,
    other: bool,
    unweighted: bool,
    doses: tuple[int, ...],
    picture: Path | None,
) -> None:
    sweeps = (4, 8) if quick else (40, 60, 100)
    side = 8 if quick else side
    table = Table(title=f"Relative error, {side}x{side} frames, tiles {tiles}, blur {blur}")
    for name in ("photons per frame", "sync", *(f"{n} sweeps" for n in sweeps)):
        table.add_column(name, justify="right")
    errors: dict[tuple[int | None, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dose in (3_000,) if quick else doses or DOSES:
            scan = simulate(Path(folder), side, probe, seed, tiles=tiles, other=other, photons=dose)
            if blur:
                sample = blur_object(scan["truth_object"].values, blur)
                scan = simulate(Path(folder), side, probe, seed, tiles=tiles, sample=sample, photons=dose)
            none = dp.Sync(method=None)
            runs: dict[str, dict[str, Any]] = {
                "momentum, no sync": {"algorithm": "ap", "sync": none},
                "momentum": {"algorithm": "ap"},
                "momentum, from the truth": {
                    **{"algorithm": "ap", "sync": none},
                    "start": scan["truth_object"].values,
                },
                "default, no polish": {"polish": False},
            }
            for name, options in runs.items():
                run = measure_run(scan, sweeps[-1], well_lit=unweighted, **options)
                error = run.error if unweighted else run.weighted_error
                errors[dose, name] = [float(error[n - 1]) for n in sweeps]
            polished = [measure_run(scan, n, well_lit=unweighted) for n in sweeps]
            errors[dose, "default"] = [
                float((run.error if unweighted else run.weighted_error)[-1]) for run in polished
            ]
            for name in (*runs, "default"):
                dose_text = "no noise" if dose is None else f"{dose:,}".replace(",", " ")
                table.add_row(dose_text, name, *(f"{error:.4f}" for error in errors[dose, name]))
    Console(width=100).print(table)
    if picture is not None:
        draw(errors, sweeps, picture)


if __name__ == "__main__":
    main()
