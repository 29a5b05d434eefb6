"""``daskptycho demo``: what phase synchronisation does, in one picture."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import bars, show_table

if TYPE_CHECKING:
    from daskptycho.run.loop import Progress

__all__ = ["command"]


@click.command(
    "demo",
    cls=CommandWithExamples,
    short_help="See what synchronisation does, in a minute.",
    examples=("daskptycho demo demo",),
)
@click.argument("folder", metavar="FOLDER")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the jitter of the positions.")
def command(folder: str, seed: int) -> None:
    """Simulate a scan, reconstruct it with and without sync, and draw the difference.

    FOLDER gets the scan, both results and the picture; a second call replaces them.
    """
    from daskptycho.demo import SWEEPS, run_demo

    with bars() as progress:
        frames = progress.frames("Simulating")
        sweeps = {}

        def swept(name: str, state: Progress) -> None:
            if name not in sweeps:
                sweeps[name] = progress.sweeps(name.capitalize(), SWEEPS)
            sweeps[name](state)

        found = run_demo(folder, seed=seed, on_frames=frames, on_sweep=swept)
    show_table(
        ("", f"error after {SWEEPS} sweeps", "residual", "time"),
        [
            (
                name,
                f"{found.error[name][-1]:.2g}",
                f"{float(result['residual'][-1]):.2g}",
                f"{float(result['seconds'].sum()):.1f} s",
            )
            for name, result in found.results.items()
        ],
    )
    click.echo(f"Picture: {found.picture}")
    click.echo(f"More:    daskptycho info {shlex.quote(str(found.scan))}")
