"""``daskptycho import``: convert a foreign file to a scan."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.geometry import add_geometry_options
from daskptycho.cli.options import (
    LENGTHS,
    PAIR,
    SIZE,
    add_beam_options,
    leave_out_option,
    overwrite_option,
    refuse_to_overwrite,
    tile_frames_option,
)
from daskptycho.cli.terminal import remark, show_progress, verbosity_options
from daskptycho.errors import OptionError
from daskptycho.views.quantities import pluralise

if TYPE_CHECKING:
    from daskptycho.formats.offers import Taken

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


class _Columns(click.ParamType):
    """Two columns: ``samy,samx`` or ``3,2``."""

    name = "y,x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))
        if len(parts) != 2 or not all(parts):
            self.fail(f"{value!r} is not a pair of columns; expected two, as in samy,samx or 3,2", param, ctx)
        return parts


class _Range(click.ParamType):
    """Frames from one to before another: ``0:390``."""

    name = "start:stop"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d*):(\d*)", value)
        if found is None:
            self.fail(f"{value!r} is not a range of frames; expected start:stop, as in 0:390", param, ctx)
        return tuple(int(part) if part else None for part in found.groups())


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
        "daskptycho import moonflower.ptyd scan.zarr",
        "daskptycho import master.h5 scan.zarr --position-file positions.csv \\\n--crop 256",
        "daskptycho import scan4d.npy scan.zarr --position-unit um \\\n"
        "--position-file motors.h5:/scan/y+/scan/x --pixel-size-m 12e-9",
        "daskptycho import frames.h5 scan.zarr --mask-value 65535 --clip-negative \\\n--leave-out 3,17",
        "daskptycho import frames.h5 scan.zarr --position-key motors/y+motors/x \\\n"
        "--key energy_eV=beam/energy --assume detector_distance_m=2",
        "daskptycho import empad.xml scan.zarr --rotation-deg 12 \\\n"
        "--assume energy_eV=300e3 --assume scan_step_m=0.4e-10",
    ),
)
@click.argument("file", metavar="FILE")
@click.argument("scan", metavar="SCAN")
@click.option(
    "--intensity-key",
    metavar="NAME",
    help="Name of the frames in FILE; usual names are found.",
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
    help="Name of the mask, True where the detector counts, or ~NAME for one that is True where it does not; "
    "several with a plus. It is never guessed.",
)
@click.option(
    "--background-key",
    metavar="NAME",
    help="Name of the background, the mean counts that do not come from the sample. It is never guessed.",
)
@click.option("--key", "keys", type=_Key(), multiple=True, help="Where a number of the geometry is in FILE.")
@click.option(
    "--slow-axis",
    type=click.Choice(["y", "x"]),
    help="Axis along which a raster moves from row to row, if FILE has one position for each row and one "
    "for each column.",
)
@click.option(
    "--frame-axis",
    type=click.Choice(["first", "last"]),
    help="Whether the frames are counted along the first or the last axes of their array.  [default: by "
    "the number of positions]",
)
@click.option(
    "--frames-hold",
    type=click.Choice(["counts", "amplitudes"]),
    help="What frames hold; amplitudes are squared.  [default: by their name and their values]",
)
@click.option(
    "--position-file",
    metavar="FILE",
    help="File with the positions: text, .npy, or FILE.h5:PATH for one with arrays.",
)
@click.option(
    "--position-columns",
    type=_Columns(),
    help="Names or numbers of the two columns of positions among several.",
)
@click.option("--frames", type=_Range(), help="Import only these frames.  [default: all]")
@click.option(
    "--zero-frequency",
    type=click.Choice(["centre", "corner"]),
    help="Where the zero frequency is in the frames.  [default: where they are bright]",
)
@click.option(
    *("--centre", "--center", "centre"),
    type=_Point(),
    help="Pixel of the zero frequency, instead of that of the file.",
)
@click.option("--crop", type=SIZE, help="Crop frames to this size around the zero frequency.")
@click.option(
    "--bin",
    type=click.IntRange(min=1),
    help="Bin the detector: sum the counts of squares of this many pixels a side.",
)
@click.option("--transpose", is_flag=True, help="Transpose the frames, after cropping.")
@click.option(
    "--flip", type=click.Choice(["y", "x", "yx"]), help="Flip the frames along these axes, after transposing."
)
@click.option(
    "--pad",
    type=click.IntRange(min=0),
    help="Pixels to add on each side of near-field frames, for light that passes beside the detector.",
)
@click.option(
    "--position-axes",
    metavar="AXES",
    help="Order of the columns of positions: yx or xy, with a minus before an axis that points the other "
    "way.  [default: by "
    "their names, or yx]",
)
@click.option(
    "--rotation-deg",
    type=float,
    help="Rotate the positions relative to the detector by this angle, from y towards x.",
)
@click.option("--scan-shape", type=PAIR, help="Rows and columns of a raster, if FILE has no positions.")
@click.option("--scan-step-m", type=LENGTHS, help="Step of that raster; one length, or two for y and x.")
@add_geometry_options(file=True)
@click.option(
    "--mrad-per-pixel", type=float, help="Angle that a detector pixel of FILE covers; needs the energy."
)
@click.option(
    "--inverse-angstrom-per-pixel", type=float, help="Spatial frequency of a detector pixel in FILE, in 1/A."
)
@click.option(
    "--assume", type=_Assumption(), multiple=True, help="Value for what FILE lacks, as in energy_eV=8000."
)
@click.option(
    "--guess-probe",
    is_flag=True,
    help="Leave out a probe that FILE has; without a probe, reconstruct guesses one.",
)
@add_beam_options
@click.option(
    "--mask-value",
    type=float,
    multiple=True,
    help="Code of bad pixels: those that hold it in any frame are masked; it may be nan.",
)
@click.option("--clip-negative", is_flag=True, help="Set negative counts to 0.")
@leave_out_option
@click.option("--period", type=PAIR, help="Period in pixels of a periodic canvas.")
@tile_frames_option
@overwrite_option
@verbosity_options
def command(file: str, scan: str, **options: Any) -> None:
    """Read FILE and write it to SCAN as a scan, block by block.

    FILE is an npz, npy, MATLAB, Zarr, TIFF, HDF5, CXI, NeXus or PtyPy (.ptyd) file, a folder of TIFF files,
    or a 4D-STEM file of EMPAD, Merlin, ARINA, DigitalMicrograph, HyperSpy or py4DSTEM. The format is
    recognised by the content. What is taken from which path is printed, with what else FILE has. Options
    override what FILE says; --assume only fills in what FILE lacks.
    """
    from daskptycho.formats import read_file
    from daskptycho.scan.dataset import create_scan, tile_chunks

    # create_scan refuses as well, but only after a file of gigabytes has been read.
    refuse_to_overwrite(scan, options["overwrite"])
    of_scan = ("period", "tile_frames", "overwrite", "leave_out", "mask_value", "clip_negative")
    writing = {name: options.pop(name) for name in of_scan}
    options = {name: value for name, value in options.items() if value not in (None, (), False)}
    for name in ("assume", "keys"):
        if name in options:
            options[name] = dict(options[name])
    account: list[Taken] = []
    contents = {"position_unit": "m", **read_file(file, report=account.extend, **options)}
    _check_unit(contents)
    with show_progress() as progress:
        written = create_scan(scan, progress=progress.frames("Importing"), **contents, **writing)
    _show_account(account)
    frames, height, width = written["intensity"].shape
    tiles = pluralise(len(tile_chunks(written)), "tile")
    remark(f"{scan}: {pluralise(frames, 'frame')} of {height} x {width} pixels in {tiles}")
    if "probe" not in written:
        remark("It has no probe: reconstruct will guess one from the frames")
    remark(f"Look at it with: daskptycho info {shlex.quote(scan)}")


def _show_account(account: list[Taken]) -> None:
    """Print what was taken from which path, and what else was seen."""
    width = max((len(taken.what) for taken in account), default=0)
    for taken in account:
        click.echo(f"{taken.what:<{width}}  {taken}")


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
