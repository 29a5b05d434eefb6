"""Types of option values, and the options and checks that several commands share."""

from __future__ import annotations

import re
from typing import Any

import click

from daskptycho.errors import ScanError

__all__ = [
    "FRAMES",
    "LENGTHS",
    "NUMBERS",
    "PAIR",
    "SIZE",
    "NumberOr",
    "algorithm_option",
    "detector_distance_option",
    "detector_pixel_size_option",
    "leave_out_option",
    "options_on_command_line",
    "overwrite_option",
    "refuse_to_overwrite",
    "source_distance_option",
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

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an existing file or store once the new one is complete."
)
tile_frames_option = click.option(
    "--tile-frames", type=int, help="Frames per tile; chosen automatically by default."
)
leave_out_option = click.option(
    "--leave-out",
    type=FRAMES,
    default=(),
    metavar="NUMBERS|FILE",
    help="Frames to leave out, as in 3,17,40-45, or a file of their numbers.",
)
detector_distance_option = click.option(
    "--detector-distance-m", type=float, help="Distance from the sample to the detector."
)
detector_pixel_size_option = click.option(
    "--detector-pixel-size-m", type=LENGTHS, help="Size of a detector pixel; one length, or two for y and x."
)
source_distance_option = click.option(
    "--source-distance-m", type=float, help="Distance from a point source to the sample (near field)."
)
algorithm_option = click.option(
    "--algorithm",
    type=click.Choice(["ap", "raar", "dm"]),
    default="ap",
    show_default=True,
    help="Alternating projections, RAAR or the difference map.",
)
sync_option = click.option(
    "--sync",
    type=click.Choice(["two-level", "full", "none"]),
    default="two-level",
    show_default=True,
    help="Synchronise the frames of each tile and then the tiles, all frames at once, or nothing.",
)
update_probe_option = click.option(
    "--update-probe/--known-probe",
    default=True,
    show_default=True,
    help="Recover the probe as well, or keep that of the scan.",
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
