"""``daskptycho simulate``: a scan with known truth."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import LENGTHS, PAIR, overwrite
from daskptycho.cli.terminal import bars
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
@click.option("--frames", type=PAIR, default="64x64", show_default=True, help="Frames along y and x.")
@click.option("--frame-size", type=int, default=32, show_default=True, help="Pixels along a side of a frame.")
@click.option("--step", type=float, default=8, show_default=True, help="Pixels from frame to frame.")
@click.option("--periodic", is_flag=True, help="The canvas wraps round (rasters of whole steps).")
@click.option(
    "--jitter", type=float, default=0, show_default=True, help="Move each frame by up to so many pixels."
)
@click.option(
    "--photons", type=float, help="Mean counts of a frame, with Poisson noise; no noise without it."
)
@click.option("--pattern", type=click.Choice(["raster", "spiral"]), default="raster", show_default=True)
@click.option("--subpixel", is_flag=True, help="Keep the fractions of the positions; rounded otherwise.")
@click.option("--modes", type=int, default=1, show_default=True, help="Incoherent modes of the probe.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the jitter and the noise.")
@click.option(
    "--propagation",
    type=click.Choice(["far-field", "near-field"]),
    default="far-field",
    show_default=True,
    help="Diffraction patterns, or Fresnel images, which need the geometry.",
)
@click.option("--energy-eV", "energy_eV", type=float, help="Energy of the photons or electrons.")
@click.option("--detector-distance-m", type=float, help="From the sample to the detector.")
@click.option("--detector-pixel-size-m", type=LENGTHS, help="One length, or two for y and x.")
@click.option("--source-distance-m", type=float, help="From a point source to the sample (near field).")
@click.option("--radiation", type=click.Choice(["photon", "electron"]), default="photon", show_default=True)
@click.option("--tile-frames", type=int, help="Frames in a tile; balanced unless given.")
@overwrite
def command(out: str, **options: Any) -> None:
    """Simulate a scan, write it to OUT and keep the true object and probe with it."""
    from daskptycho.scan.dataset import tile_chunks
    from daskptycho.scan.simulate import simulate_scan

    with bars() as progress:
        scan = simulate_scan(out, progress=progress.frames("Simulating"), **options)
    frames, height, width = scan["intensity"].shape
    tiles = pluralise(len(tile_chunks(scan)), "tile")
    click.echo(f"{out}: {pluralise(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    click.echo(f"Reconstruct it with: daskptycho reconstruct {shlex.quote(out)} result.zarr")
