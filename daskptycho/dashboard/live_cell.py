"""``daskptycho.LiveCell``: a run shown in the cell of a notebook."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import xarray as xr

from daskptycho.dashboard.html_parts import read_asset, render_headline, render_numbers
from daskptycho.dashboard.live_view import LiveView, make_first_view
from daskptycho.dashboard.view import Extent, View
from daskptycho.errors import OptionError, how_to_install

__all__ = ["LiveCell"]


class LiveCell(LiveView):
    """A callback of `reconstruct` or `resume` that shows the run in the cell of a notebook.

    It needs no server: what it shows is part of the notebook, and stays there after the run.
    Pictures are made at most once a second and take at most a twentieth of the run's time.

    Parameters
    ----------
    scan : xarray.Dataset, optional
        The scan that is reconstructed. It gives the axes their unit; without it they count pixels.
    out : path, optional
        Where the result will be written, to be shown.

    Raises
    ------
    OptionError
        IPython is not installed.

    Examples
    --------
    >>> with dp.LiveCell(scan) as cell:
    ...     result = dp.reconstruct(scan, callback=cell)
    """

    def __init__(self, scan: xr.Dataset | None = None, out: str | Path | None = None) -> None:
        if importlib.util.find_spec("IPython") is None:
            raise OptionError(f"the live view in a cell needs Jupyter: {how_to_install('jupyter')}")
        view = make_first_view(scan, out)
        super().__init__(scan, view, _Cell(view))


class _Cell:
    """Two outputs below a cell: texts that change at each sweep, and pictures that change now and then."""

    def __init__(self, view: View) -> None:
        from IPython.display import HTML, DisplayHandle

        self._html = HTML
        self._text, self._pictures = DisplayHandle(), DisplayHandle()
        self._text.display(HTML(_render_text(view)))
        self._pictures.display(HTML(""))

    def show(self, view: View) -> bool:
        self._text.update(self._html(_render_text(view)))
        if view.image is not None:
            self._pictures.update(self._html(_render_pictures(view)))
        # Whether anyone watches a notebook is unknown.
        return True

    def looked_at(self) -> Extent | None:
        # A picture in a notebook cannot be zoomed.
        return None

    def is_up_to_date(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _render_text(view: View) -> str:
    style = read_asset("text.css").replace(":host", "&")
    # The style sheet applies to this cell only, not to headings and tables elsewhere in the notebook.
    sheet = f".dp-live {{ display: grid; gap: 8px; {style} }}"
    return f"<div class='dp-live'><style>{sheet}</style>{render_headline(view)}{render_numbers(view)}</div>"


def _render_pictures(view: View) -> str:
    from daskptycho.dashboard.live_figure import draw_live_figure
    from daskptycho.views.saving import encode_as_data_url

    return f"<img style='max-width: 100%' src='{encode_as_data_url(draw_live_figure(view), dpi=80)}'>"
