"""``daskptycho export``: write a result in a format that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import (
    colour_map_option,
    options_on_command_line,
    overwrite_option,
    range_option,
    refuse_to_overwrite,
    region_option,
    say_that_ramp_is_removed,
)
from daskptycho.errors import OptionError

__all__ = ["command"]

# Files with phases only: as in a picture, a slope of the phase that the data do not determine is subtracted.
PHASES = {".tif", ".tiff", ".zarr", ".png"}


@click.command(
    "export",
    cls=CommandWithExamples,
    short_help="Write a result for other programs.",
    examples=(
        "daskptycho export result.zarr image.tif",
        "daskptycho export result.zarr image.ome.zarr",
        "daskptycho export result.zarr phase.png --range -0.5,0.5",
    ),
)
@click.argument("result", metavar="RESULT")
@click.argument("file", metavar="FILE")
@click.option("--sweep", type=int, metavar="N", help="Write the checkpoint of sweep N instead of the result.")
@region_option
@click.option(
    "--remove-ramp/--keep-ramp",
    default=None,
    help="Subtract the mean slope of the phase, or keep it.  [default: subtract if the probe was recovered "
    "and FILE holds phases, keep if it holds complex numbers]",
)
@click.option(
    "--part",
    type=click.Choice(["phase", "amplitude"]),
    default="phase",
    show_default=True,
    help="What a .png shows.",
)
@colour_map_option
@range_option
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context,
    result: str,
    file: str,
    sweep: int | None,
    region: tuple[slice, slice] | None,
    remove_ramp: bool | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write RESULT to FILE in the format that the suffix of FILE names.

    .tif is an OME-TIFF of phase and amplitude. .zarr is an OME-Zarr of both at several resolutions for napari
    and Neuroglancer. .h5, .nxs and .cxi are plain HDF5, NeXus and CXI, each with object, probe and positions.
    .npy is the complex object as a NumPy array. .png is a picture of the phase or the amplitude with one dot
    per pixel; --part, --colour-map and --range apply only to it.
    """
    from daskptycho.formats.export import SUFFIXES, export_result
    from daskptycho.run.history import open_checkpoint, open_finished
    from daskptycho.views.plotting import does_remove_ramp
    from daskptycho.views.regions import crop_result
    from daskptycho.views.saving import save_image

    suffix = Path(file).suffix.lower()
    if suffix != ".png":
        if suffix not in SUFFIXES:
            known = ", ".join((*SUFFIXES, ".png"))
            raise OptionError(f"{file} ends in {suffix or 'no suffix'}; expected one of {known}")
        useless = options_on_command_line(ctx, "part", "colour_map", "limits")
        if useless:
            raise OptionError(
                f"{' and '.join(useless)} with a {suffix} file; expected a .png, or none of these"
            )
    refuse_to_overwrite(file, overwrite)
    opened = open_finished(result) if sweep is None else open_checkpoint(result, sweep)
    removed = does_remove_ramp(opened, remove_ramp) if suffix in PHASES else bool(remove_ramp)
    if suffix == ".png":
        click.echo(save_image(opened, file, remove_ramp=removed, region=region, **options))
    else:
        opened = crop_result(opened, region, remove_ramp=removed)
        click.echo(export_result(opened, file, overwrite=overwrite))
    if removed and options["part"] == "phase":
        say_that_ramp_is_removed(file)
