"""Types of option values, and the options and checks that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from daskptycho.errors import ScanError

__all__ = [
    "FRAMES",
    "LENGTHS",
    "NUMBERS",
    "PAIR",
    "RANGE",
    "REGION",
    "SIZE",
    "NumberOr",
    "algorithm_option",
    "colour_map_option",
    "leave_out_option",
    "no_iterations_option",
    "options_on_command_line",
    "overwrite_option",
    "ramp_option",
    "range_option",
    "refine_option",
    "refuse_to_overwrite",
    "region_option",
    "say_that_ramp_is_removed",
    "sync_option",
    "tile_frames_option",
    "update_probe_option",
]


class _Pair(click.ParamType):
    """Two whole numbers, y and x: ``8x8``."""

    name = "pair"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "YxX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)x(\d+)", value)
        if found is None:
            self.fail(f"{value!r} is not a pair of whole numbers; expected y and x, as in 8x8", param, ctx)
        return int(found[1]), int(found[2])


class _Lengths(click.ParamType):
    """One length, or two for y and x: ``75e-6`` or ``75e-6x80e-6``."""

    name = "metres"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            lengths = tuple(float(part) for part in value.split("x"))
        except ValueError:
            lengths = ()
        if len(lengths) not in (1, 2):
            self.fail(f"{value!r} is not a length; expected metres, as in 75e-6 or 75e-6x80e-6", param, ctx)
        return lengths if len(lengths) == 2 else lengths[0]


class _Numbers(click.ParamType):
    """A list of whole numbers, zero or more: ``0,1``."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers; expected numbers as in 0,1", param, ctx)
        return tuple(int(part) for part in parts)


class _Frames(click.ParamType):
    """Numbers of frames, or a file of them: ``3,17,40-45``."""

    name = "numbers|file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from daskptycho.scan.left_out import read_numbers

        return value if isinstance(value, tuple) else read_numbers(value)


