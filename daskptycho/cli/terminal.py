"""What a user sees while a command works and when it is done: progress bars, tables.

Progress goes to the error stream and results to the output, so that a pipe carries results alone. Where
the error stream is no terminal, in the log of a batch job say, a line now and then stands for the bars.
The commands call this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress

    from daskptycho.run.loop import Progress

__all__ = ["Bars", "bars", "say_warning", "show_facts", "show_table", "summary"]

# Lines that a run without a terminal leaves in its log, apart from the first sweep's.
LOG_LINES = 10


class Bars:
    """Progress bars of one command; `bars` makes them."""

    def __init__(self, progress: RichProgress, echo: Callable[[str], None] | None) -> None:
        self._progress = progress
        self._echo = echo

    def frames(self, label: str) -> Callable[[int, int], None]:
        """A bar over frames; call what comes back with (done, all)."""
        return self._counted(label, "frames")

    def tiles(self, label: str) -> Callable[[int, int], None]:
        """A bar over tiles; call what comes back with (done, all)."""
        return self._counted(label, "tiles")

    def sweeps(self, label: str, total: int) -> Callable[[Progress], None]:
        """A bar over sweeps; call what comes back with the `Progress` of each."""
        bar = self._progress.add_task(label, total=total, unit="sweeps", note="reading the frames")
        consensus = math.nan

        def swept(state: Progress) -> None:
            nonlocal consensus
            if not math.isnan(state.consensus):
                consensus = state.consensus
            known = "" if math.isnan(consensus) else f"   consensus {consensus:<7.2g}"
            note = f"residual {state.residual:<9.4g}{known}   {state.seconds:.2g} s a sweep"
            self._progress.update(bar, completed=state.sweep, note="" if state.sweep == total else note)
            every = max(1, total // LOG_LINES)
            if self._echo is not None and (state.sweep == 1 or state.sweep % every == 0):
                self._echo(f"{label}: sweep {state.sweep} of {total}   {note}")

        return swept

    def _counted(self, label: str, unit: str) -> Callable[[int, int], None]:
        bar = self._progress.add_task(label, total=None, unit=unit, note="")

        def done(number: int, total: int) -> None:
            self._progress.update(bar, completed=number, total=total)

        return done


@contextmanager
def bars(*, leave: bool = True) -> Iterator[Bars]:
    """Show progress bars while the block runs; `leave` keeps them in view after it."""
    from rich.console import Console, Group
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Done(ProgressColumn):
        """How many of how many, as wide in every row."""

        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else f"{task.total:.0f}"
            return Text(f"{task.completed:.0f}/{total} {task.fields['unit']}".rjust(16), style="green")

    class Noted(Progress):
        """Bars with a line of numbers under each that has some to tell."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for bar in self.tasks:
                lines: list[RenderableType] = [self.make_tasks_table([bar])]
                if bar.fields["note"]:
                    lines.append(Text(" " * 15 + bar.fields["note"], style="dim"))
                yield Group(*lines)

    console = Console(stderr=True, highlight=False)
    progress = Noted(
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="green", pulse_style="cyan"),
        Done(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        expand=True,
        refresh_per_second=5,
        transient=not leave,
        disable=not console.is_terminal,
    )
    with progress:
        yield Bars(progress, None if console.is_terminal else lambda line: click.echo(line, err=True))


def show_facts(title: str, groups: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Names and values in groups, under a title."""
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
    """A small table, its first column names and the others numbers."""
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


def summary(result: xr.Dataset, sweeps: int) -> str:
    """What a run has come to, in one line."""
    done, residual = result.sizes["sweep"], float(result["residual"][-1])
    early = f" of {sweeps}" if done < sweeps else ""
    consensus = result["consensus"].values
    known = [value for value in consensus if not math.isnan(value)]
    agreement = f", consensus {known[-1]:.2g}" if known else ""
    seconds = float(result["seconds"].sum())
    return f"Residual {residual:.4g}{agreement} after {done}{early} sweeps in {seconds:.3g} s."


def say_warning(message: str) -> None:
    """One line on the error stream."""
    click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {message}", err=True)
