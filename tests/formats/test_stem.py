"""4D-STEM becomes scans: rasters with units, electrons, axes proven by reconstructing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.errors import ScanError
from tests.formats import sources

WRITERS: dict[str, tuple[Callable[..., None], str, dict[str, Any]]] = {
    "hspy": (sources.write_hspy, "scan.hspy", {}),
    "zspy": (sources.write_zspy, "scan.zspy", {}),
    "py4DSTEM": (sources.write_py4dstem, "scan.h5", {}),
    "DM4": (sources.write_dm4, "scan.dm4", {}),
    "EMPAD": (
        sources.write_empad,
        "scan.xml",
        {"crop": sources.SIZE, "pixel_size_m": sources.STEM_STEP_M / 4},
    ),
    "MIB": (
        sources.write_mib,
        "scan.mib",
        {
            "scan_shape": (6, 5),
            "assume": {"scan_step_m": sources.STEM_STEP_M},
            "pixel_size_m": sources.STEM_STEP_M / 4,
        },
    ),
    "Dectris": (
        lambda scan, path: sources.write_nxmx(scan, path, positions=False),
        "scan_master.h5",
        {
            "scan_shape": (6, 5),
            "scan_step_m": sources.STEM_STEP_M,
            "pixel_size_m": sources.STEM_STEP_M / 4,
        },
    ),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return sources.raster(tmp_path_factory.mktemp("truth"))


@pytest.mark.parametrize("name", WRITERS)
def test_raster_of_each_format_reconstructs_with_its_own_signs_only(
    name: str, truth: xr.Dataset, tmp_path: Path
) -> None:
    write, file, options = WRITERS[name]
    write(truth, tmp_path / file)
    residuals = {}
    for axes in ("yx", "-yx", "y-x", "-y-x"):
        scan = dp.import_scan(tmp_path / file, tmp_path / f"{axes}.zarr", position_axes=axes, **options)
        result = dp.reconstruct(scan, sweeps=25, probe=truth["probe"].values, update_probe=False)
        residuals[axes] = float(result["residual"][-1])
    scan = dp.open_scan(tmp_path / "yx.zarr").sortby("frame_number")
    valid = scan["valid"] if "valid" in scan else True
    np.testing.assert_array_equal(scan["intensity"], truth["intensity"] * valid)
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], sources.STEM_STEP_M / 4, rtol=1e-6)
    pixels = scan["position"].values / (sources.STEM_STEP_M / 4)
    np.testing.assert_allclose(pixels - pixels[0], truth["position"] - truth["position"][0], atol=1e-6)
    own = residuals.pop("yx")
    assert min(residuals.values()) > 10 * own, (own, residuals)
