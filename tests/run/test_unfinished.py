"""A run over a scan that is still being measured, without following it, says so."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import daskptycho as dp


def test_a_part_of_a_scan_is_reconstructed_and_said_to_be_one(tmp_path: Path) -> None:
    source = dp.simulate_scan(tmp_path / "source.zarr", (6, 6), 16, 4, jitter=1)
    order = np.argsort(source["frame_number"].values)
    frames, plan = source["intensity"].values[order], source["position"].values[order]
    url = tmp_path / "scan.zarr"
    shape = {"frame_shape": (16, 16), "dtype": "float32", "position_unit": "pixel", "tile_frames": 9}
    dp.create_scan(url, planned_position=plan, probe=source["probe"].values, **shape)
    with dp.ScanWriter(url) as writer:
        writer.write(frames[:18], np.arange(18))
        known = {"sweeps": 2, "update_probe": False}
        with pytest.warns(UserWarning, match=r"still being measured: \d of 4 tiles .*--follow"):
            dp.reconstruct(dp.open_scan(url), **known)
        writer.write(frames[18:], np.arange(18, 36))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dp.reconstruct(dp.open_scan(url), **known)
