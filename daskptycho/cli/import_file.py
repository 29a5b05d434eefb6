"""``daskptycho import``: a foreign file becomes a scan."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import LENGTHS, PAIR, SIZE, overwrite, refuse_to_lose
from daskptycho.cli.terminal import bars
from daskptycho.errors import OptionError
from daskptycho.views.quantities import pluralise

__all__ = ["command"]


class _Point(click.ParamType):
    """A place on the detector in pixels: ``257.5,260``."""

    name = "y,x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            y, x = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no place in pixels; expected y and x, as in 257.5,260", param, ctx)
        return y, x


class _Assumption(click.ParamType):
    """A name and a value: ``energy_eV=8000``."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, found, said = value.partition("=")
        if not found or not name:
            self.fail(f"{value!r} is no assumption; expected key=value, as in energy_eV=8000", param, ctx)
        try:
            numbers = tuple(float(part) for part in said.split("x"))
        except ValueError:
            return name, said
        if name == "scan_shape":
            return name, tuple(int(number) for number in numbers)
        return name, numbers[0] if len(numbers) == 1 else numbers


class _Key(click.ParamType):
    """A name and a path in an HDF5 file: ``energy_eV=/beam/energy``."""

    name = "name=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, found, path = value.partition("=")
        if not found:
            self.fail(f"{value!r} is no key; expected name=path, as in energy_eV=/beam/energy", param, ctx)
        return name, path


@click.command(
    "import",
    cls=CommandWithExamples,
    short_help="Turn a foreign file into a scan.",
    examples=(
        "daskptycho import star.npz.bz2 scan.zarr --position-unit pixel",
        "daskptycho import moonflower.ptyd scan.zarr --guess-probe",
        "daskptycho import master.h5 scan.zarr --position-file positions.txt \\\n--crop 256 --guess-probe",
        "daskptycho import frames.h5 scan.zarr --position-key motors/y+motors/x \\\n"
        "--key energy_eV=beam/energy --assume detector_distance_m=2",
        "daskptycho import empad.xml scan.zarr --guess-probe --rotation-deg 12 \\\n"
        "--assume energy_eV=300e3 --assume scan_step_m=0.4e-10",
    ),
)
@click.argument("file", metavar="FILE")
@click.argument("scan", metavar="SCAN")
@click.option("--intensity-key", metavar="NAME", help="The frames in FILE; usual names are found.")
@click.option(
    "--position-key", metavar="NAME", help="The positions, [y, x] a frame, or in HDF5 two columns, Y+X."
)
@click.option("--probe-key", metavar="NAME", help="The first guess of the probe.")
@click.option("--valid-key", metavar="NAME", help="The mask, True where the detector counts; never guessed.")
@click.option("--background-key", metavar="NAME", help="Counts that do not come from the sample.")
@click.option("--key", "keys", type=_Key(), multiple=True, help="Where in HDF5 a number of the geometry is.")
@click.option("--position-file", metavar="FILE", help="Positions in a text or .npy file of their own.")
@click.option(
    "--zero-frequency",
    type=click.Choice(["centre", "corner"]),
    help="Where the zero frequency lies in the frames.  [default: centre]",
)
@click.option("--centre", type=_Point(), help="Pixel of the zero frequency, in place of the file's.")
@click.option("--crop", type=SIZE, help="Pixels of a frame to keep round the zero frequency.")
@click.option(
    "--position-axes",
    metavar="AXES",
    help="The columns of the positions: yx or xy, a minus before a letter whose sign turns.  [default: yx]",
)
@click.option("--rotation-deg", type=float, help="Turn the positions against the detector, from y to x.")
@click.option(
    "--position-unit",
    type=click.Choice(["m", "pixel"]),
    help="Unit of the positions; metres need the geometry.  [default: the file's, or m]",
)
@click.option("--scan-shape", type=PAIR, help="Rows and columns of a raster, where there are no positions.")
@click.option("--scan-step-m", type=LENGTHS, help="Step of that raster, one or two for y and x.")
@click.option("--energy-eV", "energy_eV", type=float, help="Energy; or the wavelength.")
@click.option("--wavelength-m", type=float, help="Wavelength; or the energy.")
@click.option("--detector-distance-m", type=float, help="From the sample to the detector.")
@click.option("--detector-pixel-size-m", type=LENGTHS, help="One length, or two for y and x.")
@click.option("--pixel-size-m", type=LENGTHS, help="Of the object, where it is known by calibration.")
@click.option("--radiation", type=click.Choice(["photon", "electron"]), help="[default: the file's]")
@click.option(
    "--propagation",
    type=click.Choice(["far-field", "near-field"]),
    help="[default: the file's, or far-field]",
)
@click.option("--source-distance-m", type=float, help="From a point source to the sample (near field).")
@click.option(
    "--assume", type=_Assumption(), multiple=True, help="A number for what FILE lacks: energy_eV=8000."
)
@click.option("--guess-probe", is_flag=True, help="Make a first probe where FILE has none.")
@click.option("--probe-diameter", type=float, help="Of that guess, in pixels; as the frames tell without it.")
@click.option("--probe-defocus-m", type=float, help="Carry that guess on by so much.")
@click.option("--period", type=PAIR, help="The canvas wraps round at so many pixels.")
@click.option("--tile-frames", type=int, help="Frames in a tile; balanced unless given.")
@overwrite
def command(file: str, scan: str, **options: Any) -> None:
    """Read FILE and write it as a scan to SCAN, block by block.

    FILE is npz, HDF5, CXI, NeXus, PtyPy's ptyd, or 4D-STEM of EMPAD, Merlin, ARINA, DigitalMicrograph,
    HyperSpy or py4DSTEM; its content tells which. What an option says goes before what FILE says, what is
    assumed after it.
    """
    from daskptycho.formats import read_file
    from daskptycho.scan.dataset import create_scan, tile_chunks

    # create_scan refuses too, but only once a file of gigabytes has been read.
    refuse_to_lose(scan, options["overwrite"])
    writing = {name: options.pop(name) for name in ("period", "tile_frames", "overwrite")}
    options = {name: value for name, value in options.items() if value not in (None, (), False)}
    for name in ("assume", "keys"):
        if name in options:
            options[name] = dict(options[name])
    found = {"position_unit": "m", **read_file(file, **options)}
    _check_unit(found)
    with bars() as progress:
        written = create_scan(scan, progress=progress.frames("Importing"), **found, **writing)
    frames, height, width = written["intensity"].shape
    tiles = pluralise(len(tile_chunks(written)), "tile")
    click.echo(f"{scan}: {pluralise(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    click.echo(f"Look at it with: daskptycho info {shlex.quote(scan)}")


def _check_unit(found: dict[str, Any]) -> None:
    """Refuse metres without geometry in the command line's own words, before anything is written."""
    needed = {
        "--energy-eV (or --wavelength-m)": ("energy_eV", "wavelength_m"),
        "--detector-distance-m": ("detector_distance_m",),
        "--detector-pixel-size-m": ("detector_pixel_size_m",),
    }
    missing = [option for option, names in needed.items() if not any(name in found for name in names)]
    if found["position_unit"] == "m" and missing and "pixel_size_m" not in found:
        raise OptionError(
            f"positions are taken to be metres, without {', '.join(missing)}, from which the pixel size "
            "follows; give these, or --pixel-size-m, or --position-unit pixel where the positions are in "
            "object pixels"
        )
