"""Compare the error with and without sync and polish on a jittered raster at several doses.

    python benchmarks/noise.py --peers --sweeps 40 --sweeps 60 --picture docs/noise.png
    python benchmarks/noise.py --blur 0.5
    python benchmarks/noise.py --side 16 --seed 3 --probe aperture --other-object
    python benchmarks/noise.py --quick

The scan has 32x32 frames of 32x32 pixels, step 8, jitter 1; the probe is known, and runs start from ones. The
error is weighted by the illumination, or that of well-lit pixels (--unweighted). Alternating projections with
momentum run without sync, with it, and without it from the truth, which shows what noise alone causes. The
default is L-BFGS; its last 20 sweeps are the polish, so each number of sweeps is a run of its own. So it is
with the Poisson likelihood in the polish. --peers adds the L-BFGS of cdtools, in an environment made by pip,
with as many evaluations as sweeps, and as "least" the best of all its images up to three times as many: as if
one could tell when to stop.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from measured_run import measure_run
from peer_packages import PEERS, Trial, run_peer, true_error
from raster import PROBES, simulate
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

import daskptycho as dp

PEERS_COMPARED = ("cdtools L-BFGS", "cdtools L-BFGS, Poisson")
DOSES = (1_000, 3_000, 10_000, 100_000, 1_000_000, None)


def blur_object(sample: np.ndarray, width: float) -> np.ndarray:
    """Blur an object by a Gaussian of this standard deviation in pixels."""
    return gaussian_filter(sample.real, width) + 1j * gaussian_filter(sample.imag, width)


STYLES = {
    "momentum, no sync": ("#9aa5b1", "o", "momentum without sync"),
    "momentum": ("#1f4e79", "o", "momentum"),
    "default": ("#3a7d44", "s", "default, with polish"),
    "poisson": ("#7b4b94", "D", 'likelihood="poisson"'),
    "cdtools L-BFGS": ("#c8553d", "x", "cdtools L-BFGS, amplitudes: best image"),
    "cdtools L-BFGS, Poisson": ("#e0a030", "+", "cdtools L-BFGS, Poisson: best image"),
}


def draw(errors: dict[tuple[int | None, str], list[float]], path: Path) -> None:
    """The errors after the most sweeps, in units of that of momentum below, since all curves are near."""
    figure = Figure(figsize=(7, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, (colour, marker, label) in STYLES.items():
        doses = [dose for dose in DOSES if dose is not None and (dose, name) in errors]
        if not doses:
            continue
        values = np.array([errors[dose, name][-1] for dose in doses])
        others = np.array([errors[dose, "momentum"][-1] for dose in doses])
        above.loglog(doses, values, marker=marker, color=colour, label=label)
        below.semilogx(doses, values / others, marker=marker, color=colour)
    above.set_ylabel("relative error of the image")
    below.set_ylabel("relative to momentum")
    below.set_xlabel("photons per frame")
    above.set_title("Frames of 32x32 pixels, probe known, start from ones")
    above.legend(fontsize="small")
    for axes in (above, below):
        axes.grid(alpha=0.3, which="both")
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
@click.option("--sweeps", type=int, multiple=True, help="Sweeps of the runs.  [default: 40, 60, 100]")
@click.option("--peers", is_flag=True, help="Run the L-BFGS of cdtools as well.")
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
    sweeps: tuple[int, ...],
    peers: bool,
    picture: Path | None,
) -> None:
    sweeps = (4, 8) if quick else sweeps or (40, 60, 100)
    side = 8 if quick else side
    table = Table(title=f"Relative error, {side}x{side} frames, tiles {tiles}, blur {blur}")
    for name in ("photons per frame", "method", *(f"{n} sweeps" for n in sweeps), "least"):
        table.add_column(name, justify="right")
    errors: dict[tuple[int | None, str], list[float]] = {}

    def add_row(dose: str, name: str, found: list[float]) -> None:
        row = dose, name, *(f"{error:.4f}" for error in found)
        table.add_row(*row)
        # Told as it comes, since the whole takes long.
        print(*row, file=sys.stderr)

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
            polishes: dict[str, dict[str, Any]] = {"default": {}}
            if dose is not None:
                # Without noise the frames hold fractions, and no counts.
                polishes["poisson"] = {"likelihood": "poisson"}
            for name, options in polishes.items():
                polished = [measure_run(scan, n, well_lit=unweighted, **options) for n in sweeps]
                errors[dose, name] = [
                    float((run.error if unweighted else run.weighted_error)[-1]) for run in polished
                ]
            dose_text = "no noise" if dose is None else f"{dose:,}".replace(",", " ")
            for name in (*runs, *polishes):
                add_row(dose_text, name, errors[dose, name])
            measure = true_error(scan, known=True, weighted=not unweighted)
            for name in PEERS_COMPARED if peers else ():
                found = run_peer(PEERS[name], Trial(scan), measure, iterations=3 * sweeps[-1])
                if not found:
                    continue
                passed = [
                    min((own for own in found if own.iteration >= n), default=found[-1]) for n in sweeps
                ]
                errors[dose, name] = [min(own.error for own in found)]
                add_row(dose_text, name, [*(own.error for own in passed), errors[dose, name][-1]])
    Console(width=100).print(table)
    if picture is not None:
        draw(errors, picture)


if __name__ == "__main__":
    main()
