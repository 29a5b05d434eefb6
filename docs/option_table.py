"""The directive ``option-table``: the options of a function or a dataclass, from its own docstrings.

The directive is for reStructuredText, because docstrings are written in it. Names, defaults and meanings come
from the code and flags from the command, so the table always agrees with both.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from importlib import import_module
from typing import Any, ClassVar

import click
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from numpydoc.docscrape import FunctionDoc
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from daskptycho.cli import daskptycho as commands

HEADER = ("option", "default", "command line", "meaning")
WIDTHS = "14 12 22 52"


class OptionTable(SphinxDirective):
    """``.. option-table:: package.name`` with the command that has the same options."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "command": directives.unchanged,
        # Options that have another name in the command: "every=sync_every method=sync".
        "spelled": directives.unchanged,
        "without": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        package, _, name = self.arguments[0].rpartition(".")
        owner = getattr(import_module(package), name)
        spelled = dict(pair.split("=") for pair in self.options.get("spelled", "").split())
        flags = command_flags(self.options.get("command"))
        without = self.options.get("without", "").split()
        lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {WIDTHS}", "   :class: options", ""]
        lines += row(HEADER)
        for option, default, meaning in options_of(owner):
            if option not in without:
                flag = flags.get(spelled.get(option, option), "")
                lines += row((f"``{option}``", default, flag, meaning))
        container = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.arguments[0]), self.content_offset, container)
        return container.children


def row(cells: tuple[str, ...]) -> list[str]:
    """Lines of one row of a list-table."""
    lines = []
    for number, cell in enumerate(cells):
        text = textwrap.indent(cell, " " * 7).lstrip()
        lines += (("   * - " if number == 0 else "     - ") + text).splitlines()
    return lines


def options_of(owner: Any) -> list[tuple[str, str, str]]:
    """Name, default and meaning of each parameter of a function, or of each field of a dataclass."""
    if dataclasses.is_dataclass(owner):
        assert isinstance(owner, type)
        documented = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
        meanings = {
            name: " ".join(text) for (scope, name), text in documented.items() if scope == owner.__name__
        }
    else:
        meanings = {
            name.strip(): "\n".join([f"*{strip_markup(parameter.type)}*.", *parameter.desc])
            for parameter in FunctionDoc(owner)["Parameters"]
            for name in parameter.name.split(",")
        }
    found = inspect.signature(owner).parameters.values()
    return [(one.name, format_default(one.default), meanings[one.name].strip()) for one in found]


def strip_markup(kind: str) -> str:
    """Remove the markup from the type that a docstring gives."""
    return kind.replace("`", "").replace("*", "")


def format_default(default: Any) -> str:
    return "required" if default is inspect.Parameter.empty else f"``{default!r}``"


def command_flags(name: str | None) -> dict[str, str]:
    """Flags of a command, by the names of their options in Python."""
    if name is None:
        return {}
    return {
        str(parameter.name): " ".join(f"``{flag}``" for flag in (*parameter.opts, *parameter.secondary_opts))
        for parameter in commands.commands[name].params
        if isinstance(parameter, click.Option)
    }


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("option-table", OptionTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
