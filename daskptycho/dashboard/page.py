"""The live page itself, drawn with Bokeh: figures, and what changes in them when a new view comes.

`serving` hands this module to a Bokeh server: in the scheduler's process or in the run's own.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.models import ColumnDataSource, Div, InlineStyleSheet
from jinja2 import Template

from daskptycho.dashboard.board import Board
from daskptycho.dashboard.figures import (
    amplitude_and_phase,
    consensus_figure,
    draw_image,
    draw_probe,
    draw_tiles,
    probe_figure,
    residual_figure,
    tiles_figure,
)
from daskptycho.dashboard.view import View
from daskptycho.dashboard.wording import facts, headline, workers_table

__all__ = ["PATH", "open_page"]

# Where the page lies on a server.
PATH = "/daskptycho"
NO_RUN = View(note="No run with a live page has begun here yet.")
LEAST = 1e-9
# Milliseconds between two looks at the board.
PERIOD = 500

STYLE = """
:host { width: 100%; }
.bk-clearfix { width: 100%; }
h1 { font-size: 18px; margin: 0 150px 0 0; font-weight: 600; overflow: hidden; text-overflow: ellipsis; }
.status { display: inline-block; padding: 1px 10px; border-radius: 10px; font-size: 13px; font-weight: 600;
          margin-left: 8px; vertical-align: 1px; color: #fff; background: #6b7280; }
.running { background: #1f4e79; } .done { background: #2e7d4f; } .stopped { background: #b3372a; }
.note { color: #55616e; margin: 2px 0 6px; min-height: 19px; overflow-wrap: anywhere; }
.bar { height: 6px; border-radius: 3px; background: #dfe5ec; } .bar div { height: 6px; border-radius: 3px;
          background: #1f4e79; } .bar .done { background: #2e7d4f; }
.facts { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); width: 100%; }
.facts div { background: #fff; border: 1px solid #dfe5ec; border-radius: 8px; padding: 6px 10px; }
.facts b { display: block; font-size: 18px; font-weight: 600; white-space: nowrap; }
.facts span { color: #55616e; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: right; color: #55616e; font-weight: 500; } th:first-child, td:first-child { text-align: left; }
td { text-align: right; border-top: 1px solid #eef1f5; padding: 3px 0; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
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
    sheet = InlineStyleSheet(css=STYLE)
    words = {
        name: Div(name=name, stylesheets=[sheet], sizing_mode="stretch_width", disable_math=True)
        for name in ("head", "facts", "workers")
    }
    image, residual, consensus, probe, tiles = (ColumnDataSource() for _ in range(5))
    residual.data, consensus.data = {"sweep": [], "residual": []}, {"sweep": [], "consensus": []}
    amplitude, phase = amplitude_and_phase(image)
    figures = {
        "amplitude": amplitude,
        "phase": phase,
        "probe": probe_figure(probe),
        "residual": residual_figure(residual),
        "consensus": consensus_figure(consensus),
        "tiles": tiles_figure(tiles),
    }
    for name, shown in figures.items():
        shown.name = name
    doc.template = Template(files("daskptycho.dashboard").joinpath("page.html").read_text("utf-8"))
    doc.template_variables["dask_page"] = escape(dask_page)
    for root in (*words.values(), *figures.values()):
        doc.add_root(root)
    shown: dict[str, Any] = {"number": None}

    def show() -> None:
        number, view = (0, NO_RUN) if board is None else board.look()
        if number == shown["number"]:
            return
        words["head"].text, words["facts"].text = headline(view), facts(view)
        words["workers"].text = workers_table(view)
        doc.title = _title(view)
        residual.data = {"sweep": view.sweep, "residual": view.residual}
        ran = np.isfinite(view.consensus)
        consensus.data = {
            "sweep": np.array(view.sweep)[ran],
            # On a logarithmic axis there is no place for what rounding has made negative.
            "consensus": np.maximum(np.array(view.consensus)[ran], LEAST),
        }
        # Pictures travel once.
        if view.image is not None and view.image is not shown.get("image"):
            draw_image(image, amplitude, phase, view.image, view.scale)
        if view.probe is not None and view.probe is not shown.get("probe"):
            draw_probe(probe, figures["probe"], view.probe)
        if view.tiles is not None and view.tiles is not shown.get("tiles"):
            draw_tiles(tiles, figures["tiles"], view.tiles)
        shown.update(number=number, image=view.image, probe=view.probe, tiles=view.tiles)

    show()
    doc.add_periodic_callback(show, PERIOD)


def _title(view: View) -> str:
    """Of the browser's tab: how far the run is."""
    done = view.sweep[-1] if view.sweep else 0
    return f"{done}/{view.sweeps} · daskptycho" if view.status == "running" else f"{view.status} · daskptycho"
