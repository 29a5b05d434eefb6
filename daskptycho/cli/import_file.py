"""``daskptycho import``: convert a foreign file to a scan."""

from __future__ import annotations

import shlex
from typing import Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.options import (
    LENGTHS,
    PAIR,
    SIZE,
    detector_distance_option,
    detector_pixel_size_option,
    overwrite_option,
    refuse_to_overwrite,
    source_distance_option,
    tile_frames_option,
)
from daskptycho.cli.terminal import remark, show_progress, verbosity_options
from daskptycho.errors import OptionError
from daskptycho.views.quantities import pluralise

__all__ = ["command"]


class _Point(click.ParamType):
    """A point on the detector in pixels: ``257.5,260``."""

    name = "y,x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            y, x = (float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a point in pixels; expected y and x, as in 257.5,260", param, ctx)
        return y, x


class _Assumption(click.ParamType):
    """A name and a value: ``energy_eV=8000``."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, equals, text = value.partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not an assumption; expected key=value, as in energy_eV=8000", param, ctx)
        try:
            numbers = tuple(float(part) for part in text.split("x"))
        except ValueError:
            return name, text
        if name == "scan_shape":
            return name, tuple(int(number) for number in numbers)
        return name, numbers[0] if len(numbers) == 1 else numbers


class _Key(click.ParamType):
    """A name and a path in an HDF5 file: ``energy_eV=/beam/energy``."""

    name = "name=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, equals, path = value.partition("=")
        if not equals:
            self.fail(f"{value!r} is not a key; expected name=path, as in energy_eV=/beam/energy", param, ctx)
        return name, path


@click.command(
    "import",
    cls=CommandWithExamples,
    short_help="Convert a foreign file to a scan.",
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
@click.option(
    "--intensity-key",
    metavar="NAME",
    help="Name of the frames in FILE; common names are found automatically.",
)
@click.option(
    "--position-key",
    metavar="NAME",
    help="Name of the positions, [y, x] per frame; in HDF5 also two columns, as Y+X.",
)
@click.option("--probe-key", metavar="NAME", help="Name of the first guess of the probe.")
@click.option(
    "--valid-key",
    metavar="NAME",
    help="Name of the mask, True where the detector counts; it is never guessed.",
)
@click.option("--background-key", metavar="NAME", help="Name of the counts that do not come from the sample.")
@click.option("--key", "keys", type=_Key(), multiple=True, help="Path in HDF5 of a number of the geometry.")
@click.option("--position-file", metavar="FILE", help="Text or .npy file with the positions.")
@click.option(
    "--zero-frequency",
    type=click.Choice(["centre", "corner"]),
    help="Where the zero frequency is in the frames.  [default: centre]",
)
@click.option(
    *("--centre", "--center", "centre"),
    type=_Point(),
    help="Pixel of the zero frequency, instead of that of the file.",
)
@click.option("--crop", type=SIZE, help="Crop frames to this size around the zero frequency.")
@click.option(
    "--pad",
    type=click.IntRange(min=0),
    help="Pixels to add on each side of near-field frames, for light that passes beside the detector.",
)
@click.option(
    "--position-axes",
    metavar="AXES",
    help="Columns of the positions: yx or xy, with a minus before an axis to be reversed.  [default: yx]",
)
@click.option(
    "--rotation-deg", type=float, help="Rotate the positions relative to the detector, from y to x."
)
@click.option(
    "--position-unit",
    type=click.Choice(["m", "pixel"]),
    help="Unit of the positions; metres need the geometry.  [default: that of the file, or m]",
)
@click.option("--scan-shape", type=PAIR, help="Rows and columns of a raster, if FILE has no positions.")
@click.option("--scan-step-m", type=LENGTHS, help="Step of that raster; one length, or two for y and x.")
@click.option(
    "--energy-eV", "energy_eV", type=float, help="Energy of the radiation (or give its wavelength)."
)
@click.option("--wavelength-m", type=float, help="Wavelength of the radiation (or give its energy).")
@detector_distance_option
@detector_pixel_size_option
@click.option(
    "--pixel-size-m", type=LENGTHS, help="Size of a pixel of the object, if it is known by calibration."
)
@click.option(
    "--radiation",
    type=click.Choice(["photon", "electron"]),
    help="Kind of radiation.  [default: that of the file, or photon]",
)
@click.option(
    "--propagation",
    type=click.Choice(["far-field", "near-field"]),
    help="Diffraction patterns or Fresnel images.  [default: that of the file, or far-field]",
)
@source_distance_option
@click.option(
    "--assume", type=_Assumption(), multiple=True, help="Value for what FILE lacks, as in energy_eV=8000."
)
@click.option("--guess-probe", is_flag=True, help="Make a first guess of the probe if FILE has none.")
@click.option(
    "--probe-diameter",
    type=float,
    help="Diameter of that guess in pixels; by default, estimated from the frames.",
)
@click.option(
    "--probe-defocus-m",
    type=float,
    help="Propagate that guess by this distance, from its focus to the sample; below 0, the focus is behind.",
)
@click.option("--period", type=PAIR, help="Period in pixels of a periodic canvas.")
@tile_frames_option
@overwrite_option
@verbosity_options
def command(file: str, scan: str, **options: Any) -> None:
    """Read FILE and write it to SCAN as a scan, block by block.

    FILE is an npz, HDF5, CXI, NeXus or PtyPy (.ptyd) file, or a 4D-STEM file of EMPAD, Merlin, ARINA,
    DigitalMicrograph, HyperSpy or py4DSTEM. The format is recognised from the content. Options override what
    FILE says; --assume only fills in what FILE lacks.
    """
    from daskptycho.formats import read_file
    from daskptycho.scan.dataset import create_scan, tile_chunks

    # create_scan refuses as well, but only after a file of gigabytes has been read.
    refuse_to_overwrite(scan, options["overwrite"])
    writing = {name: options.pop(name) for name in ("period", "tile_frames", "overwrite")}
    options = {name: value for name, value in options.items() if value not in (None, (), False)}
    for name in ("assume", "keys"):
        if name in options:
            options[name] = dict(options[name])
    contents = {"position_unit": "m", **read_file(file, **options)}
    _check_unit(contents)
    with show_progress() as progress:
        written = create_scan(scan, progress=progress.frames("Importing"), **contents, **writing)
    frames, height, width = written["intensity"].shape
    tiles = pluralise(len(tile_chunks(written)), "tile")
    remark(f"{scan}: {pluralise(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    remark(f"Look at it with: daskptycho info {shlex.quote(scan)}")


def _check_unit(contents: dict[str, Any]) -> None:
    """Refuse metres without a geometry, naming the options to give, before anything is written."""
    needed = {
        "--energy-eV (or --wavelength-m)": ("energy_eV", "wavelength_m"),
        "--detector-distance-m": ("detector_distance_m",),
        "--detector-pixel-size-m": ("detector_pixel_size_m",),
    }
    missing = [option for option, names in needed.items() if not any(name in contents for name in names)]
    if contents["position_unit"] == "m" and missing and "pixel_size_m" not in contents:
        raise OptionError(
            f"positions are in metres, but the pixel size is unknown; expected {', '.join(missing)}, or "
            "--pixel-size-m: give these, or --position-unit pixel if positions are in object pixels"
        )
