"""``daskptycho history``: list the checkpoints of a run."""

from __future__ import annotations

import click

from daskptycho.cli.examples import CommandWithExamples
from daskptycho.cli.terminal import show_table

__all__ = ["command"]


@click.command(
    "history",
    cls=CommandWithExamples,
    short_help="List the checkpoints of a run.",
    examples=("daskptycho history result.zarr",),
)
@click.argument("out", metavar="OUT")
def command(out: str) -> None:
    """List the checkpoints of the run that wrote OUT, the oldest first.

    `daskptycho view OUT --sweep N` draws one of them; `daskptycho resume OUT` continues from the last.
    """
    from daskptycho.run.history import checkpoints

    show_table(
        ("sweep", "residual", "written"),
        [
            (str(kept.sweep), f"{kept.residual:.4g}", f"{kept.written.astimezone():%Y-%m-%d %H:%M:%S}")
            for kept in checkpoints(out)
        ],
    )
