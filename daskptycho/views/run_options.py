"""The options of the run that made a result, as the result tells them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read_options", "read_refined"]


def read_options(result: xr.Dataset) -> Mapping[str, Any]:
    """Read the options of the run from a result; empty if they are missing or damaged."""
    options = result.attrs.get("options", {})
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            return {}
    return options if isinstance(options, Mapping) else {}


def read_refined(result: xr.Dataset, parameter: str) -> Mapping[str, Any] | None:
    """Read the options of a parameter that was refined; None if it was not."""
    refined: Mapping[str, Mapping[str, Any]] = read_options(result).get("refine") or {}
    return refined.get(parameter)
