"""Settings for Sphinx. `make docs` builds the pages of this folder, without internet access."""

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

# A name in single backticks is a link if an object of that name is documented.
default_role = "autolink"
# Quotes and ellipses become typographic; two dashes begin an option and stay two.
smartquotes_action = "qe"
# The docstrings say what each parameter is, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# The pages list their names themselves: the summaries write no files.
autosummary_generate = False
numpydoc_show_class_members = False
# Docstrings have a summary and describe every parameter, in order, its type, and the returned value.
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "PR03", "PR04", "PR07", "RT01", "SS03"}
# The fields of dataclasses are documented as attributes.
numpydoc_validation_exclude = {
    r"\.(Algorithm|Background|Checkpoint|Gramian|LBFGS|Positions|ProbeVariation|Progress|RAAR|Sync)$"
}
# Only names of this package can be resolved: the documentation is built without internet access.
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
    """Leave out the list of arguments: the usage line names them, and the description explains them."""
    lines.clear()


def quote_commands(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Turn single backticks into double ones: they enclose commands to be typed, not links."""
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) for line in lines]


def show_examples(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Put the examples of a command below its options; click does not know them as an epilog."""
    examples = getattr(ctx.command, "examples", ())
    quote_commands(app, ctx, lines)
    if examples:
        lines += [".. rubric:: " + ("Examples" if len(examples) > 1 else "Example"), ""]
        lines += [".. code-block:: console", "   :class: example", ""]
        lines += [f"   {line}" for example in examples for line in example.splitlines()] + [""]


def list_generated_pages(app: Sphinx, env: BuildEnvironment, *_: set[str]) -> list[str]:
    """Names of pages generated from the code: Sphinx cannot see that code change, so it reads them again."""
    return ["command-line", "options"]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("env-get-outdated", list_generated_pages)
    app.connect("sphinx-click-process-arguments", hide_arguments)
    app.connect("sphinx-click-process-description", quote_commands)
    app.connect("sphinx-click-process-options", quote_commands)
    app.connect("sphinx-click-process-epilog", show_examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
