"""``daskptycho view``: draw a result."""

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
    help="Subtract the mean slope of the phase, or keep it.  [default: subtract if the probe was recovered]",
)
@click.option("--sweep", type=int, metavar="N", help="Draw the checkpoint of sweep N instead of the result.")
def command(result: str, picture: str | None, remove_ramp: bool | None, sweep: int | None) -> None:
    """Draw amplitude, phase, probe modes and residual of RESULT into PICTURE.

    PICTURE ends in .png, .pdf, .svg or another format of matplotlib. By default it is a .png file beside
    RESULT with the same name, followed by the number of the sweep if --sweep is given.
    """
    from daskptycho.run.history import open_checkpoint
    from daskptycho.run.result import open_result
    from daskptycho.storage.store import parse_location
    from daskptycho.views.plotting import plot_result, save_figure

    opened = open_result(result) if sweep is None else open_checkpoint(result, sweep)
    if picture is None:
        location = parse_location(result)
        suffix = "" if sweep is None else f"-sweep-{sweep}"
        picture = str(location.with_name(f"{location.name.removesuffix('.zarr')}{suffix}.png"))
    click.echo(save_figure(plot_result(opened, remove_ramp=remove_ramp), picture))
