"""``daskptycho reconstruct``: a scan becomes an image."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.cluster import Place, check_gpus, cluster_options, running_on
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.live import dashboard_option, watched
from daskptycho.cli.options import NumberOr, given, overwrite, refuse_to_lose
from daskptycho.cli.terminal import bars, summary
from daskptycho.errors import OptionError

if TYPE_CHECKING:
    from daskptycho.model.algorithms import Algorithm
    from daskptycho.sync.options import Sync

__all__ = ["command"]


@click.command(
    "reconstruct",
    cls=CommandWithExamples,
    short_help="Reconstruct a scan.",
    examples=(
        "daskptycho reconstruct scan.zarr result.zarr --sweeps 50 --modes 3",
        "daskptycho reconstruct scan.zarr result.zarr --workers 4",
        "daskptycho reconstruct scan.zarr result.zarr --gpus 0,1",
    ),
)
@click.argument("scan", metavar="SCAN")
@click.argument("out", metavar="OUT")
@click.option("--sweeps", type=int, default=100, show_default=True, help="Most sweeps to make.")
@click.option(
    "--algorithm",
    type=click.Choice(["ap", "raar", "dm"]),
    default="ap",
    show_default=True,
    help="Alternating projections, RAAR or the difference map.",
)
@click.option("--beta", type=float, help="Relaxation of raar, above 0 and up to 1; 0.75 unless given.")
@click.option(
    "--opening",
    type=click.Choice(["ap", "raar", "dm", "none"]),
    default="raar",
    show_default=True,
    help="Algorithm in its place while sync makes a region grow from a random start.",
)
@click.option(
    "--momentum",
    type=NumberOr(float, "nesterov"),
    help="Of ap, from 0 (none) to below 1; Nesterov's sequence unless given.",
)
@click.option(
    "--sync",
    type=click.Choice(["two-level", "full", "none"]),
    default="two-level",
    show_default=True,
    help="Phases of frames in each tile, then of tiles; of all frames at once; or none.",
)
@click.option(
    "--inner",
    type=int,
    default=1,
    show_default=True,
    help="Sweeps inside a tile between two rounds of communication, with --sync two-level.",
)
@click.option(
    "--sync-every",
    type=NumberOr(int, "auto"),
    default="auto",
    show_default=True,
    help="Sweeps from one synchronisation to the next.",
)
@click.option(
    "--eigensolver",
    type=click.Choice(["lanczos", "lobpcg", "power"]),
    default="lanczos",
    show_default=True,
    help="Of sync.",
)
@click.option(
    "--iterations",
    type=NumberOr(int, "auto"),
    default="auto",
    show_default=True,
    help="Steps of the eigensolver in one synchronisation.",
)
@click.option(
    "--update-probe/--known-probe",
    default=True,
    show_default=True,
    help="Recover the probe too, or take the scan's as it is.",
)
@click.option(
    "--modes", type=int, help="Incoherent probe modes; as many as the scan's probe has unless given."
)
@click.option("--start", type=click.Choice(["ones", "random"]), default="ones", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random start.")
@click.option("--tolerance", type=float, help="Stop once the residual falls below.")
@click.option(
    "--subpixel/--whole-pixel",
    default=True,
    show_default=True,
    help="Carry the fractions of the positions, or round them.",
)
@click.option("--checkpoint-every", type=int, metavar="N", help="Keep every Nth sweep, to resume from.")
@click.option(
    "--checkpoint-minutes",
    type=NumberOr(float, "none"),
    default=10.0,
    show_default=True,
    help="Keep the run that often, to resume from; none without --checkpoint-every keeps nothing.",
)
@overwrite
@cluster_options
@dashboard_option
@click.pass_context
def command(
    ctx: click.Context,
    scan: str,
    out: str,
    dashboard: bool,
    sweeps: int,
    **options: Any,
) -> None:
    """Reconstruct SCAN and write the image, the probe and the history of the run to OUT.

    OUT appears when it is complete and opens with plain xarray.open_zarr. Checkpoints lie beside it in
    OUT.checkpoints: `daskptycho resume OUT` goes on from the last, `daskptycho history OUT` lists them.
    """
    from daskptycho.run.keeper import refuse_to_lose_checkpoints
    from daskptycho.run.loop import Progress
    from daskptycho.run.reconstruction import reconstruct
    from daskptycho.scan.dataset import open_scan, tile_chunks
    from daskptycho.storage.store import parse_location

    algorithm, sync = _algorithm(ctx), _sync(ctx)
    place = Place(**{field.name: options.pop(field.name) for field in fields(Place)})
    for name in ("beta", "inner", "sync_every", "eigensolver", "iterations"):
        options.pop(name)
    for name in ("opening", "checkpoint_minutes"):
        if options[name] == "none":
            options[name] = None
    opened = open_scan(scan)
    # The run refuses too, but only once its workers have started.
    if not options["overwrite"]:
        refuse_to_lose_checkpoints(parse_location(out), place.device)
    refuse_to_lose(out, options["overwrite"])
    with (
        running_on(place, tiles=len(tile_chunks(opened))) as client,
        watched(dashboard, opened, out) as page,
        bars() as progress,
    ):
        swept = progress.sweeps("Reconstructing", sweeps)

        def callback(state: Progress) -> None:
            swept(state)
            page(state)

        result = reconstruct(
            opened,
            out,
            sweeps=sweeps,
            memory=place.worker_memory,
            device=place.device,
            callback=callback,
            **options | {"algorithm": algorithm, "sync": sync},
        )
        check_gpus(place, client)
    click.echo(summary(result, sweeps))
    click.echo(f"{out}: look at it with: daskptycho view {shlex.quote(out)}")


def _algorithm(ctx: click.Context) -> Algorithm:
    from daskptycho.model.algorithms import RAAR, parse_algorithm

    name, beta = ctx.params["algorithm"], ctx.params["beta"]
    if beta is None:
        return parse_algorithm(name)
    if name != RAAR.name:
        raise OptionError(f"--beta is {beta} with --algorithm {name}; only raar has a beta")
    return RAAR(beta)


def _sync(ctx: click.Context) -> Sync:
    from daskptycho.sync.options import Sync

    if ctx.params["sync"] == "none":
        useless = given(ctx, "inner", "sync_every", "eigensolver", "iterations")
        if useless:
            raise OptionError(
                f"{' and '.join(useless)} with --sync none; expected another --sync, or none of them"
            )
        return Sync(method=None)
    return Sync(
        method=ctx.params["sync"],
        inner=ctx.params["inner"],
        eigensolver=ctx.params["eigensolver"],
        iterations=ctx.params["iterations"],
        every=ctx.params["sync_every"],
    )
