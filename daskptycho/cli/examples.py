"""A command whose help ends with examples. The commands import this module."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["CommandWithExamples"]


class CommandWithExamples(click.Command):
    """A command with examples of its use, which its help shows line by line."""

    def __init__(self, *args: Any, examples: tuple[str, ...], **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for example in self.examples:
                for number, line in enumerate(example.splitlines()):
                    formatter.write(f"{' ' * (formatter.current_indent + 4 * (number > 0))}{line.strip()}\n")
