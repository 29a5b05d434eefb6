"""Scan: what was measured, an `xarray.Dataset` in a Zarr store.

`dataset` creates and opens scans. Its parts are `frames` (diffraction patterns, written and read tile by
tile), `validation` (what a scan must be), `calibration` (energy, distances, pixel sizes, positions in pixels)
and `optics` (the formulas behind them). `parts` tells which frames share light. `simulate` makes scans of a
known object and a known probe, which `phantom` provides.

These modules import `storage` only. `formats`, `tasks`, `run`, `views`, `dashboard`, `demo` and `cli` import
them.
"""
