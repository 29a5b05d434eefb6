"""``daskptycho export``: write a result in a format that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import overwrite_option, refuse_to_overwrite

__all__ = ["command"]


@click.command(
    "export",
    cls=CommandWithExamples,
    short_help="Write a result for other programs.",
    examples=(
        "daskptycho export result.zarr image.tif",
        "daskptycho export result.zarr image.ome.zarr",
    ),
)
@click.argument("result", metavar="RESULT")
@click.argument("file", metavar="FILE")
@click.option("--sweep", type=int, metavar="N", help="Write the checkpoint of sweep N instead of the result.")
@overwrite_option
def command(result: str, file: str, sweep: int | None, overwrite: bool) -> None:
    """Write RESULT to FILE in the format that the suffix of FILE names.

    .tif is an OME-TIFF of phase and amplitude. .zarr is an OME-Zarr of both at several resolutions for napari
    and Neuroglancer. .h5, .nxs and .cxi are plain HDF5, NeXus and CXI, each with object, probe and positions.
    """
    from daskptycho.formats.export import choose_writer, export_result
    from daskptycho.run.history import open_checkpoint
    from daskptycho.run.result import open_result

    choose_writer(Path(file))
    refuse_to_overwrite(file, overwrite)
    opened = open_result(result) if sweep is None else open_checkpoint(result, sweep)
    click.echo(export_result(opened, file, overwrite=overwrite))