class _Size(click.ParamType):
    """A whole number of pixels, or two for y and x: ``256`` or ``256x192``."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", value)
        if found is None:
            self.fail(f"{value!r} is not a size; expected pixels, as in 256 or 256x192", param, ctx)
        return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


class _Region(click.ParamType):
    """Rows and columns of an image: ``100:300,50:250``."""

    name = "rows,columns"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "Y:Y,X:X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d*):(\d*),(\d*):(\d*)", value)
        if found is None:
            self.fail(
                f"{value!r} is not a region; expected rows and columns, as in 100:300,50:250", param, ctx
            )
        ends = [int(number) if number else None for number in found.groups()]
        return slice(*ends[:2]), slice(*ends[2:])


class _Range(click.ParamType):
    """The values at both ends of a colour map: ``-0.5,0.5``."""

    name = "range"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            self.fail(
                f"{value!r} is not a range; expected a smaller and a larger number, as in -0.5,0.5",
                param,
                ctx,
            )
        return low, high


class NumberOr(click.ParamType):
    """A number, or one particular word instead of it."""

    def __init__(self, kind: type[int] | type[float], word: str) -> None:
        self.kind, self.word = kind, word
        self.name = f"{kind.__name__} or {word}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{self.word}|{'INTEGER' if self.kind is int else 'FLOAT'}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == self.word or isinstance(value, self.kind):
            return value
        try:
            return self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            self.fail(f"{value!r} is neither {self.word!r} nor {what}", param, ctx)


NUMBERS = _Numbers()
PAIR = _Pair()
LENGTHS = _Lengths()
SIZE = _Size()
FRAMES = _Frames()
REGION = _Region()
RANGE = _Range()

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an existing file or store once the new one is complete."
)
ramp_option = click.option(
    "--remove-ramp/--keep-ramp",
    default=None,
    help="Subtract the mean slope of the phase, or keep it.  [default: subtract if the probe was recovered]",
)
region_option = click.option(
    "--region", type=REGION, help="Rows and columns of the image to show, counted from its first pixel."
)
colour_map_option = click.option(
    *("--colour-map", "--color-map", "--cmap", "colour_map"),
    metavar="NAME",
    help="Colour map of matplotlib.  [default: gray for an amplitude; for a phase twilight if its range is "
    "the full circle, otherwise viridis]",
)
range_option = click.option(
    *("--range", "limits"), type=RANGE, help="Values at both ends of the colour map, in radians for a phase."
)
tile_frames_option = click.option(
    "--tile-frames", type=int, help="Frames per tile; chosen automatically by default."
)
leave_out_option = click.option(
    "--leave-out",
    type=FRAMES,
    default=(),
    metavar="NUMBERS|FILE",
    help="Frames to leave out, as in 3,17,40-45, or a file of their numbers, or a mask (.npy, True: bad).",
)
algorithm_option = click.option(
    "--algorithm",
    type=click.Choice(["lbfgs", "ap", "raar", "dm"]),
    help="L-BFGS, alternating projections, RAAR or the difference map.  "
    "[default: lbfgs with --known-probe, else ap]",
)
sync_option = click.option(
    "--sync",
    type=click.Choice(["two-level", "full", "none"]),
    default="two-level",
    show_default=True,
    help="Synchronise the frames of each tile and then the tiles, or all frames at once, or none.",
)
refine_option = click.option(
    "--refine",
    type=click.Choice(["positions", "gain", "probe-variation", "background", "smooth-background"]),
    multiple=True,
    help="What to refine besides object and probe; may be repeated.",
)
update_probe_option = click.option(
    "--update-probe/--known-probe",
    default=True,
    show_default=True,
    help="Recover the probe as well, or keep that of the scan.",
)


# What is known of the beam for a first guess of the probe, at `import` and at `reconstruct`.
BEAM_OPTIONS = (
    click.option(
        "--probe",
        metavar="FILE",
        help="Begin with this probe: a result, or an array in npy, npz, MATLAB or HDF5 (FILE.h5:PATH).",
    ),
    click.option(
        "--probe-diameter", type=float, help="Guess the probe as a disc of this diameter, in object pixels."
    ),
    click.option(
        "--probe-defocus-m",
        type=float,
        help="Guess the probe at this distance downstream of its focus: above 0 the focus lies before the "
        "sample and the beam diverges on it (overfocus), below 0 it lies behind the sample.  "
        "[default: many are tried]",
    ),
    click.option(
        "--convergence-angle-mrad",
        type=float,
        help="Guess the probe from a uniformly filled aperture of this semi-angle.  [default: from the "
        "mean frame]",
    ),
)


def add_beam_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the first probe to a command."""
    for option in reversed(BEAM_OPTIONS):
        command = option(command)
    return command


def _refuse_iterations(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--iterations could mean two things; expected --sweeps, the number of sweeps over all frames, or "
            "--eigensolver-steps of reconstruct, the steps of the eigensolver in each synchronisation"
        )


# Other programs call a sweep an iteration, and a step of the eigensolver is one too.
no_iterations_option = click.option(
    "--iterations", hidden=True, expose_value=False, callback=_refuse_iterations
)


def say_that_ramp_is_removed(path: object) -> None:
    """Say on the error stream that a picture shows the phase without its mean slope."""
    click.echo(
        f"{path}: the mean slope of the phase has been subtracted, which the data do not determine if the "
        "probe is recovered; --keep-ramp keeps it",
        err=True,
    )


def refuse_to_overwrite(url: str, overwrite: bool) -> None:
    """Refuse to overwrite something, early, before any long work.

    Raises
    ------
    ScanError
        Something exists at `url` and `overwrite` is false.
    """
    from daskptycho.storage.store import exists, parse_location

    if not overwrite and exists(parse_location(url)):
        raise ScanError(f"{url} exists already; pass --overwrite to replace it, or choose another name")


def options_on_command_line(ctx: click.Context, *names: str) -> list[str]:
    """Options among the named parameters that were typed on the command line, as they are written there."""
    options = {param.name: param.opts[0] for param in ctx.command.params}
    typed = click.core.ParameterSource.COMMANDLINE
    return [options[name] for name in names if ctx.get_parameter_source(name) is typed]
