"""The live page itself, drawn with Bokeh: figures, and what changes in them when a new view comes.

`serving` hands this module to a Bokeh server: in the scheduler's process or in the run's own.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Any

from bokeh.document import Document
from bokeh.models import ColumnDataSource, CustomJS, Div, InlineStyleSheet
from jinja2 import Template

from daskptycho.dashboard.board import Board
from daskptycho.dashboard.figures import (
    amplitude_and_phase,
    curve_figure,
    draw_curve,
    draw_image,
    draw_probe,
    draw_tiles,
    probe_figure,
    tiles_figure,
)
from daskptycho.dashboard.view import View
from daskptycho.dashboard.wording import facts, headline, workers_table

__all__ = ["PATH", "open_page"]

# Where the page lies on a server.
PATH = "/daskptycho"
NO_RUN = View(note="No run with a live page has begun here yet.")
# Milliseconds between two looks at the board.
PERIOD = 500
# With a run its server may end: what is seen then is right, and no connection to be mourned.
AT_THE_END = """
if (/status (done|stopped)/.test(cb_obj.text)) {
    const changes = {reconnect_session: false, notify_connection_status: false}
    cb_obj.document.config.setv(changes, {sync: false})
}
"""


def open_page(doc: Document, board: Board | None, dask_page: str = "") -> None:
    """Put the live page of a board into a Bokeh document, and keep it up to date.

    Parameters
    ----------
    doc : bokeh.document.Document
    board : Board or None
        None: there is no run to be seen.
    dask_page : str
        Address of Dask's own dashboard, if there is one beside this page.
    """
    sheet = InlineStyleSheet(css=_text("words.css"))
    words = {
        name: Div(name=name, stylesheets=[sheet], sizing_mode="stretch_width", margin=0, disable_math=True)
        for name in ("head", "facts", "workers")
    }
    words["head"].js_on_change("text", CustomJS(code=AT_THE_END))
    image, residual, consensus, probe, tiles = (ColumnDataSource() for _ in range(5))
    amplitude, phase = amplitude_and_phase(image)
    figures = {
        "amplitude": amplitude,
        "phase": phase,
        "probe": probe_figure(probe),
        "residual": curve_figure("Residual R²", "residual", residual, "#1f4e79"),
        "consensus": curve_figure("Consensus 1 - λ", "consensus", consensus, "#c8553d"),
        "tiles": tiles_figure(tiles),
    }
    for name, shown in figures.items():
        shown.name = name
    doc.template = Template(_text("page.html"))
    doc.template_variables["dask_page"] = escape(dask_page)
    for root in (*words.values(), *figures.values()):
        doc.add_root(root)
    last: dict[str, Any] = {"number": None}

    def show() -> None:
        number, view = (0, NO_RUN) if board is None else board.look()
        if number == last["number"]:
            return
        words["head"].text, words["facts"].text = headline(view), facts(view)
        words["workers"].text = workers_table(view)
        doc.title = _title(view)
        draw_curve(residual, figures["residual"], "residual", view)
        draw_curve(consensus, figures["consensus"], "consensus", view)
        # Pictures travel once.
        if view.image is not None and view.image is not last.get("image"):
            draw_image(image, amplitude, phase, view.image, view.scale)
        if view.probe is not None and view.probe is not last.get("probe"):
            draw_probe(probe, figures["probe"], view.probe)
        if view.tiles is not None and view.tiles is not last.get("tiles"):
            draw_tiles(tiles, figures["tiles"], view.tiles)
        last.update(number=number, image=view.image, probe=view.probe, tiles=view.tiles)

    show()
    doc.add_periodic_callback(show, PERIOD)


def _text(name: str) -> str:
    """A file that lies beside this module."""
    return files("daskptycho.dashboard").joinpath(name).read_text("utf-8")


def _title(view: View) -> str:
    """Of the browser's tab: how far the run is."""
    done = view.sweep[-1] if view.sweep else 0
    return f"{done}/{view.sweeps} · daskptycho" if view.status == "running" else f"{view.status} · daskptycho"
