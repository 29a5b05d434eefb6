"""Watching a run while it goes on: on a web page (`LivePage`) or in the cell of a notebook (`LiveCell`).

Both are callbacks of a run (`live_view`) that turn its progress into views (`view`). A view is shown by a
display: the cell's own (`live_cell`, with its matplotlib figure in `live_figure`), or a web server
(`servers`). The servers keep the newest view (`latest_view`), and a Bokeh page (`page`, `page_figures`)
fetches it from there. `html_parts` writes the texts that page and cell have in common.

This folder imports `run` for the progress of a run, `scan` for the size of a pixel, `tasks` for the cluster
in use and its faults, and `views` for pictures. Only the package's front door and the command line import it.
"""

from daskptycho.dashboard.live_cell import LiveCell
from daskptycho.dashboard.live_page import LivePage

__all__ = ["LiveCell", "LivePage"]
