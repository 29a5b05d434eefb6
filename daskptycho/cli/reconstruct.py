"""``daskptycho reconstruct``: reconstruct an image from a scan."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.cluster import ComputeResources, add_cluster_options, confirm_gpu_work, open_client
from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.live import dashboard_option, serve_live_page
from daskptycho.cli.options import (
    NumberOr,
    add_beam_options,
    algorithm_option,
    leave_out_option,
    no_iterations_option,
    options_on_command_line,
    overwrite_option,
    refine_option,
    refuse_to_overwrite,
    sync_option,
    update_probe_option,
)
from daskptycho.cli.terminal import remark, show_progress, summarise_run, verbosity_options
from daskptycho.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

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
        "daskptycho reconstruct growing.zarr result.zarr --follow --dashboard",
    ),
)
@click.argument("scan", metavar="SCAN")
@click.argument("out", metavar="OUT")
@click.option("--sweeps", type=int, default=100, show_default=True, help="Maximum number of sweeps.")
@algorithm_option
@click.option("--beta", type=float, help="Relaxation of raar, above 0 and at most 1.  [default: 0.75]")
@click.option(
    "--opening",
    type=click.Choice(["ap", "raar", "dm", "none"]),
    default="raar",
    show_default=True,
    help="Algorithm of the first sweeps after a random start, until a synchronised region has grown.",
)
@click.option(
    "--momentum",
    type=NumberOr(float, "nesterov"),
    help="Momentum of ap: from 0 (none) to below 1, or Nesterov's sequence.  [default: nesterov]",
)
@sync_option
@click.option(
    "--inner",
    type=int,
    default=1,
    show_default=True,
    help="Sweeps inside a tile between two exchanges with other tiles, with --sync two-level.",
)
@click.option(
    "--sync-every",
    type=NumberOr(int, "auto"),
    default="auto",
    show_default=True,
    help="Number of sweeps from one synchronisation to the next.",
)
@click.option(
    "--eigensolver",
    type=click.Choice(["lanczos", "lobpcg", "power"]),
    default="lanczos",
    show_default=True,
    help="Eigensolver of the synchronisation.",
)
@click.option(
    "--eigensolver-steps",
    type=NumberOr(int, "auto"),
    default="auto",
    show_default=True,
    help="Steps of the eigensolver in each synchronisation.",
)
@no_iterations_option
@update_probe_option
@click.option("--modes", type=int, help="Number of incoherent probe modes; by default, that of the scan.")
@click.option("--guess-probe", is_flag=True, help="Guess the probe even if the scan has one.")
@add_beam_options
@refine_option
@click.option(
    "--start",
    type=click.Choice(["ones", "random"]),
    default="ones",
    show_default=True,
    help="Start from a constant object or from random phases.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random start.")
@click.option(
    "--tolerance",
    type=NumberOr(float, "auto"),
    help="Stop once the residual is below this value or, with auto, once residual and object are at rest.",
)
@click.option(
    "--polish/--no-polish",
    default=None,
    help="Allow for counting noise in the last sweeps.  "
    "[default: with --known-probe, if counts are whole and few]",
)
@click.option(
    "--likelihood",
    type=click.Choice(["amplitude", "poisson"]),
    default="amplitude",
    show_default=True,
    help="What the polish compares with the counts: stabilised amplitudes, or the likelihood of Poisson.",
)
@click.option(
    "--subpixel/--whole-pixel",
    default=True,
    show_default=True,
    help="Use positions between pixels, or round them to whole pixels.",
)
@leave_out_option
@click.option(
    "--follow",
    is_flag=True,
    help="Follow a scan that is still being measured: take up its frames as they come, and make --sweeps "
    "sweeps after the last one.",
)
@click.option(
    "--checkpoint-every", type=int, metavar="N", help="Keep a checkpoint every N sweeps, to resume from."
)
@click.option(
    "--checkpoint-minutes",
    type=NumberOr(float, "none"),
    default=10.0,
    show_default=True,
    help="Minutes between checkpoints; with none and without --checkpoint-every, no checkpoint is kept.",
)
@overwrite_option
@add_cluster_options
@dashboard_option
@verbosity_options
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

    OUT appears once it is complete; xarray.open_zarr opens it. Checkpoints are kept beside it in
    OUT.checkpoints: `daskptycho history OUT` lists them, `daskptycho resume OUT` continues from the last.
    """
    from daskptycho.run.keeper import refuse_to_lose_checkpoints
    from daskptycho.run.loop import Progress
    from daskptycho.run.reconstruction import reconstruct
    from daskptycho.scan.dataset import open_scan, tile_chunks
    from daskptycho.storage.store import parse_location

    algorithm, sync = _algorithm(ctx), _sync(ctx)
    resources = ComputeResources(
        **{field.name: options.pop(field.name) for field in fields(ComputeResources)}
    )
    for name in ("beta", "inner", "sync_every", "eigensolver", "eigensolver_steps"):
        options.pop(name)
    if options["polish"] is None:
        options["polish"] = "auto"
    for name in ("opening", "checkpoint_minutes"):
        if options[name] == "none":
            options[name] = None
    opened = open_scan(scan)
    # The run refuses as well, but only after its workers have started.
    if not options["overwrite"]:
        refuse_to_lose_checkpoints(parse_location(out), resources.device)
    refuse_to_overwrite(out, options["overwrite"])
    options["probe"] = _first_probe(opened, options)
    with (
        open_client(resources, tiles=len(tile_chunks(opened))) as client,
        serve_live_page(dashboard, opened, out) as page,
        show_progress() as progress,
    ):
        bar = progress.sweeps("Reconstructing", sweeps)

        def callback(state: Progress) -> None:
            bar(state)
            page(state)

        result = reconstruct(
            opened,
            out,
            sweeps=sweeps,
            memory=resources.worker_memory,
            device=resources.device,
            callback=callback,
            **options | {"algorithm": algorithm, "sync": sync},
        )
        confirm_gpu_work(resources, client)
    remark(summarise_run(result, result.sizes["sweep"] if options["follow"] else sweeps))
    remark(f"{out} is complete; look at it with: daskptycho view {shlex.quote(out)}")


