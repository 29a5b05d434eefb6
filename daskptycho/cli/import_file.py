"""``daskptycho import``: a foreign file becomes a scan."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import LENGTHS, PAIR, overwrite, refuse_to_lose
from daskptycho.cli.terminal import bars, plural
from daskptycho.errors import OptionError

__all__ = ["command"]

READER_OPTIONS = (
    "intensity_key",
    "position_key",
    "probe_key",
    "valid_key",
    "background_key",
    "zero_frequency",
    "position_axes",
)


@click.command(
    "import",
    cls=CommandWithExamples,
    short_help="Turn a foreign file into a scan.",
    examples=(
        "daskptycho import star.npz.bz2 scan.zarr --position-unit pixel",
        "daskptycho import frames.npz scan.zarr --zero-frequency corner \\\n"
        "--energy-eV 7200 --detector-distance-m 2 --detector-pixel-size-m 75e-6",
    ),
)
@click.argument("file", metavar="FILE")
@click.argument("scan", metavar="SCAN")
@click.option("--intensity-key", metavar="NAME", help="The frames in FILE; usual names are found.")
@click.option("--position-key", metavar="NAME", help="The positions, [y, x] a frame.")
@click.option("--probe-key", metavar="NAME", help="The first guess of the probe.")
@click.option("--valid-key", metavar="NAME", help="The mask, True where the detector counts; never guessed.")
@click.option("--background-key", metavar="NAME", help="Counts that do not come from the sample.")
@click.option(
    "--zero-frequency",
    type=click.Choice(["centre", "corner"]),
    default="centre",
    show_default=True,
    help="Where the zero frequency lies in the frames.",
)
@click.option(
    "--position-axes",
    type=click.Choice(["yx", "xy"]),
    default="yx",
    show_default=True,
    help="Which column of the positions comes first.",
)
@click.option(
    "--position-unit",
    type=click.Choice(["m", "pixel"]),
    default="m",
    show_default=True,
    help="Unit of the positions; metres need the geometry below.",
)
@click.option("--energy-eV", "energy_eV", type=float, help="Photon energy; or the wavelength.")
@click.option("--wavelength-m", type=float, help="Wavelength; or the energy.")
@click.option("--detector-distance-m", type=float, help="From the sample to the detector.")
@click.option("--detector-pixel-size-m", type=LENGTHS, help="One length, or two for y and x.")
@click.option("--period", type=PAIR, help="The canvas wraps round at so many pixels.")
@click.option("--tile-frames", type=int, help="Frames in a tile; balanced unless given.")
@overwrite
def command(file: str, scan: str, **options: Any) -> None:
    """Read FILE (npz, also compressed by bz2, xz or gzip) and write it as a scan to SCAN."""
    from daskptycho.formats import read_file
    from daskptycho.scan import create_scan, tile_chunks

    # create_scan refuses too, but only once a file of gigabytes has been read.
    refuse_to_lose(scan, options["overwrite"])
    reading = {name: options.pop(name) for name in READER_OPTIONS}
    found = read_file(file, **{name: value for name, value in reading.items() if value is not None})
    found |= {name: value for name, value in options.items() if value is not None}
    _check_unit(found)
    with bars() as progress:
        written = create_scan(scan, progress=progress.frames("Importing"), **found)
    frames, height, width = written["intensity"].shape
    tiles = plural(len(tile_chunks(written)), "tile")
    click.echo(f"{scan}: {plural(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    click.echo(f"Look at it with: daskptycho info {shlex.quote(scan)}")


def _check_unit(found: dict[str, Any]) -> None:
    """Refuse metres without geometry in the command line's own words, before anything is written."""
    needed = {
        "--energy-eV (or --wavelength-m)": ("energy_eV", "wavelength_m"),
        "--detector-distance-m": ("detector_distance_m",),
        "--detector-pixel-size-m": ("detector_pixel_size_m",),
    }
    missing = [option for option, names in needed.items() if not any(name in found for name in names)]
    if found["position_unit"] == "m" and missing:
        raise OptionError(
            f"positions are taken to be metres, without {', '.join(missing)}, from which the pixel size "
            "follows; give these, or --position-unit pixel where the positions are in object pixels"
        )
