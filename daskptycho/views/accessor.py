"""``ds.ptycho``: what a scan or a result can show of itself, in a notebook or a script.

xarray knows the accessor once this module is imported, which `daskptycho` does when it is first asked for
anything that hands out a Dataset.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Ptycho"]

# One sheet for what is shown here alone: the notebook's own tables are not meant.
STYLE = """
.dp-shown table { border-collapse: collapse; font-size: 13px; margin: 4px 0; }
.dp-shown td { text-align: left; padding: 1px 14px 1px 0; border: 0; vertical-align: top; background: none; }
.dp-shown td:first-child { color: #7a8794; white-space: nowrap; }
.dp-shown tr.first td { padding-top: 9px; }
.dp-shown img { max-width: 100%; }
"""


@xr.register_dataset_accessor("ptycho")
class Ptycho:
    """Pictures and facts of a scan or a result, as ``ds.ptycho``.

    Parameters
    ----------
    ds : Dataset
        From `open_scan`, `reconstruct`, `open_result`, or opened by xarray itself.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    @property
    def amplitude(self) -> xr.DataArray:
        """|object| where it was lit, NaN in the rim; (y, x) float32 with the result's coordinates.

        Raises
        ------
        ScanError
            There is no object: this is a scan.
        """
        return self._part("amplitude", np.abs, {})

    @property
    def phase(self) -> xr.DataArray:
        """Phase of the object in radians, likewise.

        Its mean is taken off, and its mean slope where the probe was recovered: the probe may have taken
        up any ramp, and the object's own is not known.
        """
        return self._part("phase", np.angle, {"units": "rad"})

    def plot(self) -> Figure:
        """A matplotlib figure: of a result `plot_result`, of a scan its mean frame and its positions."""
        from daskptycho.views.plotting import plot_result, plot_scan

        return plot_result(self._ds) if "object" in self._ds else plot_scan(self._known_scan())

    def _repr_html_(self) -> str:
        from daskptycho.views.facts import counts_of, result_facts, scan_facts
        from daskptycho.views.plotting import inline_picture

        if "object" in self._ds:
            title, groups = "Result", result_facts(self._ds)
        else:
            scan = self._known_scan()
            title, groups = "Scan", scan_facts(scan, counts_of(scan, most=1))
        rows = "".join(
            f"<tr{' class=first' if number == 0 else ''}><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for group in groups
            for number, (name, value) in enumerate(group)
        )
        return (
            f"<div class='dp-shown'><style>{STYLE}</style><b>{title}</b>"
            f"<div><img src='{inline_picture(self.plot(), dpi=70)}'></div><table>{rows}</table></div>"
        )

    def _part(self, name: str, part: Any, attributes: dict[str, str]) -> xr.DataArray:
        from daskptycho.views.plotting import picture_of

        if "object" not in self._ds:
            raise ScanError(f"there is no object whose {name} could be shown; expected a result")
        whole = self._ds["object"]
        picture = picture_of(self._ds, most=max(whole.shape))
        values: NDArray[np.float32] = part(picture.values).astype(np.float32)
        values[picture.rim] = np.nan
        rows, columns = picture.box
        shown = whole.isel(y=rows, x=columns).copy(data=values)
        return shown.rename(name).assign_attrs({"long_name": name, **attributes})

    def _known_scan(self) -> xr.Dataset:
        if "intensity" not in self._ds:
            raise ScanError("neither object nor intensity is there; expected a result or a scan")
        return self._ds
