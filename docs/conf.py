"""Settings of Sphinx. `make docs` builds the pages of this folder, without the internet."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import daskptycho

sys.path.insert(0, str(Path(__file__).parent))

project = "daskptycho"
author = "daskptycho developers"
copyright = author
version = release = daskptycho.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "mathml",
    "option_table",
]
exclude_patterns = ["build"]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A name in single backticks is a link where there is something of that name.
default_role = "autolink"
# Quotes and dots are set well; two dashes begin an option and stay two.
smartquotes_action = "qe"
# The docstrings say what each parameter is, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# The pages list what they show: the summaries write no files of their own.
autosummary_generate = False
numpydoc_show_class_members = False
# Docstrings have a summary and tell every parameter, in order, its type, and what comes back.
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "SS03"}
# Dataclasses: their fields are documented as attributes.
numpydoc_validation_exclude = {r"\.(Checkpoint|Progress|RAAR|Sync)$"}
# Only this package's names can be looked up: the documents are built without the internet.
nitpick_ignore_regex = [(r"py:.*", r"(?!daskptycho\b).*")]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_title = f"daskptycho {version}"
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True


def hide_arguments(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Leave out the list of arguments: the usage names them, and the description says what they are."""
    lines.clear()


def quote_commands(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """A command in single backticks is to be typed."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def show_examples(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Put the examples of a command, which are no epilog of click's, below its options."""
    examples = getattr(ctx.command, "examples", ())
    quote_commands(app, ctx, lines)
    if examples:
        lines += [".. rubric:: " + ("Examples" if len(examples) > 1 else "Example"), ""]
        lines += [".. code-block:: console", "   :class: example", ""]
        lines += [f"   {line}" for example in examples for line in example.splitlines()] + [""]


def read_anew(app: Sphinx, env: BuildEnvironment, *_: set[str]) -> list[str]:
    """Pages that directives make of the code: Sphinx does not see it change, and would keep what it read."""
    return ["command-line", "options"]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("env-get-outdated", read_anew)
    app.connect("sphinx-click-process-arguments", hide_arguments)
    app.connect("sphinx-click-process-description", quote_commands)
    app.connect("sphinx-click-process-options", quote_commands)
    app.connect("sphinx-click-process-epilog", show_examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
