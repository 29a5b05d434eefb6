"""The scan that runs on a card and runs on its stand-in share."""

from __future__ import annotations

import pytest
import xarray as xr

import daskptycho as dp


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = tmp_path_factory.mktemp("scan")
    return dp.simulate_scan(
        folder / "scan.zarr", frames=(4, 4), frame_size=16, step=4, jitter=1, subpixel=True, tile_frames=4
    )
