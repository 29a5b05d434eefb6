"""What a user sees while a command works and when it is done: progress bars, tables, warnings.

Progress goes to the error stream and results to the output, so that a pipe carries only results. If the error
stream is not a terminal, as in the log of a batch job, a line now and then replaces the bars; it says when it
was written and how much time is left. ``--quiet`` turns bars, lines and remarks off, ``--verbose`` writes a
line for each step. The commands call this module.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from daskptycho.views.quantities import format_duration

if TYPE_CHECKING:
    import rich.progress
    import xarray as xr
    from rich.console import RenderableType

    from daskptycho.run.loop import Progress

__all__ = [
    "ProgressBars",
    "print_warning",
    "remark",
    "show_facts",
    "show_progress",
    "show_table",
    "summarise_run",
    "verbosity_options",
]

# Number of lines that a command without a terminal writes to its log, besides the first one.
LOG_LINES = 10
# Where the context of a command keeps what --quiet and --verbose ask for.
QUIET, VERBOSE = "daskptycho.quiet", "daskptycho.verbose"


def _keep(key: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    """A callback of an option that keeps its value in the context of the command."""

    def keep(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.meta[key] = value

    return keep


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--quiet`` and ``--verbose`` to a command; `show_progress` and `remark` follow them."""
    for option in (
        click.option(
            *("--verbose", "-v"),
            is_flag=True,
            expose_value=False,
            callback=_keep(VERBOSE),
            help="Print a line for each step.",
        ),
        click.option(
            *("--quiet", "-q"),
            is_flag=True,
            expose_value=False,
            callback=_keep(QUIET),
            help="Print neither progress nor remarks.",
        ),
    ):
        command = option(command)
    return command


