"""One web page on which a run can be watched: what it shows, where it is served, and who feeds it.

Users call `LivePage` as ``daskptycho.LivePage``, the command line by ``--dashboard``. `view` is what is
shown, `board` is where the newest view lies, `page` draws it with Bokeh, `serving` puts the page on a server.
"""

from daskptycho.dashboard.live_page import LivePage

__all__ = ["LivePage"]
