"""``daskptycho.LivePage``: a run shown on a web page, also by ``--dashboard`` on the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import xarray as xr

from daskptycho.cluster.client import current_client
from daskptycho.dashboard.live_view import LiveView, make_first_view
from daskptycho.errors import OptionError, how_to_install

__all__ = ["LivePage"]


class LivePage(LiveView):
    """A callback of `reconstruct` or `resume` that shows the run on a web page.

    On a cluster the scheduler's own server serves the page, beside Dask's dashboard, which links to it.
    Without a cluster, a server on a free port of this machine does. The page shows the image so far, the
    probe, residual and disagreement against sweeps, and which worker has which tiles. Pictures are thinned
    out where the tiles are. They are made at most once a second and take at most a twentieth of the run's
    time, or a two-hundredth while nobody watches.

    Parameters
    ----------
    scan : xarray.Dataset, optional
        The scan that is reconstructed. It gives the axes their unit; without it they count pixels.
    out : path, optional
        Where the result will be written, to be shown.

    Attributes
    ----------
    link : str
        Address of the page.

    Raises
    ------
    OptionError
        Bokeh is not installed here, or the scheduler has no dashboard.

    Examples
    --------
    >>> with dp.LivePage(scan) as page:
    ...     print(page.link)
    ...     result = dp.reconstruct(scan, callback=page)
    """

    def __init__(self, scan: xr.Dataset | None = None, out: str | Path | None = None) -> None:
        if importlib.util.find_spec("bokeh") is None:
            raise OptionError(f"the live page needs bokeh: {how_to_install('dashboard')}")
        from daskptycho.dashboard.servers import LocalServer, SchedulerServer

        view, client = make_first_view(scan, out), current_client()
        server = LocalServer(view) if client is None else SchedulerServer(client, view)
        super().__init__(scan, view, server)
        self.link = server.link

    def _repr_html_(self) -> str:
        return f'<a href="{self.link}" target="_blank">Watch the run: {self.link}</a>'
