"""``--dashboard``: the live page of a run. `reconstruct` and `resume` call this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import xarray as xr

    from daskptycho.run.loop import Progress

__all__ = ["dashboard_option", "watched"]

dashboard_option = click.option(
    "--dashboard",
    is_flag=True,
    help="Serve a page on which the run can be watched, and print its address.",
)


@contextmanager
def watched(dashboard: bool, scan: xr.Dataset, out: str) -> Iterator[Callable[[Progress], Any]]:
    """A callback that feeds the live page while the block runs, or does nothing."""
    if not dashboard:
        yield lambda progress: None
        return
    from daskptycho.dashboard import LivePage

    with LivePage(scan, out) as page:
        click.echo(f"Live page: {page.link}", err=True)
        yield page
