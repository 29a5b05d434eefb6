"""Frames that fit far worse than the others, or that no other confirms, are named at the end of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.run.misfits import find_alone, find_misfits
from tests import plain
from tests.smooth_rendering import frames_at, probe_of, raster

POSITION = raster()
COUNTS = frames_at(POSITION)


def reconstructed(folder: Path, position: np.ndarray, **options: Any) -> xr.Dataset:
    known = {"probe": probe_of(), "position_unit": "pixel", "tile_frames": 16, "overwrite": True}
    scan = dp.create_scan(folder / "s.zarr", COUNTS, position, **known)
    return dp.reconstruct(scan, sweeps=25, update_probe=False, **options)


def test_good_frames_are_not_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = reconstructed(tmp_path, POSITION)
    assert not {"frames_that_fit_badly", "frames_alone"} & set(result.attrs)
    assert (result["frame_residual"] < 0.05).all()


def test_frames_that_fit_well_are_not_named_beside_better_ones() -> None:
    # As at the edge of a clean scan, whose frames come down later than those in the middle.
    residual = np.full(64, 2e-7)
    residual[[8, 60]] = 3e-5, 1.3e-4
    assert not find_misfits(residual).size
    residual[8] = 0.02
    assert find_misfits(residual).tolist() == [8]


def test_swapped_positions_are_named(tmp_path: Path) -> None:
    position = POSITION.copy()
    position[[17, 40]] = position[[40, 17]]
    with pytest.warns(UserWarning, match=r"frames (17|40) and (17|40) fit far worse .*--leave-out 17,40\)"):
        result = reconstructed(tmp_path, position)
    assert sorted(result.attrs["frames_that_fit_badly"]) == [17, 40]
    worst = result["frame_number"].values[np.argsort(-result["frame_residual"].values)[:2]]
    assert sorted(worst) == [17, 40]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without = reconstructed(tmp_path, position, leave_out=[17, 40])
    assert without["residual"][-1] < result["residual"][-1]


def test_a_frame_that_nothing_confirms_is_named(tmp_path: Path) -> None:
    position = POSITION.copy()
    position[24] += [0, 34]
    with pytest.warns(UserWarning, match="frame 24 shares hardly any light with other frames"):
        result = reconstructed(tmp_path, position)
    assert result.attrs["frames_alone"] == [24]
    assert (result["frame_overlap"][result["frame_number"] == 24] < 0.3).all()


def test_measures_are_those_of_the_plain_formulas() -> None:
    ds = plain.scan(frames=(3, 3))
    result = dp.reconstruct(ds, sweeps=4, update_probe=False, subpixel=False)
    position = np.rint(ds["position"].values).astype(int)
    corner = position - position.min(axis=0)
    image, probe = result["object"].values.astype(complex), ds["probe"].values.astype(complex)
    frames = [(slice(y, y + probe.shape[1]), slice(x, x + probe.shape[2])) for y, x in corner]
    model = np.array(
        [np.fft.fftshift(np.fft.fft2(probe[0] * image[frame], norm="ortho")) for frame in frames]
    )
    measured = np.sqrt(ds["intensity"].values)
    expected = ((abs(model) - measured) ** 2).sum(axis=(1, 2)) / (measured**2).sum(axis=(1, 2))
    np.testing.assert_allclose(result["frame_residual"], expected, rtol=2e-2)
    light = abs(probe[0]) ** 2
    total = np.zeros(image.shape)
    for frame in frames:
        total[frame] += light
    shared = [1 - (light**2 / np.maximum(total[frame], light)).sum() / light.sum() for frame in frames]
    np.testing.assert_allclose(result["frame_overlap"], shared, rtol=1e-3)


def test_few_frames_and_equal_ones_name_nobody() -> None:
    assert find_misfits(np.array([1e-3, 1e-3, 0.5])).size == 0
    assert find_misfits(np.full(20, 0.01)).size == 0
    assert find_alone(np.full(20, 0.1)).size == 0


def test_left_out_frames_are_not_judged_and_dark_ones_are() -> None:
    residual = np.full(20, 0.01) * np.linspace(0.9, 1.1, 20)
    residual[3], residual[7], residual[9] = np.nan, np.inf, 0.3
    assert find_misfits(residual).tolist() == [7, 9]
    overlap = np.full(20, 0.8)
    overlap[3], overlap[5] = np.nan, 0.1
    assert find_alone(overlap).tolist() == [5]
