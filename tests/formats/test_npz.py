"""npz archives become scans: keys guessed or named, the zero frequency brought to N//2."""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskptycho as dp
from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file
from daskptycho.scan.dataset import create_scan

SIEMENS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "siemens-star-small.npz.bz2"


def centred_frames(frames: int = 20, shape: tuple[int, int] = (8, 9)) -> np.ndarray:
    """Counts in detector order, brightest at N//2."""
    y, x = (np.arange(n) - n // 2 for n in shape)
    bright = 100 * np.exp(-(y[:, None] ** 2 + x**2) / 4)
    return np.random.default_rng(0).poisson(bright, (frames, *shape)).astype(np.float32)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def good(**changes: Any) -> dict[str, Any]:
    arrays = {"data": centred_frames(), "scan": np.random.default_rng(1).uniform(0, 30, (20, 2))} | changes
    return {name: array for name, array in arrays.items() if array is not None}


def test_keys_are_guessed_and_leading_ones_dropped(tmp_path: Path) -> None:
    arrays = good()
    path = write(
        tmp_path / "a.npz",
        Diffraction=arrays["data"][None],
        positions=arrays["scan"][None, None],
        probe=np.ones((1, 1, 3, 8, 9)),
        mask=np.ones((8, 9)),
    )
    read = read_file(path)
    assert set(read) == {"intensity", "position", "probe", "source"}
    np.testing.assert_array_equal(read["intensity"][:], arrays["data"])
    np.testing.assert_array_equal(read["position"], arrays["scan"])
    assert read["probe"].shape == (3, 8, 9)
    assert read["source"] == "a.npz"


def test_keys_may_be_named_and_axes_swapped(tmp_path: Path) -> None:
    arrays = good()
    valid = np.ones((1, 8, 9))
    valid[0, 2, 3] = 0
    path = write(
        tmp_path / "a.npz",
        data=np.zeros(3),
        detector=arrays["data"],
        xy=arrays["scan"],
        beam=np.ones((8, 9)),
        good=valid,
        dark=np.ones((8, 9)),
    )
    read = read_file(
        path,
        intensity_key="detector",
        position_key="xy",
        probe_key="beam",
        valid_key="good",
        background_key="dark",
        position_axes="xy",
    )
    np.testing.assert_array_equal(read["position"], arrays["scan"][:, ::-1])
    assert read["probe"].shape == (1, 8, 9)
    assert read["valid"].dtype == bool
    assert not read["valid"][2, 3]
    assert read["background"].shape == (8, 9)


@pytest.mark.parametrize("opener", [bz2.open, lzma.open, gzip.open])
def test_compression_is_recognised_by_content_not_by_name(tmp_path: Path, opener: Any) -> None:
    plain = write(tmp_path / "a.npz", **good()).read_bytes()
    path = tmp_path / "measured.dat"
    with opener(path, "wb") as file:
        file.write(plain)
    np.testing.assert_array_equal(read_file(path)["intensity"][:], good()["data"])


def test_zero_frequency_in_the_corner_is_rolled_to_the_middle(tmp_path: Path) -> None:
    frames = centred_frames()
    # For odd sizes fftshift differs from its inverse.
    valid = frames[0] > 0
    path = write(
        tmp_path / "a.npz",
        **good(data=np.fft.ifftshift(frames, axes=(1, 2))),
        valid=np.fft.ifftshift(valid),
        background=np.fft.ifftshift(frames[1]),
    )
    read = read_file(path, zero_frequency="corner", valid_key="valid", background_key="background")
    np.testing.assert_array_equal(read["intensity"][:], frames)
    np.testing.assert_array_equal(read["valid"], valid)
    np.testing.assert_array_equal(read["background"], frames[1])


@pytest.mark.parametrize(("true", "claimed"), [("centre", "corner"), ("corner", "centre")])
def test_frames_that_contradict_the_claim_are_noticed(tmp_path: Path, true: str, claimed: str) -> None:
    frames = centred_frames() if true == "centre" else np.fft.ifftshift(centred_frames(), axes=(1, 2))
    path = write(tmp_path / "a.npz", **good(data=frames))
    with pytest.warns(UserWarning, match=r"zero frequency .*--zero-frequency corner, or without it"):
        dp.import_scan(path, tmp_path / "a.zarr", zero_frequency=claimed, position_unit="pixel")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dp.import_scan(path, tmp_path / "b.zarr", zero_frequency=true, position_unit="pixel")


def test_frames_and_probe_in_the_corner_are_moved_and_it_is_said(tmp_path: Path) -> None:
    frames = centred_frames()
    probe = np.sqrt(frames[0]) + 0j
    path = write(
        tmp_path / "a.npz",
        **good(data=np.fft.ifftshift(frames, axes=(1, 2))),
        probe=np.fft.ifftshift(probe),
    )
    with (
        pytest.warns(UserWarning, match="frequency is taken to lie there .--zero-frequency centre"),
        pytest.warns(UserWarning, match=r"the probe of a\.npz is brightest round the corner"),
    ):
        read = read_file(path)
    np.testing.assert_array_equal(read["intensity"][:], frames)
    np.testing.assert_array_equal(read["probe"][0], probe)


def test_beam_beside_the_middle_is_not_taken_for_one_in_the_corner(tmp_path: Path) -> None:
    # All counts lie near one corner, as behind a shifted detector, and none near the other three.
    frames = np.zeros((20, 16, 16))
    frames[:, 1:5, 1:5] = 100
    path = write(tmp_path / "a.npz", **good(data=frames))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_file(path)["intensity"][:], frames)


