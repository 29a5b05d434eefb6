"""``daskptycho simulate``: simulate a scan and keep the true object and probe."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.geometry import add_geometry_options
from daskptycho.cli.options import (
    PAIR,
    overwrite_option,
    tile_frames_option,
)
from daskptycho.cli.terminal import remark, show_progress, verbosity_options
from daskptycho.views.quantities import pluralise

__all__ = ["command"]


@click.command(
    "simulate",
    cls=CommandWithExamples,
    short_help="Simulate a scan and keep the truth.",
    examples=(
        "daskptycho simulate scan.zarr --frames 16x16 --step 8 --jitter 1 --photons 1e5",
        "daskptycho simulate near.zarr --propagation near-field --frame-size 64 \\\n"
        "--energy-eV 17000 --source-distance-m 0.005 --detector-distance-m 0.095 \\\n"
        "--detector-pixel-size-m 2e-6",
    ),
)
@click.argument("out", metavar="OUT")
@click.option(
    "--frames", type=PAIR, default="64x64", show_default=True, help="Number of frames along y and x."
)
@click.option(
    "--frame-size", type=int, default=32, show_default=True, help="Pixels along each side of a frame."
)
@click.option(
    "--step", type=float, default=8, show_default=True, help="Distance in pixels from one frame to the next."
)
@click.option("--periodic", is_flag=True, help="Make the canvas periodic (only rasters of whole steps).")
@click.option(
    "--jitter",
    type=float,
    default=0,
    show_default=True,
    help="Largest random displacement of a frame in pixels.",
)
@click.option(
    "--photons", type=float, help="Mean counts per frame, with Poisson noise; without this option, no noise."
)
@click.option(
    "--pattern",
    type=click.Choice(["raster", "spiral"]),
    default="raster",
    show_default=True,
    help="Arrangement of the positions.",
)
@click.option(
    "--subpixel", is_flag=True, help="Keep fractions of pixels in the positions instead of rounding."
)
@click.option("--modes", type=int, default=1, show_default=True, help="Number of incoherent probe modes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the jitter and the noise.")
@add_geometry_options(simulated=True)
@tile_frames_option
@overwrite_option
@verbosity_options
def command(out: str, **options: Any) -> None:
    """Simulate a scan and write it to OUT together with the true object and probe."""
    from daskptycho.scan.dataset import tile_chunks
    from daskptycho.scan.simulate import simulate_scan

    with show_progress() as progress:
        scan = simulate_scan(out, progress=progress.frames("Simulating"), **options)
    frames, height, width = scan["intensity"].shape
    tiles = pluralise(len(tile_chunks(scan)), "tile")
    remark(f"{out}: {pluralise(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    remark(f"Reconstruct it with: daskptycho reconstruct {shlex.quote(out)} result.zarr")
