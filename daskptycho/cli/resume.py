"""``daskptycho resume``: continue a run that was cut off."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.cluster import ComputeResources, add_cluster_options, confirm_gpu_work, open_client
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.live import dashboard_option, serve_live_page
from daskptycho.cli.options import no_iterations_option
from daskptycho.cli.terminal import remark, show_progress, summarise_run, verbosity_options

if TYPE_CHECKING:
    from daskptycho.run.loop import Progress

__all__ = ["command"]


@click.command(
    "resume",
    cls=CommandWithExamples,
    short_help="Continue a reconstruction that was cut off.",
    examples=(
        "daskptycho resume result.zarr",
        "daskptycho resume result.zarr --sweeps 200 --workers 4",
    ),
)
@click.argument("out", metavar="OUT")
@click.option(
    "--sweeps", type=int, help="Maximum number of sweeps in all; by default, that of the original run."
)
@no_iterations_option
@click.option("--scan", metavar="SCAN", help="Where the scan is now, if it has been moved.")
@add_cluster_options
@dashboard_option
@verbosity_options
def command(
    out: str,
    sweeps: int | None,
    scan: str | None,
    dashboard: bool,
    **options: Any,
) -> None:
    """Continue the run that writes OUT from its last checkpoint, with the same options.

    The result is the same as that of a run that was never cut off. A complete run can be given more sweeps.
    """
    from daskptycho.run.history import open_checkpoint_store, read_progress, read_scan_header
    from daskptycho.run.resumption import resume
    from daskptycho.scan.dataset import open_scan
    from daskptycho.storage.store import parse_location

    resources = ComputeResources(**options)
    target = parse_location(out)
    done, total = read_progress(target)
    tiles = len(open_checkpoint_store(target).read_constants()["tiles"])
    total = sweeps or total
    opened = None if scan is None else open_scan(scan)
    header = read_scan_header(target)
    with (
        open_client(resources, tiles=tiles) as client,
        serve_live_page(dashboard, header, out) as page,
        show_progress() as progress,
    ):
        bar = progress.sweeps(f"From sweep {done}", total)

        def callback(state: Progress) -> None:
            bar(state)
            page(state)

        result = resume(
            out,
            scan=opened,
            sweeps=sweeps,
            memory=resources.worker_memory,
            device=resources.device,
            callback=callback,
        )
        if result.sizes["sweep"] > done:
            confirm_gpu_work(resources, client)
    remark(summarise_run(result, total))
    remark(f"{out} is complete; look at it with: daskptycho view {shlex.quote(out)}")
