"""The option ``--dashboard``: the live page of a run. `reconstruct` and `resume` import this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import xarray as xr

    from daskptycho.run.loop import Progress

__all__ = ["dashboard_option", "serve_live_page"]

dashboard_option = click.option(
    "--dashboard",
    is_flag=True,
    help="Serve a live page of the run and print its address.",
)


@contextmanager
def serve_live_page(dashboard: bool, scan: xr.Dataset, out: str) -> Iterator[Callable[[Progress], Any]]:
    """Serve the live page while the block runs; yield a callback that feeds it, or one that does nothing."""
    if not dashboard:
        yield lambda progress: None
        return
    from daskptycho.dashboard import LivePage

    with LivePage(scan, out) as page:
        click.echo(f"Live page: {page.link}", err=True)
        yield page
