"""Scans that several tests of runs share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import plain

SIMULATED: dict[str, dict[str, Any]] = {
    "raster": {"jitter": 1},
    "fractional": {"jitter": 1, "subpixel": True},
    "modes": {"jitter": 1, "modes": 2},
    "spiral": {"pattern": "spiral"},
    "periodic": {"periodic": True},
}


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """Simulated scans of 8 x 8 frames, each one tile."""
    folder = tmp_path_factory.mktemp("scans")
    return {
        name: dp.simulate_scan(folder / f"{name}.zarr", frames=(8, 8), frame_size=16, step=4, **options)
        for name, options in SIMULATED.items()
    }


@pytest.fixture
def raster(scans: dict[str, xr.Dataset]) -> xr.Dataset:
    return scans["raster"]


@pytest.fixture
def tiled(raster: xr.Dataset) -> xr.Dataset:
    """The same frames in four tiles."""
    return raster.chunk({"frame": 16})


@pytest.fixture
def small() -> xr.Dataset:
    """A scan in memory for runs that only have to run."""
    return plain.scan(frames=(3, 3))


def perturbed(ds: xr.Dataset, by: float = 0.2) -> np.ndarray:
    """The scan's probe with noise in amplitude and phase, at another scale."""
    random = np.random.default_rng(0)
    probe = ds["probe"].values
    noise = (1 + by * random.normal(size=probe.shape)) * np.exp(1j * by * random.normal(size=probe.shape))
    return 7 * probe * noise
