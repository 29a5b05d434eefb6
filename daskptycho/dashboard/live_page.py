"""The live page as users call it: ``daskptycho.LivePage``, and ``--dashboard`` on the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import xarray as xr

from daskptycho.cluster.client import current_client
from daskptycho.dashboard.feed import Feed, first_view
from daskptycho.errors import OptionError

__all__ = ["LivePage"]


class LivePage(Feed):
    """A web page on which a run can be watched, and the callback of `reconstruct` or `resume` that feeds it.

    On a cluster the page lies on the scheduler's own server, beside Dask's dashboard, which links to it;
    without one a server on a free port of this machine shows the same page. It shows the image so far, the
    probe, residual and consensus sweep by sweep, and the tiles where they run. Pictures are thinned out
    beside the tiles, come at most once a second, and take at most a twentieth of the run's time, a
    two-hundredth while nobody looks.

    Parameters
    ----------
    scan : xarray.Dataset, optional
        The scan that is reconstructed: the axes are in its unit then.
    out : path, optional
        Where the result will be, for the page to say.

    Attributes
    ----------
    link : str
        Address of the page.

    Raises
    ------
    OptionError
        Bokeh is missing here, or the scheduler has no dashboard.

    Examples
    --------
    >>> with dp.LivePage(scan) as page:
    ...     print(page.link)
    ...     result = dp.reconstruct(scan, callback=page)
    """

    def __init__(self, scan: xr.Dataset | None = None, out: str | Path | None = None) -> None:
        if importlib.util.find_spec("bokeh") is None:
            raise OptionError("the live page needs bokeh: pip install 'daskptycho[dashboard]'")
        from daskptycho.dashboard.serving import OnScheduler, OwnServer

        view, client = first_view(scan, out), current_client()
        server = OwnServer(view) if client is None else OnScheduler(client, view)
        super().__init__(scan, view, server)
        self.link = server.link

    def _repr_html_(self) -> str:
        return f'<a href="{self.link}" target="_blank">Watch the run: {self.link}</a>'
