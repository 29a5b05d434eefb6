"""The accessor ``ds.ptycho``: pictures and facts of a scan or a result, in a notebook or a script.

xarray knows the accessor once this module is imported. `daskptycho` imports it when a function that returns a
Dataset is first used.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from daskptycho.errors import ScanError
from daskptycho.storage.old_names import rename_old_variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from daskptycho.views.facts import Facts

__all__ = ["Ptycho"]

# The class keeps these styles away from the notebook's own tables.
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
        A scan or a result, as `open_scan`, `reconstruct`, `open_result` or xarray itself returns it.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = rename_old_variables(ds)

    @property
    def amplitude(self) -> xr.DataArray:
        """Amplitude of the object, (y, x) float32, with the coordinates of the result; NaN in the dark rim.

        Raises
        ------
        ScanError
            The Dataset has no object: it is a scan.
        """
        return self._lit_part("amplitude", np.abs, {})

    @property
    def phase(self) -> xr.DataArray:
        """Phase of the object in radians, (y, x) float32, with the same coordinates and NaN in the dark rim.

        The mean phase is subtracted. So is the mean slope if the probe was recovered, because the probe may
        then hold any part of a phase ramp.

        Raises
        ------
        ScanError
            The Dataset has no object: it is a scan.
        """
        return self._lit_part("phase", np.angle, {"units": "rad"})

    def plot(self) -> Figure:
        """Draw a result as `plot_result` does, or the mean frame and the positions of a scan."""
        from daskptycho.views.plotting import plot_result, plot_scan

        return plot_result(self._ds) if "object" in self._ds else plot_scan(self._require_scan())

    def __repr__(self) -> str:
        title, groups = self._describe()
        width = max(len(name) for group in groups for name, _ in group)
        facts = [
            "\n".join(f"  {name:{width}}  {value}" for name, value in group) for group in groups if group
        ]
        return "\n\n".join([title, *facts])

    def _repr_html_(self) -> str:
        from daskptycho.views.saving import encode_as_data_url

        title, groups = self._describe()
        rows = "".join(
            f"<tr{' class=first' if number == 0 else ''}><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for group in groups
            for number, (name, value) in enumerate(group)
        )
        return (
            f"<div class='dp-shown'><style>{STYLE}</style><b>{title}</b>"
            f"<div><img src='{encode_as_data_url(self.plot(), dpi=70)}'></div><table>{rows}</table></div>"
        )

    def _describe(self) -> tuple[str, list[Facts]]:
        """Title and facts of the scan, of which one tile is read, or of the result."""
        from daskptycho.views.facts import result_facts, sample_counts, scan_facts

        if "object" in self._ds:
            return "Result", result_facts(self._ds)
        scan = self._require_scan()
        return "Scan", scan_facts(scan, sample_counts(scan, most=1))

    def _lit_part(self, name: str, part: Any, attributes: dict[str, str]) -> xr.DataArray:
        """Amplitude or phase of the illuminated part of the object."""
        from daskptycho.views.plotting import make_result_picture

        if "object" not in self._ds:
            raise ScanError(f"this Dataset has no object whose {name} could be shown; expected a result")
        whole = self._ds["object"]
        picture = make_result_picture(self._ds, most=max(whole.shape))
        values: NDArray[np.float32] = part(picture.values).astype(np.float32)
        values[picture.rim] = np.nan
        rows, columns = picture.box
        shown = whole.isel(y=rows, x=columns).copy(data=values)
        return shown.rename(name).assign_attrs({"long_name": name, **attributes})

    def _require_scan(self) -> xr.Dataset:
        """Return the scan, or raise if the Dataset is neither scan nor result."""
        if "intensity" not in self._ds:
            raise ScanError("this Dataset has neither object nor intensity; expected a result or a scan")
        return self._ds
