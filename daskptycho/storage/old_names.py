"""Names that variables had in results of earlier versions; whatever opens a result calls this module."""

from __future__ import annotations

import xarray as xr

__all__ = ["rename_old_variables"]

# The old name of each variable that has another one now.
NEW_NAMES = {"consensus": "disagreement"}


def rename_old_variables(result: xr.Dataset) -> xr.Dataset:
    """Give the variables of a result of an earlier version the names that they have now."""
    return result.rename({old: new for old, new in NEW_NAMES.items() if old in result and new not in result})
