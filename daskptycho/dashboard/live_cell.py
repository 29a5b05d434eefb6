"""The live view in a cell of a notebook, as users call it: ``daskptycho.LiveCell``."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import xarray as xr

from daskptycho.dashboard.feed import Feed, first_view
from daskptycho.dashboard.view import View
from daskptycho.dashboard.wording import facts, headline
from daskptycho.errors import OptionError

__all__ = ["LiveCell"]


class LiveCell(Feed):
    """A run that shows itself in the cell of a notebook: a callback of `reconstruct` or `resume`.

    It needs no server: what it shows travels with the notebook, and stays in it when the run is done.
    Pictures come at most once a second and take at most a twentieth of the run's time.

    Parameters
    ----------
    scan : xarray.Dataset, optional
        The scan that is reconstructed: the axes are in its unit then.
    out : path, optional
        Where the result will be.

    Raises
    ------
    OptionError
        IPython is missing.

    Examples
    --------
    >>> with dp.LiveCell(scan) as cell:
    ...     result = dp.reconstruct(scan, callback=cell)
    """

    def __init__(self, scan: xr.Dataset | None = None, out: str | Path | None = None) -> None:
        if importlib.util.find_spec("IPython") is None:
            raise OptionError("the live view in a cell needs Jupyter: pip install 'daskptycho[jupyter]'")
        view = first_view(scan, out)
        super().__init__(scan, view, _Cell(view))


class _Cell:
    """Two displays below a cell: words that change at each sweep, and pictures now and then."""

    def __init__(self, view: View) -> None:
        from IPython.display import HTML, DisplayHandle

        self._html = HTML
        self._words, self._pictures = DisplayHandle(), DisplayHandle()
        self._words.display(HTML(_words(view)))
        self._pictures.display(HTML(""))

    def put(self, view: View) -> bool:
        self._words.update(self._html(_words(view)))
        if view.image is not None:
            self._pictures.update(self._html(_picture(view)))
        # A notebook does not tell whether anyone looks.
        return True

    def unseen(self) -> bool:
        return False

    def close(self) -> None:
        pass


def _words(view: View) -> str:
    style = files("daskptycho.dashboard").joinpath("words.css").read_text("utf-8").replace(":host", "&")
    # A sheet for the cell alone: the notebook's own headings and tables are not meant.
    sheet = f".dp-live {{ display: grid; gap: 8px; {style} }}"
    return f"<div class='dp-live'><style>{sheet}</style>{headline(view)}{facts(view)}</div>"


def _picture(view: View) -> str:
    from daskptycho.dashboard.live_figure import live_figure
    from daskptycho.views.plotting import encode_as_data_url

    return f"<img style='max-width: 100%' src='{encode_as_data_url(live_figure(view), dpi=80)}'>"
