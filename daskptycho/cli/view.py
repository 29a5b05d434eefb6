"""``daskptycho view``: a picture of a result."""

from __future__ import annotations

import click

from daskptycho.cli.examples import CommandWithExamples

__all__ = ["command"]


@click.command(
    "view",
    cls=CommandWithExamples,
    short_help="Draw a result.",
    examples=("daskptycho view result.zarr star.png",),
)
@click.argument("result", metavar="RESULT")
@click.argument("picture", metavar="[PICTURE]", required=False)
@click.option(
    "--remove-ramp/--keep-ramp",
    default=None,
    help="Take the mean slope off the phase, as is done unless the probe was known; or leave it.",
)
@click.option("--sweep", type=int, metavar="N", help="Draw the checkpoint of sweep N, not the result.")
def command(result: str, picture: str | None, remove_ramp: bool | None, sweep: int | None) -> None:
    """Draw amplitude, phase, probe modes and the residual of RESULT into PICTURE.

    PICTURE ends in .png, .pdf, .svg or another format of matplotlib; without it the picture lies beside
    RESULT, under its name, and the sweep's where one is given.
    """
    from daskptycho.run.history import open_checkpoint
    from daskptycho.run.result import open_result
    from daskptycho.storage.store import parse_location
    from daskptycho.views.plotting import plot_result, save_figure

    opened = open_result(result) if sweep is None else open_checkpoint(result, sweep)
    if picture is None:
        place = parse_location(result)
        of_sweep = "" if sweep is None else f"-sweep-{sweep}"
        picture = str(place.with_name(f"{place.name.removesuffix('.zarr')}{of_sweep}.png"))
    click.echo(save_figure(plot_result(opened, remove_ramp=remove_ramp), picture))
