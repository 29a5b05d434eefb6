"""Odd frames and positions are named with their numbers before anything is computed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.scan.odd_frames import doubt_distance, doubt_step, find_dark_frames, find_outlying
from tests.smooth_rendering import frames_at, probe_of, raster

POSITION = raster()
COUNTS = frames_at(POSITION)
SHAPE = COUNTS.shape[1:]


def written(folder: Path, counts: np.ndarray, position: np.ndarray, **options: Any) -> xr.Dataset:
    options = {"probe": probe_of(), "position_unit": "pixel", "overwrite": True} | options
    return dp.create_scan(folder / "s.zarr", counts, position, **options)


def test_dips_and_flashes_are_left_out(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[[10, 11, 24]] = np.random.default_rng(0).poisson(0.3 * counts[[10, 11, 24]])
    counts[40] *= 3
    with pytest.warns(UserWarning, match="frames 10, 11, 24 and 40 have far fewer or more counts"):
        scan = written(tmp_path, counts, POSITION)
    np.testing.assert_array_equal(np.sort(scan["frame_number"][~scan["frame_used"]]), [10, 11, 24, 40])


def test_a_known_gain_is_no_dip(tmp_path: Path) -> None:
    gain = np.ones(len(COUNTS))
    gain[[10, 24]] = 0.5
    counts = np.random.default_rng(0).poisson(COUNTS * gain[:, None, None] ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan = written(tmp_path, counts, POSITION, frame_values={"gain": gain})
    assert "frame_used" not in scan


def test_a_sample_that_absorbs_is_no_dip() -> None:
    distance = np.linalg.norm(POSITION - POSITION.mean(axis=0), axis=1)
    # No hole looks narrower than the beam.
    for width in (6.7, 10.0, 15.0):
        totals = 1e5 * (1 - 0.99 * np.exp(-((distance / width) ** 2)))
        empty, odd = find_dark_frames(totals, POSITION, SHAPE, whole=True)
        assert not empty.any()
        assert not odd.any()


def test_frames_without_counts_are_kept_where_counts_are_few() -> None:
    totals = np.random.default_rng(0).poisson(3, len(POSITION)).astype(float)
    assert (totals == 0).any()
    for found in find_dark_frames(totals, POSITION, SHAPE, whole=True):
        assert not found.any()


def test_one_frame_far_away_is_named(tmp_path: Path) -> None:
    position = POSITION.copy()
    position[17] += [900, 0]
    with pytest.warns(UserWarning, match=r"frame 17 lies far .*canvas .* times larger.*--leave-out 17\)"):
        scan = written(tmp_path, COUNTS, position)
    with pytest.warns(UserWarning, match="frame 17 lies far"):
        dp.reconstruct(scan, sweeps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = dp.reconstruct(scan, sweeps=1, leave_out=[17])
    assert result["object"].size < 60**2


def test_a_canvas_that_is_too_large_names_the_frame_that_makes_it(tmp_path: Path) -> None:
    position = POSITION.copy()
    position[17] = [1e6, -1e6]
    with pytest.raises(dp.ScanError, match=r"frame 17 lies far .*--leave-out 17"):
        written(tmp_path, COUNTS, position)
    assert written(tmp_path, COUNTS, position, leave_out=[17]).sizes["frame"] == len(position)


def test_islands_are_not_outlying() -> None:
    assert find_outlying(np.concatenate([POSITION, POSITION + np.array([0, 400])]), SHAPE) is None
    line = np.column_stack([np.arange(200) * 5.0, np.zeros(200)])
    assert find_outlying(line, SHAPE) is None
    assert find_outlying(np.concatenate([line, [[0, 9000]]]), SHAPE).frames.tolist() == [200]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "position", [POSITION * 1e-8, POSITION * 0, POSITION / 60], ids=["metres", "equal", "tiny"]
)
def test_frames_that_all_show_one_place_are_refused(tmp_path: Path, position: np.ndarray) -> None:
    with pytest.raises(dp.ScanError, match=r"all 49 frames show the same place; .* is probably wrong"):
        written(tmp_path, COUNTS, position)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_energy_or_distance_is_refused(tmp_path: Path) -> None:
    size = {"detector_pixel_size_m": 75e-6, "position_unit": "m"}
    right = {"energy_eV": 8000.0, "detector_distance_m": 2.0}
    metres = POSITION * 1.55e-10 * 2.0 / (24 * 75e-6)
    assert written(tmp_path, COUNTS, metres, **size, **right).sizes["frame"] == 49
    for wrong in ({"energy_eV": 8.0}, {"detector_distance_m": 2000.0}):
        with pytest.raises(dp.ScanError, match="show the same place; expected 1 pixel or more"):
            written(tmp_path, COUNTS, metres, **size, **right | wrong)


def test_a_step_below_a_pixel_is_doubted() -> None:
    assert doubt_step(POSITION, SHAPE) is None
    assert doubt_step(np.repeat(POSITION, 3, axis=0), SHAPE) is None
    said = doubt_step(POSITION / 10, SHAPE)
    assert said is not None
    assert "the unit of the positions, the energy or a distance may be wrong" in said


def test_frames_at_the_rim_of_a_periodic_canvas_are_near_those_at_the_other() -> None:
    # Rounding may leave a position a trace below zero.
    position = np.array([[-1e-17, 0.0], [30.0, -1e-17], [30.0, 30.0]])
    assert doubt_distance(position, (16, 16), (32, 32)) is None
    assert "share no pixel" in str(doubt_distance(position, (16, 16)))


def test_a_frame_that_was_read_out_twice_is_named(tmp_path: Path) -> None:
    counts = COUNTS.copy()
    counts[21] = counts[20]
    with pytest.warns(UserWarning, match="frame 21 holds exactly the counts of an earlier frame"):
        written(tmp_path, counts, POSITION)


@pytest.mark.parametrize("photons", [None, 12.0])
def test_a_specimen_that_repeats_and_dim_frames_are_not_taken_for_a_faulty_readout(
    tmp_path: Path, photons: float | None
) -> None:
    """Without noise, two frames of 36 are the same; with 12 photons in four pixels, several are by chance."""
    counts = np.exp(np.random.default_rng(4).normal(size=(36, 24, 24)))
    position = np.mgrid[0:6, 0:6].reshape(2, -1).T * 4.0
    if photons is None:
        counts[29] = counts[3]
    else:
        counts = np.zeros((36, 24, 24), dtype=np.int64)
        counts[:, 11:13, 11:13] = np.random.default_rng(4).poisson(photons / 4, (36, 2, 2))
        counts[20] = counts[13]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        written(tmp_path, counts, position)
    assert not [one for one in said if "exactly the counts" in str(one.message)]


def test_a_frame_without_noise_that_repeats_the_one_before_is_named(tmp_path: Path) -> None:
    counts = np.exp(np.random.default_rng(4).normal(size=(36, 24, 24)))
    counts[21] = counts[20]
    with pytest.warns(UserWarning, match="frame 21 holds exactly the counts of an earlier frame"):
        written(tmp_path, counts, np.mgrid[0:6, 0:6].reshape(2, -1).T * 4.0)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_corner_is_told_from_a_centre_elsewhere(tmp_path: Path, shifted: bool) -> None:
    counts = np.fft.ifftshift(COUNTS, axes=(1, 2)) if shifted else COUNTS
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        written(tmp_path, counts, POSITION)
    words = [str(one.message) for one in said]
    assert len(words) == shifted
    assert all("--zero-frequency corner" in one for one in words)
