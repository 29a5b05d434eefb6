"""Measure the error that a background leaves: ignored, known, or found along with the object.

    python benchmarks/background.py            # minutes
    python benchmarks/background.py --quick
    python benchmarks/background.py --probe aperture --other-object --seed 3

Frames of 32x32 pixels on a jittered raster, probe known, Poisson counts. The background has a tenth of the
counts of the sample: none, flat, or a smooth hill beside the centre. The error is weighted by illumination.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from raster import PROBES, SIZE, simulate
from rich.console import Console
from rich.table import Table

import daskptycho as dp

SHARE = 0.1
METHODS: dict[str, dict[str, Any]] = {
    "ignored": {},
    "known": {},
    "found flat": {"refine": "background"},
    "found smooth": {"refine": "smooth-background"},
}


def make_background(kind: str, mean: float) -> NDArray[np.float32]:
    """Mean counts of each pixel: none, flat, or a hill, with this mean."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    shape = {
        "none": np.zeros((SIZE, SIZE)),
        "flat": np.ones((SIZE, SIZE)),
        "smooth": 0.3 + np.exp(-((y - 0.4) ** 2 + (x - 0.65) ** 2) / (2 * 0.2**2)),
    }[kind]
    return (shape * mean / max(shape.mean(), 1e-30)).astype(np.float32)


def add_background(scan: xr.Dataset, background: NDArray, seed: int, *, known: bool) -> xr.Dataset:
    """The scan with Poisson counts of a background, which it tells if that is known."""
    counts = np.random.default_rng(seed).poisson(background, scan["intensity"].shape)
    spoilt = scan.assign(intensity=scan["intensity"] + counts.astype(scan["intensity"].dtype))
    return spoilt.assign(background=(("qy", "qx"), background)) if known else spoilt


def measure_error(scan: xr.Dataset, sweeps: int, **options: Any) -> float:
    result = dp.reconstruct(scan, sweeps=sweeps, update_probe=False, **options)
    image, truth = result["object"].values, scan["truth_object"].values
    return float(dp.relative_error(image, truth, result["illumination"].values))


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="6x6 frames, few sweeps, a flat background.")
@click.option("--side", default=12, help="Frames along a side.")
@click.option("--probe", type=click.Choice(list(PROBES)), default="default")
@click.option("--other-object", "other", is_flag=True, help="An object that no default was chosen with.")
@click.option("--photons", "doses", type=float, multiple=True, default=(1e4, 1e6), help="Counts in a frame.")
@click.option("--seed", default=0)
@click.option("--sweeps", default=80)
@click.option("--method", "methods", type=click.Choice(list(METHODS)), multiple=True, default=tuple(METHODS))
def main(
    quick: bool,
    side: int,
    probe: str,
    other: bool,
    doses: tuple[float, ...],
    seed: int,
    sweeps: int,
    methods: tuple[str, ...],
) -> None:
    side, sweeps = (6, 12) if quick else (side, sweeps)
    table = Table(title=f"Weighted error after {sweeps} sweeps, {side}x{side} frames, {probe}, seed {seed}")
    for name in ("photons", "background", *methods):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for photons in doses[:1] if quick else doses:
            scan = simulate(Path(folder), side, probe, seed, other=other, photons=photons).load()
            mean = SHARE * float(scan["intensity"].mean())
            for kind in ("flat",) if quick else ("none", "flat", "smooth"):
                background = make_background(kind, mean)
                errors = [
                    measure_error(
                        add_background(scan, background, seed, known=name == "known"), sweeps, **METHODS[name]
                    )
                    for name in methods
                ]
                table.add_row(f"{photons:.0e}", kind, *(f"{error:.4f}" for error in errors))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
