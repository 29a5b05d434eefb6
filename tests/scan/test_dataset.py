"""A scan is written complete or not at all, in compact tiles, and bad input is named."""

from __future__ import annotations

import json
import pickle
import shutil
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.errors import OptionError, ScanError
from daskptycho.scan.dataset import (
    create_scan,
    default_tile_frames,
    open_scan,
    pixel_size,
    position_in_pixels,
    scan_period,
    tile_chunks,
    validate_scan,
)
from daskptycho.tiling import compact_order

GEOMETRY = {"energy_eV": 7200.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}


def raster(rows: int, columns: int, step: float = 2.0) -> np.ndarray:
    return np.array([(y, x) for y in range(rows) for x in range(columns)], dtype=float) * step


def small_scan(**changes: Any) -> dict[str, Any]:
    """Arguments of a good scan of 5 x 6 frames of 8 x 8 pixels, with the changes of a test."""
    frames = np.random.default_rng(3).poisson(4, (30, 8, 8))
    good = {"intensity": frames, "position": raster(5, 6), "position_unit": "pixel", "tile_frames": 8}
    return good | changes


def with_value(value: float, *where: tuple[int, int, int]) -> np.ndarray:
    frames = small_scan()["intensity"].astype(float)
    for index in where:
        frames[index] = value
    return frames


def move_frame(frame: int, y: float, x: float) -> np.ndarray:
    position = raster(5, 6)
    position[frame] = y, x
    return position


