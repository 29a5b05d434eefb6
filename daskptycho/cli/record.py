"""``daskptycho record``: write frames that are still being measured into a scan that grows."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.geometry import add_geometry_options
from daskptycho.cli.options import (
    overwrite_option,
    tile_frames_option,
)
from daskptycho.cli.terminal import remark, show_progress, verbosity_options
from daskptycho.views.quantities import pluralise

__all__ = ["command"]


@click.command(
    "record",
    cls=CommandWithExamples,
    short_help="Record a running measurement.",
    examples=(
        "daskptycho record master.h5 scan.zarr --plan positions.csv \\\n"
        "--energy-eV 8000 --detector-distance-m 2 --detector-pixel-size-m 75e-6",
        "daskptycho record frames/ scan.zarr --plan positions.csv \\\n"
        "--position-unit pixel --probe yesterday.zarr",
    ),
)
@click.argument("file", metavar="FILE")
@click.argument("scan", metavar="SCAN")
@click.option(
    "--plan", required=True, metavar="FILE", help="File with the planned positions, in order of acquisition."
)
@click.option(
    "--plan-columns", metavar="Y,X", help="Names or numbers of its two columns of positions, as in samy,samx."
)
@click.option("--intensity-key", metavar="NAME", help="Path of the frames in an HDF5 file.")
@click.option(
    "--first-number",
    type=int,
    default=0,
    show_default=True,
    help="Number in the name of the first file of a folder.",
)
@click.option("--probe", metavar="FILE", help="First guess of the probe: a .npy file, a scan or a result.")
@click.option(
    "--wait-seconds",
    type=float,
    default=60.0,
    show_default=True,
    help="End the recording if no frame has come for this long.",
)
@add_geometry_options()
@click.option("--mask-value", type=float, multiple=True, help="Code of bad pixels, which are masked.")
@click.option("--clip-negative", is_flag=True, help="Set negative counts to 0.")
@tile_frames_option
@overwrite_option
@verbosity_options
def command(file: str, scan: str, plan_columns: str | None, **options: Any) -> None:
    """Write the frames of FILE into SCAN while FILE is being written, until all planned ones have come.

    FILE is an HDF5 file, an Eiger's master file, or a folder into which numbered files fall. Beside it,
    `daskptycho reconstruct SCAN OUT --follow` shows the image while it grows. A recording that was cut off
    goes on if it is started again.
    """
    from daskptycho.formats.recording import record
    from daskptycho.scan.left_out import frames_used

    columns = None if plan_columns is None else [name.strip() for name in plan_columns.split(",")]
    given = {name: value for name, value in options.items() if value is not None}
    with show_progress() as progress:
        written = record(file, scan, plan_columns=columns, progress=progress.frames("Recording"), **given)
    used = int(frames_used(written).sum())
    remark(f"{scan}: {pluralise(used, 'frame')} of {written.sizes['frame']} planned ones")
    remark(f"Reconstruct it with: daskptycho reconstruct {shlex.quote(scan)} result.zarr")