def test_flat_frames_contradict_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", **good(data=np.ones((20, 8, 8))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for claimed in ("centre", "corner"):
            read_file(path, zero_frequency=claimed)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        (
            {"frames_2": np.ones((4, 8, 9)), "scan": np.ones((4, 2))},
            {},
            r"not found in .*holds frames_2 \(4 x 8 x 9 float64\), scan \(4 x 2 float64\); .*--intensity-key",
        ),
        (good(scan=None), {}, r"20 frames and no positions; .*--position-key"),
        (good(), {"probe_key": "beam"}, r"probe is not found .*data \(20 x 8 x 9 float32\).*expected 'beam'"),
        (good(), {"intensity_key": "scan"}, r"intensity \(scan\) is 20 x 2 float64; expected counts"),
        (good(scan=np.ones(20)), {}, "20 frames and no positions"),
        (
            good(scan=np.ones(20)),
            {"position_key": "scan"},
            r"scan is float64 of the shape \(20,\); expected pos",
        ),
        (good(data=np.array([{}], dtype=object)), {}, r"intensity is not found .*data \(1 object\)"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict, options: dict, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        read_file(write(tmp_path / "a.npz", **arrays), **options)


def test_four_dimensional_frames_are_a_raster(tmp_path: Path) -> None:
    frames = centred_frames()
    path = write(tmp_path / "a.npz", data=frames.reshape(4, 5, 8, 9))
    read = read_file(path, scan_step_m=2e-6)
    np.testing.assert_array_equal(read["intensity"][:], frames)
    np.testing.assert_allclose(read["position"][[0, 1, 5]], [[0, 0], [0, 2e-6], [2e-6, 0]])
    (tmp_path / "p.txt").write_text("\n".join(f"{n} {2 * n}" for n in range(20)))
    assert read_file(path, position_file=tmp_path / "p.txt")["position"][3].tolist() == [3, 6]


@pytest.mark.parametrize(
    "options",
    [{"zero_frequency": "middle"}, {"position_axes": "zyx"}],
    ids=lambda options: next(iter(options)),
)
def test_unknown_options_are_refused(tmp_path: Path, options: dict) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(OptionError, match=f"{name} is '{value}'; expected"):
        read_file(write(tmp_path / "a.npz", **good()), **options)


def test_files_other_than_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ScanError, match=r"a\.npz does not exist"):
        read_file(path)
    with pytest.raises(ScanError, match="is a folder without a Zarr store or TIFF files; exp"):
        read_file(tmp_path)
    path.write_text("frames follow")
    with pytest.raises(ScanError, match="is of no known format; expected one of: npz"):
        read_file(path)
    whole = bz2.compress(write(tmp_path / "b.npz", **good(data=centred_frames(100))).read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanError, match="cannot be read as an npz archive"):
        read_file(path)


@pytest.mark.skipif(not SIEMENS.exists(), reason="the Siemens star is not in ../shared/data")
def test_siemens_star_is_imported(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_file(SIEMENS, zero_frequency="corner")
    ds = create_scan(tmp_path / "s.zarr", **read, position_unit="pixel")
    assert ds["intensity"].shape == (516, 128, 128)
    assert ds["intensity"].dtype == np.uint16
    assert ds["probe"].shape == (1, 128, 128)
    assert "pixel_size_m" not in ds.attrs
    counts = ds["intensity"].sum(("qy", "qx")).values
    assert 430_000 < counts.min() < counts.max() < 492_000
    # In detector order the bright field lies round the middle.
    assert ds["intensity"].isel(frame=0, qy=slice(32, 96), qx=slice(32, 96)).sum() > 0.9 * counts[0]
