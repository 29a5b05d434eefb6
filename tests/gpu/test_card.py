"""What only real cards can show: the same bits each time, a cluster of them, the command line on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.cluster.cuda_cluster import cuda_cluster, require_gpus_at_work
from tests.plain import relative_where_lit

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("card")]

# One process and several add up strips in the same order.
CLOSE = 1e-4


def test_the_same_bits_each_time(scan: xr.Dataset) -> None:
    first, again = (dp.reconstruct(scan, sweeps=6, device="gpu", sync=dp.Sync(None)) for _ in range(2))
    np.testing.assert_array_equal(first["object"], again["object"])


def test_a_cluster_uses_every_card(scan: xr.Dataset) -> None:
    pytest.importorskip("dask_cuda", reason="dask-cuda is not installed")
    with cuda_cluster() as client:
        found = dp.reconstruct(scan, sweeps=6, device="gpu")
        work = require_gpus_at_work(client)
    assert len({own.gpu.uuid for own in work}) == len(work)
    assert relative_where_lit(found, dp.reconstruct(scan, sweeps=6, device="gpu")) < CLOSE


def test_check_gpu_is_content() -> None:
    pytest.importorskip("dask_cuda", reason="dask-cuda is not installed")
    result = CliRunner().invoke(daskptycho, ["check-gpu"])
    assert result.exit_code == 0, result.output


def test_the_command_line_runs_on_every_card(scan: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("dask_cuda", reason="dask-cuda is not installed")
    arguments = ["reconstruct", scan.encoding["source"], str(tmp_path / "r.zarr"), "--sweeps", "2", "--gpu"]
    result = CliRunner().invoke(daskptycho, arguments)
    assert result.exit_code == 0, result.output
    assert "at work" in result.stderr
