"""How a command ends: bad input, faults and Ctrl-C in a line or two, warnings in one, bugs with a traceback.

Only `daskptycho.cli` calls this module.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from daskptycho.cli.terminal import say_warning
from daskptycho.errors import FaultError, OptionError, ScanError, StoreError
from daskptycho.tasks.interrupts import Terminated

__all__ = ["Commands"]

# What a shell reports of a command that Ctrl-C ended.
INTERRUPTED = 130
TERMINATED = 143


class Refusal(click.ClickException):
    """Bad input: one line on the error stream and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {_one_line(self.message)}", file, err=True)


class Fault(Refusal):
    """What a run depends on has failed it: one line, how to go on, and exit code 1."""

    exit_code = 1

    def __init__(self, error: FaultError) -> None:
        super().__init__(str(error))
        self.notes = _notes(error)

    def show(self, file: Any = None) -> None:
        super().show(file)
        for note in self.notes:
            click.echo(note, file, err=True)


class Commands(click.Group):
    """The group of all commands, listed in the order in which one uses them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _refused(error, ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that has no lambda shows a question mark rather than a traceback.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except click.UsageError as error:
                raise _refused(error, ctx) from error
            except (ScanError, OptionError) as error:
                raise Refusal(str(error)) from error
            except StoreError as error:
                raise Refusal(" ".join([f"{error}.", *_notes(error)])) from error
            except FaultError as error:
                raise Fault(error) from error
            except OSError as error:
                if error.filename is None:
                    raise
                raise Refusal("\n".join([f"{error.filename}: {error.strerror}", *_notes(error)])) from error
            except KeyboardInterrupt as error:
                terminated = isinstance(error, Terminated)
                stopped = "Terminated" if terminated else "Interrupted"
                click.echo(f"{stopped}; nothing half-written is left behind.", err=True)
                for note in _notes(error):
                    click.echo(note, err=True)
                ctx.exit(TERMINATED if terminated else INTERRUPTED)


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _refused(error: click.UsageError, ctx: click.Context) -> click.ClickException:
    """A command line that cannot be read; without any argument the help is the answer."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    path = (error.ctx or ctx).command_path
    return Refusal(f"{error.format_message().rstrip('.')}; see '{path} --help'")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say_warning(_one_line(str(message)))


def _one_line(message: str) -> str:
    return " ".join(message.split())