def _first_probe(scan: xr.Dataset, options: dict[str, Any]) -> Any:
    """Take the options of the first probe, and make one if they ask for it; None for that of the scan."""
    from daskptycho.formats.probe_file import read_probe
    from daskptycho.run.first_probe import guess_probe

    names = ("probe_diameter", "probe_defocus_m", "convergence_angle_mrad")
    known = {name.removeprefix("probe_"): options.pop(name) for name in names}
    given, guesses = options.pop("probe"), options.pop("guess_probe")
    asked = guesses or any(value is not None for value in known.values())
    if given is not None and asked:
        raise OptionError("--probe and options for a guess of the probe are given; expected one of them")
    if given is not None:
        return read_probe(given)
    if asked and not options["update_probe"]:
        raise OptionError("a guess of the probe with --known-probe; expected --update-probe, or --probe FILE")
    return guess_probe(scan, **known) if asked else None


def _algorithm(ctx: click.Context) -> Algorithm | None:
    """Algorithm of the run, from --algorithm and --beta."""
    from daskptycho.model.algorithms import RAAR, parse_algorithm

    name, beta = ctx.params["algorithm"], ctx.params["beta"]
    if beta is None:
        return None if name is None else parse_algorithm(name)
    if name != RAAR.name:
        raise OptionError(f"--beta is {beta} with --algorithm {name or 'ap'}; only raar has a beta")
    return RAAR(beta)


def _sync(ctx: click.Context) -> Sync:
    """Synchronisation of the run, from --sync and its options."""
    from daskptycho.sync.options import Sync

    if ctx.params["sync"] == "none":
        useless = options_on_command_line(ctx, "inner", "sync_every", "eigensolver", "eigensolver_steps")
        if useless:
            raise OptionError(
                f"{' and '.join(useless)} with --sync none; expected another --sync, or none of these options"
            )
        return Sync(method=None)
    return Sync(
        method=ctx.params["sync"],
        inner=ctx.params["inner"],
        eigensolver=ctx.params["eigensolver"],
        iterations=ctx.params["eigensolver_steps"],
        every=ctx.params["sync_every"],
    )
