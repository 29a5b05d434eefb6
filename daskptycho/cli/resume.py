"""``daskptycho resume``: a run that was cut off goes on."""

from __future__ import annotations

import shlex

import click

from daskptycho.cli.cluster import cluster_options, running_on
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import bars, summary

__all__ = ["command"]


@click.command(
    "resume",
    cls=CommandWithExamples,
    short_help="Go on with a reconstruction that was cut off.",
    examples=(
        "daskptycho resume result.zarr",
        "daskptycho resume result.zarr --sweeps 200 --workers 4",
    ),
)
@click.argument("out", metavar="OUT")
@click.option("--sweeps", type=int, help="Most sweeps in all; as many as the run was given unless said.")
@click.option("--scan", metavar="SCAN", help="Where the scan is now, if it has moved.")
@cluster_options
def command(
    out: str,
    sweeps: int | None,
    scan: str | None,
    workers: int | None,
    scheduler: str | None,
    memory: str | None,
) -> None:
    """Go on with the run of OUT from its last checkpoint, with the options that it had.

    The result is that of a run that was never cut off. A run that is done can be given more sweeps.
    """
    from daskptycho.resumption import resume, stopped_at
    from daskptycho.scan import open_scan
    from daskptycho.store import located

    done, total = stopped_at(located(out))
    total = sweeps or total
    opened = None if scan is None else open_scan(scan)
    with running_on(workers, scheduler, memory), bars() as progress:
        swept = progress.sweeps(f"From sweep {done}", total)
        result = resume(out, scan=opened, sweeps=sweeps, memory=memory, callback=swept)
    click.echo(summary(result, total))
    click.echo(f"{out}: look at it with: daskptycho view {shlex.quote(out)}")
