"""How a command ends: bad input and Ctrl-C each in one line, warnings in one line, bugs with a traceback.

Only `daskptycho.cli` calls this module.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from daskptycho.cli.terminal import say_warning
from daskptycho.errors import OptionError, ScanError, StoreError

__all__ = ["Commands"]

# What a shell reports of a command that Ctrl-C ended.
INTERRUPTED = 130


class Refusal(click.ClickException):
    """Bad input: one line on the error stream and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {_one_line(self.message)}", file, err=True)


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
                raise Refusal(" ".join([f"{error}.", *getattr(error, "__notes__", ())])) from error
            except OSError as error:
                if error.filename is None:
                    raise
                raise Refusal(f"{error.filename}: {error.strerror}") from error
            except KeyboardInterrupt as error:
                click.echo("Interrupted; nothing half-written is left behind.", err=True)
                for note in getattr(error, "__notes__", ()):
                    click.echo(note, err=True)
                ctx.exit(INTERRUPTED)


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
