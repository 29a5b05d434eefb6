"""A run that can be watched: on a web page or in the cell of a notebook.

Users call `LivePage` and `LiveCell` from `daskptycho`, the command line calls the page by ``--dashboard``.
`view` is what is shown and `feed` the callback that makes it of a run's progress. Of the page, `board` is
where the newest view lies, `page` draws it with Bokeh and `serving` puts it on a server.
"""

from daskptycho.dashboard.live_cell import LiveCell
from daskptycho.dashboard.live_page import LivePage

__all__ = ["LiveCell", "LivePage"]
