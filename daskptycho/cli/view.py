"""``daskptycho view``: draw a result."""

from __future__ import annotations

from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import (
    colour_map_option,
    overwrite_option,
    ramp_option,
    range_option,
    refuse_to_overwrite,
    region_option,
    say_that_ramp_is_removed,
)

__all__ = ["command"]


@click.command(
    "view",
    cls=CommandWithExamples,
    short_help="Draw a result.",
    examples=(
        "daskptycho view result.zarr star.png",
        "daskptycho view result.zarr phase.pdf --only phase --region 100:300,50:250",
    ),
)
@click.argument("result", metavar="RESULT")
@click.argument("picture", metavar="[PICTURE]", required=False)
@click.option("--sweep", type=int, metavar="N", help="Draw the checkpoint of sweep N instead of the result.")
@click.option(
    "--only",
    type=click.Choice(["object", "amplitude", "phase", "probe"]),
    help="Draw only this part; the object is amplitude and phase.",
)
@region_option
@colour_map_option
@range_option
@ramp_option
@click.option(
    *("--size", "width"),
    type=click.FloatRange(1, 100),
    metavar="INCHES",
    help="Width of the figure; its height and the size of its texts follow.",
)
@click.option(
    "--dpi",
    type=click.FloatRange(10, 2000),
    default=150,
    show_default=True,
    help="Resolution of a pixel format such as .png, in dots per inch.",
)
@overwrite_option
def command(
    result: str, picture: str | None, sweep: int | None, dpi: float, overwrite: bool, **options: Any
) -> None:
    """Draw amplitude, phase, probe modes and residual of RESULT into PICTURE.

    PICTURE ends in .png, .pdf, .svg or another format of matplotlib. By default it is a .png file beside
    RESULT with the same name, followed by the number of the sweep if --sweep is given. Colour map and range
    are those of the phase, or of the amplitude with --only amplitude.
    """
    from daskptycho.run.history import open_checkpoint, open_finished
    from daskptycho.storage.store import parse_location
    from daskptycho.views.plotting import does_remove_ramp, plot_result
    from daskptycho.views.saving import save_figure

    if picture is None:
        location = parse_location(result)
        suffix = "" if sweep is None else f"-sweep-{sweep}"
        picture = str(location.with_name(f"{location.name.removesuffix('.zarr')}{suffix}.png"))
    opened = open_finished(result) if sweep is None else open_checkpoint(result, sweep)
    refuse_to_overwrite(picture, overwrite)
    click.echo(save_figure(plot_result(opened, **options), picture, dpi))
    if options["only"] not in ("amplitude", "probe") and does_remove_ramp(opened, options["remove_ramp"]):
        say_that_ramp_is_removed(picture)
