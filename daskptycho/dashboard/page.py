"""The live page: a Bokeh document that shows the newest view of a run.

`servers` passes `fill_page` to a Bokeh server, in the scheduler's process or in the run's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from bokeh.document import Document
from bokeh.events import RangesUpdate, Reset
from bokeh.models import ColumnDataSource, CustomJS, Div, InlineStyleSheet
from jinja2 import Template

from daskptycho.dashboard.html_parts import read_asset, render_headline, render_numbers, render_workers
from daskptycho.dashboard.latest_view import LatestView
from daskptycho.dashboard.page_figures import (
    draw_curve,
    draw_detail,
    draw_image,
    draw_probe,
    draw_tiles,
    make_curve_figure,
    make_image_figures,
    make_probe_figure,
    make_tile_figure,
    remove_detail,
)
from daskptycho.dashboard.view import View

__all__ = ["PATH", "fill_page"]

# Path of the page on its server.
PATH = "/daskptycho"
NO_RUN = View(note="No run with a live page has started here yet.")
# Milliseconds between two requests for the newest view.
PERIOD = 500
# The server may end with the run: the page then stays as it is, without a message about the lost connection.
STAY_AFTER_END = """
if (/status (done|stopped)/.test(cb_obj.text)) {
    const changes = {reconnect_session: false, notify_connection_status: false}
    cb_obj.document.config.setv(changes, {sync: false})
}
"""


def fill_page(doc: Document, latest: LatestView | None, dask_page: str = "") -> None:
    """Put the live page of a run into a Bokeh document, and keep it up to date.

    Parameters
    ----------
    doc : bokeh.document.Document
        An empty one.
    latest : LatestView or None
        The newest view of the run; None if there is no run to show.
    dask_page : str
        Address of Dask's own dashboard, for a link; empty if there is none.
    """
    sheet = InlineStyleSheet(css=read_asset("text.css"))
    texts = {
        name: Div(name=name, stylesheets=[sheet], sizing_mode="stretch_width", margin=0, disable_math=True)
        for name in ("head", "numbers", "workers")
    }
    texts["head"].js_on_change("text", CustomJS(code=STAY_AFTER_END))
    image, detail, residual, disagreement, probe, tiles = (ColumnDataSource() for _ in range(6))
    amplitude, phase = make_image_figures(image, detail)
    figures = {
        "amplitude": amplitude,
        "phase": phase,
        "probe": make_probe_figure(probe),
        "residual": make_curve_figure("Residual R²", "residual", residual, "#1f4e79"),
        "disagreement": make_curve_figure("Disagreement 1 - λ", "disagreement", disagreement, "#c8553d"),
        "tiles": make_tile_figure(tiles),
    }
    for name, figure in figures.items():
        figure.name = name
    doc.template = Template(read_asset("page.html"))
    doc.template_variables["dask_page"] = escape(dask_page)
    if latest is not None:
        # A document learns of these when a figure is added.
        _report_looks((amplitude, phase), latest)
    for root in (*texts.values(), *figures.values()):
        doc.add_root(root)
    shown: dict[str, Any] = {"number": None}

    def update() -> None:
        number, view = (0, NO_RUN) if latest is None else latest.read()
        if number == shown["number"]:
            return
        texts["head"].text, texts["numbers"].text = render_headline(view), render_numbers(view)
        texts["workers"].text = render_workers(view)
        doc.title = _tab_title(view)
        draw_curve(residual, figures["residual"], "residual", view)
        draw_curve(disagreement, figures["disagreement"], "disagreement", view)
        # A picture is sent to the browser only once.
        if view.image is not None and view.image is not shown.get("image"):
            draw_image(image, amplitude, phase, view.image, view.scale)
            if view.detail is None:
                remove_detail(detail)
            else:
                draw_detail(detail, amplitude, phase, view.detail)
        if view.probe is not None and view.probe is not shown.get("probe"):
            draw_probe(probe, figures["probe"], view.probe)
        if view.tiles is not None and view.tiles is not shown.get("tiles"):
            draw_tiles(tiles, figures["tiles"], view.tiles)
        shown.update(number=number, image=view.image, probe=view.probe, tiles=view.tiles)

    update()
    doc.add_periodic_callback(update, PERIOD)


def _report_looks(figures: Sequence[Any], latest: LatestView) -> None:
    """Let the run know which part of the image is looked at, so that the next one has its details."""

    def look(event: RangesUpdate) -> None:
        (left, right), (top, bottom) = sorted((event.x0, event.x1)), sorted((event.y0, event.y1))
        latest.look_at((left, right, top, bottom))

    for plot in figures:
        plot.on_event(RangesUpdate, look)
        plot.on_event(Reset, lambda _: latest.look_at(None))


def _tab_title(view: View) -> str:
    """Title of the browser's tab, with the number of sweeps done."""
    status = f"{view.sweeps_done}/{view.sweeps}" if view.status == "running" else view.status
    return f"{status} · daskptycho"
