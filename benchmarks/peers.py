"""Compare with other packages on the same frames, from the same start: error against seconds and iterations.

    python benchmarks/peers.py --picture peers.png      # an hour; makes environments by pip
    python benchmarks/peers.py --side 16 --peer "pty-chi LSQML"
    python benchmarks/peers.py --quick

Frames of 32x32 pixels, step 8, jitter 1, of an object that no default was chosen with, without noise or with
--photons; start from ones. The probe is known, or is recovered from a first guess with a wrong defocus. Every
package has one thread, and is told nothing but the frames; what was tuned for each stands in peer_runs.
Seconds are of the processor, from arrays in memory on, since other programs may be running; --limit ends a
run. The error is that of well-lit pixels. With a recovered probe it is measured after registration to the
truth, which takes longer than an iteration: at two dozen iterations only.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from peer_packages import PEERS, Moment, Trial, run_peer, true_error
from raster import SIZE, simulate
from rich.console import Console
from rich.table import Table

TARGETS = (5e-2, 1e-2, 1e-3)
COLOURS = ("#3a7d44", "#c8553d", "#e0a030", "#1f4e79", "#7b4b94", "#30a0a0")
Found = dict[tuple[int, bool, str], list[Moment]]


def defocus(probe: NDArray[np.complex64], turns: float = 0.75) -> NDArray[np.complex64]:
    """The probe with a wrong defocus: this phase, in turns, at half of the largest frequency."""
    frequency = np.fft.fftfreq(SIZE)
    square = frequency[:, None] ** 2 + frequency**2
    return np.fft.ifft2(np.fft.fft2(probe) * np.exp(2j * np.pi * turns * square / 0.25**2)).astype(
        np.complex64
    )


def first_below(moments: list[Moment], target: float) -> Moment | None:
    return next((own for own in moments if own.error <= target), None)


def draw(found: Found, path: Path) -> None:
    """A panel for each number of frames, and below it for a recovered probe."""
    sides = sorted({side for side, _, _ in found})
    kinds = sorted({known for _, known, _ in found}, reverse=True)
    names = [name for name in PEERS if any(name == own for _, _, own in found)]
    figure = Figure(figsize=(4 * len(sides), 3.4 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(sides), squeeze=False, sharey="row")
    for row, known in zip(panels, kinds, strict=True):
        for axes, side in zip(row, sides, strict=True):
            for name, colour in zip(names, COLOURS, strict=False):
                moments = found.get((side, known, name), [])
                seconds, errors = ([own[index] for own in moments] for index in (1, 3))
                axes.loglog(seconds, errors, color=colour, label=name, linewidth=2 if name == names[0] else 1)
            axes.set_title(
                f"{side}x{side} frames, probe {'known' if known else 'recovered'}", fontsize="medium"
            )
            axes.set_xlabel("seconds of one core")
            axes.grid(alpha=0.3, which="both")
        row[0].set_ylabel("relative error")
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=1 + len(sides), fontsize="small")
    figure.savefig(path, dpi=150)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Only this package, on 8x8 frames, and few iterations.")
@click.option("--side", "sides", type=int, multiple=True, help="Frames along a side.  [default: 16, 32, 64]")
@click.option("--peer", "names", type=click.Choice(list(PEERS)), multiple=True, default=tuple(PEERS))
@click.option("--probe", "kinds", type=click.Choice(["known", "recovered"]), multiple=True)
@click.option("--photons", type=float, help="Photons per frame; no noise by default.")
@click.option("--seed", default=7, show_default=True, help="Seed of the object, the jitter and the noise.")
@click.option("--limit", default=120.0, show_default=True, help="Seconds of the processor for each run.")
@click.option("--iterations", default=300, show_default=True, help="Most iterations of each run.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the errors into this file.")
def main(
    quick: bool,
    sides: tuple[int, ...],
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    photons: float | None,
    seed: int,
    limit: float,
    iterations: int,
    picture: Path | None,
) -> None:
    console = Console(width=140)
    found: Found = {}
    table = Table(title=f"Iterations / seconds of the processor to an error, limit {limit:g} s")
    for name in (
        "frames",
        "probe",
        "package",
        *(f"to {target:g}" for target in TARGETS),
        "least",
        "an iteration",
    ):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for side in (8,) if quick else sides or (16, 32, 64):
            scan = simulate(Path(folder), side, "default", seed, other=True, photons=photons)
            for kind in kinds or ("known", "recovered"):
                known = kind == "known"
                first = None if known else defocus(scan["probe"].values[0])
                measure = true_error(scan, known=known)
                for name in names[:1] if quick else names:
                    moments = run_peer(
                        PEERS[name],
                        Trial(scan, known, first),
                        measure,
                        iterations=10 if quick else iterations,
                        limit=limit,
                        looks=None if known else 24,
                    )
                    found[side, known, name] = moments
                    reached = [first_below(moments, target) for target in TARGETS]
                    cells = [f"{own.iteration} / {own.processor:.2f}" if own else "" for own in reached]
                    least = f"{min(own.error for own in moments):.1e}" if moments else "failed"
                    each = f"{moments[-1].processor / moments[-1].iteration:.3f} s" if moments else ""
                    row = f"{side}x{side}", kind, f"{name} {PEERS[name].version}", *cells, least, each
                    table.add_row(*row)
                    # Told as it comes, since the whole takes long.
                    print(*row, sep=" | ", file=sys.stderr)
    console.print(table)
    if picture is not None:
        draw(found, picture)


if __name__ == "__main__":
    main()