def _is_asked(key: str) -> bool:
    """Whether the command that runs was given ``--quiet`` or ``--verbose``."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(key))


def remark(message: str) -> None:
    """Print what a command has done, or what to do next, unless it is to be quiet."""
    if not _is_asked(QUIET):
        click.echo(message)


class _Log:
    """Lines about one bar: the first step, then `LOG_LINES` more at even distances, or each step."""

    def __init__(self, label: str, unit: str, echo: Callable[[str], None], each: bool) -> None:
        self._label, self._unit, self._echo, self._each = label, unit, echo, each
        self._first: tuple[int, float] | None = None
        self._latest: int | None = None

    def write(self, number: int, total: int, note: str = "", pace: float = math.nan) -> None:
        """Write a line about a step, if it is due. `pace`, seconds per unit, is used until one is known."""
        if number == self._latest and not self._each:
            # A run that waits for frames reports the same sweep again and again.
            return
        now, self._latest = time.monotonic(), number
        if self._first is None:
            self._first = (number, now)
        elif number % max(1, total // LOG_LINES) and number != total and not self._each:
            return
        first, begun = self._first
        if number > first:
            pace = (now - begun) / (number - first)
        if number < total and not math.isnan(pace):
            note = f"{note}   {format_duration((total - number) * pace)} left"
        when = datetime.now().isoformat(sep=" ", timespec="seconds")
        self._echo(f"{when}  {self._label}: {self._unit} {number} of {total}{note}")


class ProgressBars:
    """Progress bars of one command; `show_progress` makes them."""

    def __init__(self, bars: rich.progress.Progress, echo: Callable[[str], None] | None) -> None:
        self._bars = bars
        self._echo = echo or (lambda line: None)

    def frames(self, label: str) -> Callable[[int, int], None]:
        """Add a bar over frames; call the returned function with (frames done, all frames)."""
        return self._add_bar(label, "frames")

    def tiles(self, label: str) -> Callable[[int, int], None]:
        """Add a bar over tiles; call the returned function with (tiles done, all tiles)."""
        return self._add_bar(label, "tiles")

    def sweeps(self, label: str, total: int) -> Callable[[Progress], None]:
        """Add a bar over sweeps; call the returned function with the `Progress` of each sweep."""
        bar = self._bars.add_task(label, total=total, unit="sweeps", note="reading the frames")
        log = _Log(label, "sweep", self._echo, _is_asked(VERBOSE))
        disagreement = math.nan

        def show_sweep(state: Progress) -> None:
            nonlocal disagreement
            if not math.isnan(state.disagreement):
                disagreement = state.disagreement
            known = "" if math.isnan(disagreement) else f"   disagreement {disagreement:<7.2g}"
            note = f"residual {state.residual:<9.4g}{known}   {state.seconds:.2g} s per sweep"
            last = total if state.growth is None else state.total
            if state.growth is not None and not state.growth.ended:
                note = f"{state.growth.describe()}   {note}"
            self._bars.update(
                bar, completed=state.sweep, total=last, note="" if state.sweep == last else note
            )
            log.write(state.sweep, last, f"   {note}", state.seconds)

        return show_sweep

    def _add_bar(self, label: str, unit: str) -> Callable[[int, int], None]:
        """Add a bar that counts units; the returned function moves it."""
        bar = self._bars.add_task(label, total=None, unit=unit, note="")
        log = _Log(label, unit.removesuffix("s"), self._echo, _is_asked(VERBOSE))

        def move(number: int, total: int) -> None:
            self._bars.update(bar, completed=number, total=total)
            log.write(number, total)

        return move


@contextmanager
def show_progress(*, leave: bool = True) -> Iterator[ProgressBars]:
    """Show progress bars while the block runs; `leave` keeps them in view, or in a log, afterwards."""
    import rich.progress as rich_progress
    from rich.console import Console, Group
    from rich.text import Text

    class CountColumn(rich_progress.ProgressColumn):
        """How many of how many are done, equally wide in every row."""

        def render(self, task: rich_progress.Task) -> Text:
            total = "?" if task.total is None else f"{task.total:.0f}"
            return Text(f"{task.completed:.0f}/{total} {task.fields['unit']}".rjust(16), style="green")

    class BarsWithNotes(rich_progress.Progress):
        """Progress bars, each with a line of numbers below it if it has any."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for bar in self.tasks:
                lines: list[RenderableType] = [self.make_tasks_table([bar])]
                if bar.fields["note"]:
                    lines.append(Text(" " * 15 + bar.fields["note"], style="dim"))
                yield Group(*lines)

    console = Console(stderr=True, highlight=False)
    bars = BarsWithNotes(
        rich_progress.TextColumn("{task.description:<14}"),
        rich_progress.BarColumn(
            bar_width=None, complete_style="cyan", finished_style="green", pulse_style="cyan"
        ),
        CountColumn(),
        rich_progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
        refresh_per_second=5,
        transient=not leave,
        disable=not console.is_terminal or _is_asked(QUIET),
    )

    def echo(line: str) -> None:
        if console.is_terminal:
            bars.console.print(line)
        else:
            click.echo(line, err=True)

    is_logged = not _is_asked(QUIET) and (_is_asked(VERBOSE) or (leave and not console.is_terminal))
    with bars:
        yield ProgressBars(bars, echo if is_logged else None)


def show_facts(title: str, groups: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Print names and values in groups under a title."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for number, group in enumerate(group for group in groups if group):
        if number:
            table.add_row()
        for name, value in group:
            table.add_row(name, Text(value))
    console = Console(highlight=False)
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print()
    console.print(table)


def show_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a small table with names in the first column and numbers in the others."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(highlight=False).print(table)


def summarise_run(result: xr.Dataset, sweeps: int) -> str:
    """Summarise a run: residual, disagreement, sweeps, seconds; and in further lines what was refined."""
    done, residual = result.sizes["sweep"], float(result["residual"][-1])
    early = f" of {sweeps}" if done < sweeps else ""
    disagreement = result["disagreement"].values
    known = [value for value in disagreement if not math.isnan(value)]
    last = f", disagreement {known[-1]:.2g}" if known else ""
    seconds = float(result["seconds"].sum())
    expected = result.attrs.get("expected_residual")
    allowed = "" if expected is None else f", {expected:.3g} expected from the counts"
    end = " The tolerance is reached." if result.attrs.get("ended") == "tolerance" else ""
    from daskptycho.views.found import describe_found

    said = f"Residual {residual:.4g}{allowed}{last} after {done}{early} sweeps in {seconds:.3g} s.{end}"
    return "\n".join([said, *describe_found(result)])


def print_warning(message: str) -> None:
    """Print a warning in one line on the error stream."""
    click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {message}", err=True)