# What is written comes back


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_frames_come_back_under_their_number(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    frames, height, width = (data.draw(st.integers(low, high)) for low, high in ((1, 40), (2, 5), (2, 5)))
    tile = data.draw(st.integers(1, 50))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    intensity = random.integers(0, 9, (frames, height, width))
    position = random.uniform(0, 9, (frames, 2))
    url = tmp_path_factory.mktemp("scan") / "s.zarr"
    ds = create_scan(url, intensity, position, position_unit="pixel", tile_frames=tile)
    number = ds["frame_number"].values
    assert sorted(number) == list(range(frames))
    np.testing.assert_array_equal(number, compact_order(position, tile))
    np.testing.assert_array_equal(ds["intensity"].values, intensity[number])
    np.testing.assert_array_equal(ds["position"].values, position[number])
    assert tile_chunks(ds) == tuple(min(tile, frames - start) for start in range(0, frames, tile))


def test_plain_xarray_opens_it_without_a_warning(tmp_path: Path) -> None:
    ones = np.ones((8, 8))
    create_scan(
        tmp_path / "s.zarr",
        **small_scan(probe=ones, valid=ones > 0, background=ones, period=(16, 20), source="here", **GEOMETRY),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xr.open_zarr(tmp_path / "s.zarr").load()
    assert ds["intensity"].dims == ("frame", "qy", "qx")
    assert ds["probe"].dims == ("mode", "y", "x")
    assert {name: ds[name].dtype for name in ds} == {
        "intensity": "uint16",
        "position": "float64",
        "frame_number": "int64",
        "valid": "bool",
        "background": "float32",
        "probe": "complex64",
    }
    assert ds["position"].attrs["units"] == "pixel"
    assert ds.attrs["format"] == "daskptycho-scan"
    assert (ds.attrs["format_version"], ds.attrs["propagation"], ds.attrs["source"]) == (
        1,
        "far-field",
        "here",
    )
    assert ds.attrs["created_by"].startswith("daskptycho ")


def test_a_tile_is_a_shard_is_a_dask_chunk(tmp_path: Path) -> None:
    ds = create_scan(tmp_path / "s.zarr", **small_scan(tile_frames=24))
    array = zarr.open_array(str(tmp_path / "s.zarr" / "intensity"), mode="r")
    assert array.shards == (24, 8, 8)
    assert array.chunks == (12, 8, 8)
    assert ds["intensity"].chunks == ((24, 6), (8,), (8,))
    assert ds.encoding["source"] == str(tmp_path / "s.zarr")


@settings(deadline=None)
@given(st.integers(1, 10**6), st.sampled_from([8, 32, 128, 513, 3000]))
def test_default_tiles_are_balanced_and_of_bounded_size(frames: int, size: int) -> None:
    tile = default_tile_frames(frames, size, size)
    limit = max(1, 2**22 // size**2)
    assert tile <= max(limit, 16) + 15
    # No more tiles than the limit requires, and the last one is smaller by the rounding at most.
    assert -(-frames // tile) <= -(-frames // limit)
    assert tile <= 16 or tile % 16 == 0


def test_opened_scan_travels_to_a_worker(tmp_path: Path) -> None:
    ds = create_scan(tmp_path / "s.zarr", **small_scan())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ds))["intensity"], ds["intensity"])


@pytest.mark.parametrize(
    ("last", "dtype"),
    [(65535, "uint16"), (65535.0, "uint16"), (65536, "uint32"), (2**32, "float32"), (0.5, "float32")],
)
def test_narrowest_type_is_found_while_writing(tmp_path: Path, last: float, dtype: str) -> None:
    intensity = small_scan()["intensity"].astype(type(last))
    intensity[29, 7, 7] = last
    done = []
    ds = create_scan(
        tmp_path / "s.zarr",
        **small_scan(intensity=intensity, progress=lambda frames, of: done.append((frames, of))),
    )
    assert ds["intensity"].dtype == dtype
    np.testing.assert_array_equal(ds["intensity"], intensity[ds["frame_number"]])
    once = [(8, 30), (16, 30), (24, 30), (30, 30)]
    # Only the last tile does not fit: writing starts again.
    assert done == (once if dtype == "uint16" else once[:3] + once)


def test_stack_is_never_in_memory(tmp_path: Path) -> None:
    frames = da.zeros((2048, 64, 64), dtype=np.uint16, chunks=(64, -1, -1)).map_blocks(
        lambda block: block + 5
    )
    # Imports at the first write must not be counted.
    create_scan(tmp_path / "first.zarr", **small_scan(intensity=da.ones((30, 8, 8))))
    tracemalloc.start()
    try:
        create_scan(tmp_path / "s.zarr", frames, raster(64, 32), position_unit="pixel", tile_frames=128)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < frames.nbytes / 3


def test_input_is_read_one_tile_at_a_time(tmp_path: Path) -> None:
    class Recorder:
        """A dataset like h5py's: a shape, a type, and indexing by increasing frame numbers."""

        stack = small_scan()["intensity"]
        shape, dtype = stack.shape, stack.dtype
        read: list[int] = []  # noqa: RUF012

        def __getitem__(self, frames: Any) -> np.ndarray:
            block = self.stack[frames]
            self.read.append(len(block))
            return block

    create_scan(tmp_path / "s.zarr", **small_scan(intensity=Recorder()))
    assert Recorder.read == [8, 8, 8, 6]


def test_invalid_pixels_are_stored_as_zero(tmp_path: Path) -> None:
    valid = np.ones((8, 8), dtype=bool)
    valid[2, 3] = False
    intensity = with_value(np.nan, *((i, 2, 3) for i in range(30)))
    ds = create_scan(tmp_path / "s.zarr", **small_scan(intensity=intensity, valid=valid))
    assert ds["intensity"].dtype == np.uint16
    assert not ds["intensity"][:, 2, 3].values.any()
    np.testing.assert_array_equal(ds["valid"], valid)


def test_numbers_given_for_the_frames_are_kept(tmp_path: Path) -> None:
    number = np.arange(100, 130)
    ds = create_scan(tmp_path / "s.zarr", **small_scan(frame_number=number))
    assert sorted(ds["frame_number"].values) == list(number)


# The geometry


def test_pixel_size_follows_from_the_geometry(tmp_path: Path) -> None:
    ds = create_scan(
        tmp_path / "s.zarr", **small_scan(position=raster(5, 6, 1e-6), position_unit="m", **GEOMETRY)
    )
    wavelength = 1.23984198e-6 / 7200
    expected = wavelength * 2.0 / (8 * 75e-6)
    assert ds.attrs["wavelength_m"] == pytest.approx(wavelength)
    assert pixel_size(ds) == pytest.approx((expected, expected))
    assert ds.attrs["pixel_size_m"] == pytest.approx([expected, expected])
    np.testing.assert_allclose(position_in_pixels(ds), ds["position"] / expected)


def test_energy_follows_from_the_wavelength_and_pixels_may_be_oblong(tmp_path: Path) -> None:
    ds = create_scan(
        tmp_path / "s.zarr",
        **small_scan(
            intensity=np.ones((30, 8, 4)),
            wavelength_m=1e-10,
            detector_distance_m=1,
            detector_pixel_size_m=(50e-6, 100e-6),
        ),
    )
    assert ds.attrs["energy_eV"] == pytest.approx(12398.4198)
    assert pixel_size(ds) == pytest.approx((1e-10 / (8 * 50e-6), 1e-10 / (4 * 100e-6)))


def test_unknown_geometry_is_absent(tmp_path: Path) -> None:
    ds = create_scan(tmp_path / "s.zarr", **small_scan(energy_eV=7200))
    assert pixel_size(ds) is None
    assert scan_period(ds) is None
    assert set(ds.attrs) == {
        "energy_eV", "wavelength_m", "propagation", "format", "format_version", "created_by"
    }  # fmt: skip
    np.testing.assert_array_equal(position_in_pixels(ds), ds["position"])


def test_period_is_kept(tmp_path: Path) -> None:
    ds = create_scan(tmp_path / "s.zarr", **small_scan(period=np.array([16, 20])))
    assert scan_period(ds) == (16, 20)


# Bad input

ONES = np.ones((8, 8))
BAD_INPUTS = {
    "NaN": ({"intensity": with_value(np.nan, (7, 0, 0), (7, 1, 1))}, "2 NaN or infinite values in frame 7 "),
    "infinite": ({"intensity": with_value(np.inf, (29, 0, 0))}, "1 NaN or infinite value in frame 29 "),
    "negative": ({"intensity": with_value(-1, (11, 2, 2))}, "1 negative value in frame 11 .* at least 0"),
    "two dimensions": ({"intensity": ONES}, r"intensity has the dimensions .*expected \(frame, qy, qx\)"),
    "complex": ({"intensity": np.ones((30, 8, 8), complex)}, "intensity is of type complex.* real"),
    "tiny frames": ({"intensity": np.ones((30, 1, 8))}, r"intensity has the shape \(30, 1, 8\)"),
    "no frames": ({"intensity": np.ones((0, 8, 8)), "position": np.ones((0, 2))}, r"\(0, 8, 8\)"),
    "unknown size": (
        {"intensity": (lambda a: a[a[:, 0, 0] >= 0])(da.ones((30, 8, 8)))},
        "intensity has the shape .*nan.*known sizes",
    ),
    "positions too few": ({"position": raster(5, 5)}, r"position has the shape \(25, 2\); .*\(30, 2\)"),
    "positions in space": ({"position": np.ones((30, 3))}, r"position has the shape \(30, 3\)"),
    "positions flat": ({"position": np.ones(60)}, "position has the dimensions"),
    "position words": ({"position": [["a", "b"]] * 30}, "position cannot be read as an array of float64"),
    "position NaN": (
        {"position": move_frame(4, np.nan, 0)},
        "position is not finite for 1 of 30 .*frame 4",
    ),
    "position far": (
        {"position": move_frame(9, 1e5, 0)},
        r"position spans 100000 x 10 .*\(pixel\).*frame 9",
    ),
    "unit": ({"position_unit": "mm"}, "position has the unit 'mm'; expected 'm' or 'pixel'"),
    "metres, no geometry": (
        {"position_unit": "m", "detector_distance_m": 1.0},
        "without energy_eV or wavelength_m and detector_pixel_size_m; expected",
    ),
    "metres are pixels": (
        GEOMETRY | {"position_unit": "m"},
        r"position spans .* unit \(m\) or the pixel size",
    ),
    "energy, wavelength": (GEOMETRY | {"wavelength_m": 1e-10}, "wavelength_m is 1e-10 and energy_eV is 7200"),
    "no distance": (GEOMETRY | {"detector_distance_m": 0.0}, "detector_distance_m is 0.0; .*positive"),
    "infinite energy": ({"energy_eV": np.inf}, "energy_eV is inf; expected a positive"),
    "detector pixel": ({"detector_pixel_size_m": (1e-6, 1e-6, 1e-6)}, "detector_pixel_size_m is .* two"),
    "period small": ({"period": (16, 15)}, r"period is \(16, 15\) pixels; expected at least \(16, 16\)"),
    "period broken": ({"period": (16, 20.5)}, "period is .*whole numbers"),
    "period one": ({"period": 20}, "period is 20; expected two"),
    "outside period": (
        {"period": (16, 16), "position": move_frame(3, 0, 16)},
        "outside the period for 1 of 30.*frame 3",
    ),
    "negative in period": (
        {"period": (16, 16), "position": move_frame(2, -1, 0)},
        "position lies outside .*frame 2",
    ),
    "probe size": ({"probe": np.ones((1, 6, 6))}, r"probe has the shape \(1, 6, 6\); .*\(mode, 8, 8\)"),
    "probe line": ({"probe": np.ones(8)}, "probe has the dimensions"),
    "probe NaN": ({"probe": ONES * np.nan}, "probe holds 64 NaN or infinite values"),
    "probe dark": ({"probe": 0 * ONES}, "probe is zero everywhere"),
    "valid size": ({"valid": np.ones((8, 7), bool)}, r"valid has the shape \(8, 7\); .*\(8, 8\)"),
    "valid none": ({"valid": np.zeros((8, 8), bool)}, "valid is False on every pixel"),
    "valid real": ({"valid": ONES}, "valid cannot be read as an array of bool"),
    "background size": ({"background": np.ones((30, 8, 8))}, "background has the dimensions"),
    "background NaN": ({"background": ONES * np.nan}, "background holds 64 .*NaN"),
    "frame numbers": ({"frame_number": np.arange(29)}, r"frame_number has the shape \(29,\)"),
}


@pytest.mark.parametrize(("changes", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_bad_input_is_named_and_leaves_nothing(tmp_path: Path, changes: dict, words: str) -> None:
    arguments = {"url": tmp_path / "new" / "s.zarr"} | small_scan(**changes)
    with pytest.raises(ScanError, match=words):
        create_scan(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_tiles_of_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="tile_frames is 0; expected at least 1"):
        create_scan(tmp_path / "s.zarr", **small_scan(tile_frames=0))
    assert list(tmp_path.iterdir()) == []


# Complete or absent


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_write_leaves_nothing_new_and_nothing_lost(tmp_path: Path, error: type) -> None:
    url = tmp_path / "s.zarr"
    create_scan(url, **small_scan(source="first"))

    def interrupt(done: int, of: int) -> None:
        assert len(list(tmp_path.glob("*.partial"))) == 1
        raise error

    for target in (url, tmp_path / "other.zarr"):
        with pytest.raises(error):
            create_scan(target, **small_scan(source="second", overwrite=True, progress=interrupt))
    assert list(tmp_path.iterdir()) == [url]
    assert open_scan(url).attrs["source"] == "first"


def test_existing_scan_is_replaced_only_when_asked(tmp_path: Path) -> None:
    url = tmp_path / "s.zarr"
    create_scan(url, **small_scan(source="first"))
    with pytest.raises(ScanError, match=r"exists already; pass overwrite=True \(--overwrite\)"):
        create_scan(url, **small_scan(source="second"))
    assert open_scan(url).attrs["source"] == "first"
    create_scan(url, **small_scan(source="second", overwrite=True))
    assert open_scan(url).attrs["source"] == "second"
    assert list(tmp_path.iterdir()) == [url]


def test_scan_may_be_made_from_the_one_it_replaces(tmp_path: Path) -> None:
    url = tmp_path / "s.zarr"
    first = create_scan(url, **small_scan())
    doubled = first["intensity"].values * 2
    again = create_scan(
        url, first["intensity"] * 2, first["position"], position_unit="pixel", tile_frames=8, overwrite=True
    )
    np.testing.assert_array_equal(again["intensity"], doubled)


def test_anything_but_a_scan_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ScanError, match="thesis is not a Zarr group and is not overwritten"):
        create_scan(tmp_path / "thesis", **small_scan(overwrite=True))
    assert (tmp_path / "thesis" / "chapter").read_text() == "years of work"


def test_remains_of_a_killed_write_are_named(tmp_path: Path) -> None:
    create_scan(tmp_path / "s.zarr", **small_scan())
    (tmp_path / "s.zarr").rename(tmp_path / "s.zarr.partial")
    expected = r"s\.zarr\.partial exists: another write is in progress or was interrupted"
    with pytest.raises(ScanError, match=expected):
        create_scan(tmp_path / "s.zarr", **small_scan())
    create_scan(tmp_path / "s.zarr", **small_scan(overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


# Opening


def test_missing_chunk_is_found(tmp_path: Path) -> None:
    create_scan(tmp_path / "s.zarr", **small_scan())
    (tmp_path / "s.zarr" / "intensity" / "c" / "2" / "0" / "0").unlink()
    with pytest.raises(ScanError, match=r"1 of 4 chunks of intensity are missing .* first c/2/0/0"):
        open_scan(tmp_path / "s.zarr")


def test_dark_frames_are_stored_too(tmp_path: Path) -> None:
    ds = create_scan(tmp_path / "s.zarr", **small_scan(intensity=np.zeros((30, 8, 8))))
    assert not ds["intensity"].values.any()
    assert len([f for f in (tmp_path / "s.zarr" / "intensity" / "c").rglob("*") if f.is_file()]) == 4


def edit_attributes(path: Path, **changes: Any) -> None:
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"] |= changes
    (path / "zarr.json").write_text(json.dumps(group))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "does not exist; expected a scan"),
        (
            lambda path: (shutil.rmtree(path), path.write_text("x")),
            "is a file; expected a scan",
        ),
        (lambda path: (path / "zarr.json").unlink(), "holds no Zarr group"),
        (
            lambda path: ((path / "zarr.json").unlink(), (path / ".zgroup").write_text("{}")),
            "holds a Zarr group of version 2",
        ),
        (lambda path: (path / "zarr.json").write_text("{"), "cannot be read as a Zarr group"),
        (lambda path: edit_attributes(path, format="daskptycho-result"), "is a result of daskptycho"),
        (lambda path: edit_attributes(path, format=None), "is a Zarr group without a format"),
        (lambda path: edit_attributes(path, format_version=9), "format_version 9; expected 1"),
        (lambda path: shutil.rmtree(path / "position"), "position is missing"),
        (lambda path: shutil.rmtree(path / "intensity"), "intensity is missing"),
        (lambda path: edit_attributes(path, period=[3, 4]), r"period is \(3, 4\) pixels"),
    ],
)
def test_the_error_names_what_lies_there_instead_of_a_scan(tmp_path: Path, spoil: Any, words: str) -> None:
    create_scan(tmp_path / "s.zarr", **small_scan())
    spoil(tmp_path / "s.zarr")
    with pytest.raises(ScanError, match=words):
        open_scan(tmp_path / "s.zarr")


# A scan built by hand


def by_hand(**changes: Any) -> xr.Dataset:
    variables = {
        "intensity": (("frame", "qy", "qx"), small_scan()["intensity"]),
        "position": (("frame", "axis"), raster(5, 6), {"units": "pixel"}),
    }
    return xr.Dataset({name: v for name, v in (variables | changes).items() if v is not None})


def test_scan_built_by_hand_is_one_tile() -> None:
    validate_scan(by_hand())
    assert tile_chunks(by_hand()) == (30,)


@pytest.mark.parametrize(
    ("ds", "words"),
    [
        (by_hand(position=None), r"position is missing; expected a variable position \(frame, axis\)"),
        (by_hand(position=(("frame", "axis"), raster(5, 6))), "position has the unit None"),
        (
            by_hand(intensity=(("t", "y", "x"), small_scan()["intensity"])),
            r"intensity has the dimensions \(t: 30, y: 8, x: 8\); expected \(frame, qy, qx\)",
        ),
        (
            by_hand(intensity=(("frame", "qy", "qx"), with_value(-3, (1, 0, 0), (5, 0, 0)))),
            r"1 negative value in frame 1 of the input \(2 such frames",
        ),
        (by_hand(valid=(("qy", "qx"), ONES)), "valid is of type float64; expected bool"),
        (by_hand().to_dataarray(), "the scan is a DataArray; expected an xarray.Dataset"),
    ],
)
def test_scan_built_by_hand_is_checked(ds: Any, words: str) -> None:
    with pytest.raises(ScanError, match=words):
        validate_scan(ds)


def test_pixel_size_is_derived_from_the_geometry_alone() -> None:
    ds = by_hand().assign_attrs(GEOMETRY)
    assert pixel_size(ds) == pytest.approx((1.23984198e-6 / 7200 * 2 / (8 * 75e-6),) * 2)
