"""``daskptycho resume``: a run that was cut off goes on."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.cluster import Place, check_gpus, cluster_options, running_on
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.live import dashboard_option, watched
from daskptycho.cli.terminal import bars, summary

if TYPE_CHECKING:
    from daskptycho.run.loop import Progress

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
@dashboard_option
def command(
    out: str,
    sweeps: int | None,
    scan: str | None,
    dashboard: bool,
    **where: Any,
) -> None:
    """Go on with the run of OUT from its last checkpoint, with the options that it had.

    The result is that of a run that was never cut off. A run that is done can be given more sweeps.
    """
    from daskptycho.run.history import open_checkpoint_store, read_progress, read_scan_header
    from daskptycho.run.resumption import resume
    from daskptycho.scan.dataset import open_scan
    from daskptycho.storage.store import parse_location

    place = Place(**where)
    target = parse_location(out)
    done, total = read_progress(target)
    tiles = len(open_checkpoint_store(target).read_constants()["tiles"])
    total = sweeps or total
    opened = None if scan is None else open_scan(scan)
    begun = read_scan_header(target)
    with (
        running_on(place, tiles=tiles) as client,
        watched(dashboard, begun, out) as page,
        bars() as progress,
    ):
        swept = progress.sweeps(f"From sweep {done}", total)

        def callback(state: Progress) -> None:
            swept(state)
            page(state)

        result = resume(
            out,
            scan=opened,
            sweeps=sweeps,
            memory=place.worker_memory,
            device=place.device,
            callback=callback,
        )
        if result.sizes["sweep"] > done:
            check_gpus(place, client)
    click.echo(summary(result, total))
    click.echo(f"{out}: look at it with: daskptycho view {shlex.quote(out)}")
