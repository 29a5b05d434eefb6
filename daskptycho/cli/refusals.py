"""How a command ends: bad input, faults and Ctrl-C in a line or two, bugs with a traceback.

Warnings are printed in one line. Only `daskptycho.cli` imports this module.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from daskptycho.cli.terminal import print_warning
from daskptycho.errors import FaultError, OptionError, ScanError, StoreError
from daskptycho.tasks.interrupts import Terminated

__all__ = ["Commands"]

# Exit codes that a shell reports for a command that was ended by Ctrl-C or by SIGTERM.
INTERRUPTED = 130
TERMINATED = 143


class Refusal(click.ClickException):
    """Bad input: one line on the error stream and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {_one_line(self.message)}", file, err=True)


class Fault(Refusal):
    """A failure of something that a run depends on: one line, how to continue, and exit code 1."""

    exit_code = 1

    def __init__(self, error: FaultError) -> None:
        super().__init__(str(error))
        self.notes = _notes_of(error)

    def show(self, file: Any = None) -> None:
        super().show(file)
        for note in self.notes:
            click.echo(note, file, err=True)


class Commands(click.Group):
    """The group of all commands, listed in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _make_refusal(error, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A terminal without Unicode shows a question mark instead of a traceback.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except click.UsageError as error:
                raise _make_refusal(error, ctx) from error
            except (ScanError, OptionError) as error:
                raise Refusal(str(error)) from error
            except StoreError as error:
                raise Refusal(" ".join([f"{error}.", *_notes_of(error)])) from error
            except FaultError as error:
                raise Fault(error) from error
            except OSError as error:
                if error.filename is None:
                    raise
                raise Refusal(
                    "\n".join([f"{error.filename}: {error.strerror}", *_notes_of(error)])
                ) from error
            except KeyboardInterrupt as error:
                terminated = isinstance(error, Terminated)
                stopped = "Terminated" if terminated else "Interrupted"
                click.echo(f"{stopped}; nothing incomplete is left behind.", err=True)
                for note in _notes_of(error):
                    click.echo(note, err=True)
                ctx.exit(TERMINATED if terminated else INTERRUPTED)


def _notes_of(error: BaseException) -> list[str]:
    """Notes of an exception, which say how to continue."""
    return list(getattr(error, "__notes__", ()))


def _make_refusal(error: click.UsageError, ctx: click.Context) -> click.ClickException:
    """Refusal of a command line that cannot be read; without any argument, its help is shown."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    path = (error.ctx or ctx).command_path
    return Refusal(f"{error.format_message().rstrip('.')}; see '{path} --help'")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print_warning(_one_line(str(message)))


def _one_line(message: str) -> str:
    return " ".join(message.split())
