"""Compare the error with and without sync on a jittered raster at several doses, in a table and a picture.

    python benchmarks/noise.py --picture docs/noise.png
    python benchmarks/noise.py --blur 0.5
    python benchmarks/noise.py --quick

The scan has 32x32 frames of 32x32 pixels, step 8, jitter 1; the probe is known, and runs start from ones. The
error is weighted by the illumination. A third run starts from the truth and shows the error that noise alone
causes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from measured_run import measure_run
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

import daskptycho as dp

DOSES = (1_000, 3_000, 10_000, 100_000, None)


def blur_object(sample: np.ndarray, width: float) -> np.ndarray:
    """Blur an object by a Gaussian of this standard deviation in pixels."""
    return gaussian_filter(sample.real, width) + 1j * gaussian_filter(sample.imag, width)


def simulate(path: Path, side: int, photons: int | None, blur: float, tiles: int) -> xr.Dataset:
    options: dict[str, Any] = {"frames": (side, side), "frame_size": 32, "step": 8, "jitter": 1}
    options |= {"photons": photons, "tile_frames": -(-(side**2) // tiles)}
    scan = dp.simulate_scan(path, **options)
    if not blur:
        return scan
    sample = blur_object(scan["truth_object"].values, blur)
    return dp.simulate_scan(path, **options, object=sample, overwrite=True)


def draw(errors: dict[tuple[int | None, str], list[float]], sweeps: tuple[int, ...], path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    doses = [dose for dose in DOSES if dose is not None and (dose, "none") in errors]
    styles = {"none": ("#1f4e79", "o", "without sync"), "default": ("#c8553d", "x", "with sync")}
    for name, (colour, marker, label) in styles.items():
        for index, line in zip(range(len(sweeps)), (":", "--", "-"), strict=False):
            values = [errors[dose, name][index] for dose in doses]
            text = f"{label}, {sweeps[index]} sweeps"
            axes.loglog(doses, values, line, marker=marker, color=colour, label=text)
    axes.set_xlabel("photons per frame")
    axes.set_ylabel("relative error of the image")
    axes.set_title("32x32 frames of 32x32 pixels, start from ones")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="8x8 frames, one dose, few sweeps.")
@click.option("--tiles", default=1, help="Number of tiles of each scan.")
@click.option("--blur", default=0.0, help="Blur of the object in pixels (standard deviation of a Gaussian).")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the table into this file as well.")
def main(quick: bool, tiles: int, blur: float, picture: Path | None) -> None:
    sweeps = (4, 8) if quick else (20, 60, 200)
    side = 8 if quick else 32
    table = Table(title=f"Relative error with and without sync, tiles {tiles}, blur {blur}")
    for name in ("photons per frame", "sync", *(f"{n} sweeps" for n in sweeps)):
        table.add_column(name, justify="right")
    errors: dict[tuple[int | None, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dose in (3_000,) if quick else DOSES:
            scan = simulate(Path(folder) / f"{dose}.zarr", side, dose, blur, tiles)
            none = dp.Sync(method=None)
            runs: dict[str, dict[str, Any]] = {
                "none": {"sync": none},
                "default": {},
                "none, from the truth": {"sync": none, "start": scan["truth_object"].values},
            }
            for name, options in runs.items():
                run = measure_run(scan, sweeps[-1], **options)
                errors[dose, name] = [float(run.weighted_error[n - 1]) for n in sweeps]
                dose_text = "no noise" if dose is None else f"{dose:,}".replace(",", " ")
                table.add_row(dose_text, name, *(f"{error:.4f}" for error in errors[dose, name]))
    Console(width=100).print(table)
    if picture is not None:
        draw(errors, sweeps, picture)


if __name__ == "__main__":
    main()
