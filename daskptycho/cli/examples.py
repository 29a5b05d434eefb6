"""A command whose help ends with examples, kept line by line. The commands call this module."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["CommandWithExamples"]


class CommandWithExamples(click.Command):
    """A command that knows examples of its use, each a command line."""

    def __init__(self, *args: Any, examples: tuple[str, ...], **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for example in self.examples:
                for number, line in enumerate(example.splitlines()):
                    formatter.write(f"{' ' * (formatter.current_indent + 4 * (number > 0))}{line.strip()}\n")
