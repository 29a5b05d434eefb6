"""``daskptycho demo``: show in one picture what phase synchronisation does."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import show_progress, show_table

if TYPE_CHECKING:
    from daskptycho.run.loop import Progress

__all__ = ["command"]


@click.command(
    "demo",
    cls=CommandWithExamples,
    short_help="See in a minute what synchronisation does.",
    examples=("daskptycho demo demo",),
)
@click.argument("folder", metavar="FOLDER")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the position jitter.")
def command(folder: str, seed: int) -> None:
    """Simulate a scan, reconstruct it with and without synchronisation, and draw the difference.

    The scan, both results and the picture are written to FOLDER. A second call replaces them.
    """
    from daskptycho.demo import SWEEPS, run_demo

    with show_progress() as progress:
        frames = progress.frames("Simulating")
        sweeps = {}

        def show_sweep(name: str, state: Progress) -> None:
            if name not in sweeps:
                sweeps[name] = progress.sweeps(name.capitalize(), SWEEPS)
            sweeps[name](state)

        demo = run_demo(folder, seed=seed, on_frames=frames, on_sweep=show_sweep)
    show_table(
        ("", f"error after {SWEEPS} sweeps", "residual", "time"),
        [
            (
                name,
                f"{demo.error[name][-1]:.2g}",
                f"{float(result['residual'][-1]):.2g}",
                f"{float(result['seconds'].sum()):.1f} s",
            )
            for name, result in demo.results.items()
        ],
    )
    click.echo(f"Picture: {demo.picture}")
    click.echo(f"Look at the scan with: daskptycho info {shlex.quote(str(demo.scan))}")
