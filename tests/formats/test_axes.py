"""Axes and signs: of four choices of sign only that of the reader reconstructs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests.formats import sources

ROTATED = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
UPWARDS = ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))
WRITERS: dict[str, tuple[Callable[..., None], str]] = {
    "ptyd": (sources.write_ptyd, "scan.ptyd"),
    "cxi": (sources.write_cxi, "scan.cxi"),
    "cxi with rows upwards": (lambda scan, path: sources.write_cxi(scan, path, UPWARDS), "scan.cxi"),
    "cxi rotated by a quarter turn": (lambda scan, path: sources.write_cxi(scan, path, ROTATED), "scan.cxi"),
    "nxptycho": (sources.write_nxptycho, "scan.nxs"),
    "nxmx": (sources.write_nxmx, "scan_master.h5"),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return sources.simulated(tmp_path_factory.mktemp("truth"))


def residual(scan: xr.Dataset, probe: Any) -> float:
    result = dp.reconstruct(scan, sweeps=25, probe=probe, update_probe=False, algorithm="ap")
    return float(result["residual"][-1])


@pytest.mark.parametrize("name", WRITERS)
def test_only_the_file_s_own_signs_reconstruct(name: str, truth: xr.Dataset, tmp_path: Path) -> None:
    write, file = WRITERS[name]
    write(truth, tmp_path / file)
    scan = dp.import_scan(tmp_path / file, tmp_path / "s.zarr").load()
    in_order = scan.sortby("frame_number")
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], truth.attrs["pixel_size_m"], rtol=1e-6)
    position, expected = in_order["position"].values, sources.metres(truth)
    np.testing.assert_allclose(position - position[0], expected - expected[0], atol=1e-13)
    probe = truth["probe"].values
    own = residual(scan, probe)
    # The file may shift the origin by a fraction of a pixel.
    assert own < 3 * residual(truth, probe)
    others = sources.with_other_signs(scan, probe, sweeps=25, algorithm="ap")
    assert min(others.values()) > 10 * own, (own, others)
