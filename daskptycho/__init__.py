"""Ptychography of any size: frames in Zarr, tiles on Dask, phases synchronised across the whole scan."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("daskptycho")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
