"""Bytes that change in a store are noticed, and masks of arrays are not dropped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.errors import FaultError, ScanError

FRAMES, SIZE = 9, 8


def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(50, (FRAMES, SIZE, SIZE)).astype(np.uint16)


POSITION = np.argwhere(np.ones((3, 3))) * 4.0


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    dp.create_scan(
        tmp_path / "s.zarr", counts(), POSITION, position_unit="pixel", probe=np.ones((SIZE, SIZE))
    )
    return tmp_path / "s.zarr"


def flip(path: Path, at: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(bytes(content))


def test_every_byte_that_changes_inside_a_shard_is_noticed(scan: Path) -> None:
    shard = scan / "intensity" / "c" / "0" / "0" / "0"
    whole = shard.read_bytes()
    for at in range(0, len(whole), 37):
        flip(shard, at)
        with pytest.raises((ValueError, RuntimeError)):
            dp.open_scan(scan)["intensity"].compute()
        shard.write_bytes(whole)
    np.testing.assert_array_equal(dp.open_scan(scan).sortby("frame_number")["intensity"], counts())


def test_run_on_a_damaged_shard_ends_in_words(scan: Path, pauses: list[float]) -> None:
    flip(scan / "intensity" / "c" / "0" / "0" / "0", 40)
    with pytest.raises(FaultError, match="frames of the scan cannot be read"):
        dp.reconstruct(dp.open_scan(scan), sweeps=1)


@pytest.mark.parametrize("name", ["position", "probe"])
def test_damaged_positions_and_probes_are_refused(name: str, scan: Path) -> None:
    chunk = next(path for path in (scan / name / "c").rglob("*") if path.is_file())
    flip(chunk, chunk.stat().st_size // 2)
    with pytest.raises(ScanError, match=r"s\.zarr is damaged: .*copy it again"):
        dp.open_scan(scan)


def test_damaged_result_is_refused(scan: Path, tmp_path: Path) -> None:
    dp.reconstruct(dp.open_scan(scan), tmp_path / "r.zarr", sweeps=1)
    chunk = next(path for path in (tmp_path / "r.zarr" / "object" / "c").rglob("*") if path.is_file())
    flip(chunk, chunk.stat().st_size // 2)
    with pytest.raises(ScanError, match=r"r\.zarr is damaged"):
        dp.open_result(tmp_path / "r.zarr")


def test_mask_of_all_frames_becomes_valid(tmp_path: Path) -> None:
    mask = np.zeros((FRAMES, SIZE, SIZE), dtype=bool)
    mask[:, 2, 3] = True
    masked = np.ma.masked_array(counts(), mask)
    scan = dp.create_scan(tmp_path / "s.zarr", masked, POSITION, position_unit="pixel")
    assert np.argwhere(~scan["valid"].values).tolist() == [[2, 3]]
    both = np.ones((SIZE, SIZE), dtype=bool)
    both[0, 0] = False
    scan = dp.create_scan(
        tmp_path / "s.zarr", masked, POSITION, position_unit="pixel", valid=both, overwrite=True
    )
    assert np.argwhere(~scan["valid"].values).tolist() == [[0, 0], [2, 3]]


def one_frame_masked() -> np.ma.MaskedArray:
    mask = np.zeros((FRAMES, SIZE, SIZE), dtype=bool)
    mask[4, 2, 3] = True
    return np.ma.masked_array(counts(), mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda: {"intensity": one_frame_masked()},
            "masked differently .*first in frame 4",
        ),
        (lambda: {"intensity": xr.DataArray(one_frame_masked())}, "masked|NaN"),
        (
            lambda: {"intensity": da.ma.masked_equal(da.from_array(counts()), 50)},
            "a dask array of masked arrays; expected plain ones",
        ),
        (
            lambda: {"position": np.ma.masked_array(POSITION, POSITION == 4)},
            "position cannot be read as an array of float64: .* of its values are masked",
        ),
    ],
    ids=["numpy", "xarray", "dask", "position"],
)
def test_other_masks_are_refused(change: Callable[[], dict], words: str, tmp_path: Path) -> None:
    arrays = {"intensity": counts(), "position": POSITION} | change()
    with pytest.raises(ScanError, match=words):
        dp.create_scan(tmp_path / "s.zarr", **arrays, position_unit="pixel")
