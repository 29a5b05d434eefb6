"""Pixels that do not count are masked and said, or refused with the option that masks them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests.smooth_rendering import error_of, frames_at, probe_of, raster

POSITION = raster()
COUNTS = frames_at(POSITION)
DEAD = np.zeros(COUNTS.shape[1:], dtype=bool)
DEAD[5, 7] = DEAD[15, 2] = DEAD[19] = True


def written(folder: Path, counts: np.ndarray, **options: Any) -> xr.Dataset:
    options = {"probe": probe_of(), "position_unit": "pixel", "overwrite": True} | options
    return dp.create_scan(folder / "s.zarr", counts, POSITION, **options)


def with_code(code: float, dtype: str, frames: slice = slice(None)) -> np.ndarray:
    counts = COUNTS.astype(dtype)
    counts[frames, DEAD] = code
    return counts


CODES = [
    (2**32 - 1, "u4"),
    (65535, "u2"),
    (65535, "u4"),
    (2**31 - 1, "i4"),
    (2**32 - 1, "f4"),
    (2**32 - 1, "i8"),
    (2**20 - 1, "u4"),
    (-1, "i4"),
    (-2, "i2"),
    (-32768, "i2"),
    (-1, "f8"),
    (np.nan, "f4"),
    (np.inf, "f8"),
]


@pytest.mark.parametrize("tile_frames", [64, 9, 3], ids=lambda n: f"{n} a tile")
@pytest.mark.parametrize(("code", "dtype"), CODES, ids=str)
def test_pixels_that_hold_a_code_are_masked_and_said(
    tmp_path: Path, code: float, dtype: str, tile_frames: int
) -> None:
    with pytest.warns(UserWarning, match=r"26 pixels with .* taken as not valid"):
        scan = written(tmp_path, with_code(code, dtype), tile_frames=tile_frames)
    np.testing.assert_array_equal(scan["valid"], ~DEAD)
    assert scan["intensity"].dtype == np.uint16
    assert not scan["intensity"].values[:, DEAD].any()
    np.testing.assert_array_equal(scan["intensity"].values[:, ~DEAD], COUNTS[scan["frame_number"]][:, ~DEAD])


def test_an_image_with_masked_codes_is_as_good_as_without(tmp_path: Path) -> None:
    errors = []
    for counts in (COUNTS, with_code(2**32 - 1, "u4")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = dp.reconstruct(written(tmp_path, counts), sweeps=30, update_probe=False)
        errors.append(error_of(*(result[name].values for name in ("object", "y", "x", "illumination"))))
    # 4.5 % of the detector is missing; with the codes the error is near one.
    assert errors[1] < 1.1 * errors[0] < 0.014


def test_a_mask_that_is_given_is_kept_and_widened(tmp_path: Path) -> None:
    given = np.ones(DEAD.shape, dtype=bool)
    given[0, 0] = given[5, 7] = False
    with pytest.warns(UserWarning, match="25 pixels with 65535"):
        scan = written(tmp_path, with_code(65535, "u2"), valid=given)
    np.testing.assert_array_equal(scan["valid"], given & ~DEAD)


def test_good_counts_are_not_touched(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for counts in (COUNTS, COUNTS.astype("u2"), COUNTS / 7.0, np.zeros(COUNTS.shape)):
            assert "valid" not in written(tmp_path, counts)
            assert "frame_used" not in dp.open_scan(tmp_path / "s.zarr")


def stuck(frames: np.ndarray) -> None:
    frames[:, 3, 4] = 4000


def hot(frames: np.ndarray) -> None:
    frames[:, 3, 4] = np.random.default_rng(1).poisson(900, len(frames))


def dead(frames: np.ndarray) -> None:
    frames[:, 12, 14] = 0


@pytest.mark.parametrize(
    ("spoil", "where", "words"),
    [
        (stuck, (3, 4), "1 pixel with one and the same count in every frame"),
        (hot, (3, 4), "1 pixel far above all neighbours in every frame"),
        (dead, (12, 14), "1 pixel without counts, between others that have some"),
    ],
    ids=["stuck", "hot", "dead"],
)
def test_stuck_hot_and_dead_pixels_are_masked(
    tmp_path: Path, spoil: Any, where: tuple[int, int], words: str
) -> None:
    counts = COUNTS.copy()
    spoil(counts)
    with pytest.warns(UserWarning, match=words):
        scan = written(tmp_path, counts)
    assert np.argwhere(~scan["valid"].values).tolist() == [list(where)]


# Negative counts


def test_counts_that_wrapped_round_are_refused_with_the_option(tmp_path: Path) -> None:
    below = np.random.default_rng(2).poisson(3, COUNTS.shape)
    wrapped = (COUNTS - below).astype("u2")
    with pytest.raises(dp.ScanError, match=r"jumps in .* below zero .*clip_negative=True"):
        written(tmp_path, wrapped)
    with pytest.warns(UserWarning, match="clip_negative: .* counts were below zero"):
        scan = written(tmp_path, wrapped, clip_negative=True)
    np.testing.assert_array_equal(
        scan["intensity"], np.maximum(COUNTS - below, 0)[scan["frame_number"].values]
    )


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_negative_counts_are_refused_with_the_option(tmp_path: Path, dtype: str) -> None:
    below = np.random.default_rng(2).poisson(3, COUNTS.shape)
    counts = (COUNTS - below).astype(dtype)
    with pytest.raises(dp.ScanError, match=r"negative values .*clip_negative, --clip-negative"):
        written(tmp_path, counts)
    with pytest.warns(UserWarning, match="clip_negative"):
        scan = written(tmp_path, counts, clip_negative=True)
    np.testing.assert_array_equal(scan["intensity"], np.maximum(counts, 0)[scan["frame_number"].values])
    assert "valid" not in scan


def test_codes_are_masked_before_counts_are_clipped(tmp_path: Path) -> None:
    for code, dtype in ((65535, "u2"), (-1, "i4")):
        with pytest.warns(UserWarning, match="26 pixels with"):
            scan = written(tmp_path, with_code(code, dtype), clip_negative=True)
        np.testing.assert_array_equal(scan["valid"], ~DEAD)


def test_clipping_is_refused_where_it_cannot_be_told_what_is_below_zero(tmp_path: Path) -> None:
    counts = COUNTS.astype("u2")
    counts[4, 3, 3] = 40000
    with pytest.raises(dp.ScanError, match="cannot tell which counts of uint16 are below zero"):
        written(tmp_path, counts, clip_negative=True)


# Codes that the user names


@pytest.mark.parametrize(("code", "dtype"), [(2**32 - 1, "u4"), (77777, "i4"), (np.nan, "f4")], ids=str)
def test_a_named_code_masks_its_pixels_wherever_it_appears(tmp_path: Path, code: float, dtype: str) -> None:
    counts = with_code(code, dtype, slice(2, None, 7))
    with pytest.warns(UserWarning, match="mask_value .*26 pixels masked"):
        scan = written(tmp_path, counts, mask_value=code, tile_frames=9)
    np.testing.assert_array_equal(scan["valid"], ~DEAD)


def test_a_code_in_few_frames_is_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(dp.ScanError, match=r"--mask-value 4294967295"):
        written(tmp_path, with_code(2**32 - 1, "u4", slice(2, None, 7)))


def test_saturated_counts_are_believed_and_said(tmp_path: Path) -> None:
    counts = COUNTS.astype("u2")
    brightest = np.unravel_index(np.argmax(counts.sum(axis=0)), counts.shape[1:])
    counts[:3, brightest[0], brightest[1]] = 65535
    with pytest.warns(UserWarning, match="3 counts are 65535, the largest of uint16, and are believed"):
        written(tmp_path, counts)


def test_a_detector_of_codes_is_refused(tmp_path: Path) -> None:
    counts = COUNTS.astype("u2")
    counts[:, 4:] = 65535
    with pytest.raises(
        dp.ScanError, match="intensity cannot be believed: of 576 pixels, 480 pixels with 65535"
    ):
        written(tmp_path, counts)
    with pytest.raises(dp.OptionError, match="mask_value is 'many'; expected a number"):
        written(tmp_path, counts, mask_value="many")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["u4", "f4"])
def test_counts_that_were_multiplied_are_said(tmp_path: Path, dtype: str) -> None:
    counts = (50 * COUNTS.astype("u4")).astype(dtype)
    with pytest.warns(UserWarning, match="the counts are multiples of 50: .*: divide by 50$"):
        written(tmp_path, counts)


@pytest.mark.parametrize("counts", [COUNTS, 50 * (COUNTS > 0)], ids=["photons", "two levels"])
def test_counts_that_may_be_photons_are_taken_in_silence(tmp_path: Path, counts: np.ndarray) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        written(tmp_path, counts)
    assert not any("multiples" in str(warning.message) for warning in caught)
