"""What a run leaves: coordinates in the scan's own unit, a store that plain xarray reads, its options."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

import daskptycho as dp
from daskptycho.run.result import Outcome, assemble_canvas, make_result, open_result, write_result
from daskptycho.tasks.spec import place
from tests import plain

ENERGY = {"energy_eV": 7200.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}


def sweep_of(residual: float) -> Any:
    return SimpleNamespace(residual=residual, disagreement=np.nan, spread=np.nan, seconds=0.5)


def result_of(ds: xr.Dataset, image: np.ndarray, chunks: tuple[int, ...], sweeps: int = 2) -> xr.Dataset:
    """The result of a run that ended with this image on the canvas."""
    tiling = plain.tiling_of(ds, chunks)
    images = []
    for tile in tiling.tiles:
        y = np.arange(tile.window.height) + tile.window.y - tiling.window.y
        x = np.arange(tile.window.width) + tile.window.x - tiling.window.x
        images.append(place(image[np.ix_(y % image.shape[0], x % image.shape[1])].astype(np.complex64)))
    lit = [place(np.ones(tile.window.shape, dtype=np.float32)) for tile in tiling.tiles]
    found = Outcome(images, lit, {"probe": ds["probe"].values})
    history = [sweep_of(0.1 / n) for n in range(1, sweeps + 1)]
    return make_result(ds, tiling, found, history, {"sweeps": sweeps, "algorithm": "ap"})


# The canvas


@pytest.mark.parametrize(
    "scan", [{"step": 6}, {"periodic": True, "frames": (6, 5)}], ids=["plain", "periodic"]
)
@pytest.mark.parametrize("tile", [1, 4, 100])
def test_tiles_come_together_on_the_canvas(scan: dict, tile: int) -> None:
    ds = plain.scan(**scan)
    count = ds.sizes["frame"]
    chunks = tuple(min(tile, count - start) for start in range(0, count, tile))
    tiling = plain.tiling_of(ds, chunks)
    canvas = plain.complex_noise(np.random.default_rng(0), tiling.window.shape)
    result = result_of(ds, canvas, chunks)
    np.testing.assert_array_equal(result["frame_number"], np.arange(count))
    found = result["object"].values
    covered = plain.illumination_of(ds) > 0
    np.testing.assert_array_equal(found[covered], canvas[covered])
    if tile == 1:
        # Where no tile is, there is nothing.
        assert not found[~covered].any()


def test_canvas_keeps_the_type_of_the_tiles() -> None:
    tiling = plain.tiling_of(plain.scan(frames=(2, 2)))
    for dtype in (np.complex64, np.float32):
        image = np.ones(tiling.tiles[0].window.shape, dtype=dtype)
        assert assemble_canvas(tiling, [place(image)]).dtype == dtype


# Coordinates


@pytest.mark.parametrize("offset", [(0.0, 0.0), (1000.0, -37.0), (-0.25, 0.4)])
@pytest.mark.parametrize("unit", ["pixel", "m"])
def test_a_frame_covers_the_coordinates_from_its_position(tmp_path: Path, unit: str, offset: tuple) -> None:
    """A run from the true object: at position p, over N pixels, lies what the frame saw."""
    made = plain.scan(frames=(3, 4))
    # Not square, so that the object's pixels are not square either.
    size = (1.0, 1.0)
    if unit == "m":
        reach = 1.23984198e-6 / ENERGY["energy_eV"] * ENERGY["detector_distance_m"]
        size = tuple(reach / (n * ENERGY["detector_pixel_size_m"]) for n in (12, 10))
    ds = dp.create_scan(
        tmp_path / "scan.zarr",
        made["intensity"].values,
        (made["position"].values + offset) * size,
        probe=made["probe"].values,
        position_unit=unit,
        tile_frames=4,
        **(ENERGY if unit == "m" else {}),
    )
    truth = made["truth_object"].values
    result = dp.reconstruct(
        ds, sweeps=1, start=truth, update_probe=False, subpixel=False, sync=dp.Sync(method=None)
    )
    assert result["object"].shape == truth.shape
    for axis, step in zip(("y", "x"), size, strict=True):
        assert result[axis].attrs["units"] == unit
        np.testing.assert_allclose(np.diff(result[axis]), step, rtol=1e-6)
    np.testing.assert_array_equal(result["position"], ds["position"])
    assert result["position"].attrs["units"] == unit
    corners = np.rint(made["position"].values).astype(int)
    by_position = {tuple(np.rint(p).astype(int)): p for p in (result["position"].values / size - offset)}
    for y, x in corners:
        at = (by_position[y, x] + offset) * size
        part = result["object"].sel(
            # Half a pixel of room on both sides for positions between pixels.
            y=slice(at[0] - 0.5 * size[0], at[0] + 11.49 * size[0]),
            x=slice(at[1] - 0.5 * size[1], at[1] + 9.49 * size[1]),
        )
        assert part.shape == (12, 10)
        assert plain.relative(part.values, truth[y : y + 12, x : x + 10]) < 1e-3


def test_pixels_without_geometry_get_no_scale() -> None:
    ds = plain.scan(frames=(2, 2))
    result = result_of(ds, np.ones(plain.tiling_of(ds).window.shape), (4,))
    assert "pixel_size_m" not in result.attrs
    assert result["y"].attrs["units"] == result["x"].attrs["units"] == "pixel"


def test_positions_in_pixels_with_geometry_stay_in_pixels() -> None:
    ds = plain.scan(frames=(2, 2))
    ds.attrs |= ENERGY
    result = result_of(ds, np.ones(plain.tiling_of(ds).window.shape), (4,))
    assert result["y"].attrs["units"] == "pixel"
    np.testing.assert_allclose(np.diff(result["x"]), 1)
    reach = 1.23984198e-6 / 7200 * 2.0
    np.testing.assert_allclose(
        result.attrs["pixel_size_m"], [reach / 12 / 75e-6, reach / 10 / 75e-6], rtol=1e-6
    )


def test_the_truth_of_a_simulation_lies_at_the_same_coordinates(tmp_path: Path) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", frames=(4, 4), frame_size=16, step=4, jitter=1)
    truth = ds["truth_object"]
    result = dp.reconstruct(ds, sweeps=1, start=truth.values, update_probe=False, sync=dp.Sync(method=None))
    np.testing.assert_array_equal(result["y"], truth["object_y"])
    np.testing.assert_array_equal(result["x"], truth["object_x"])


# Contents


def test_variables_and_attributes() -> None:
    ds = plain.scan(frames=(2, 3), modes=2)
    ds.attrs["source"] = "the beamline"
    shape = plain.tiling_of(ds).window.shape
    result = result_of(ds, np.ones(shape), (4, 2), sweeps=3)
    assert result["object"].dims == ("y", "x")
    assert result["object"].dtype == np.complex64
    assert result["illumination"].dims == ("y", "x")
    assert result["probe"].shape == (2, 12, 10)
    assert result["probe"].dtype == np.complex64
    assert result["position"].dims == ("frame", "axis")
    for name in ("residual", "disagreement", "spread", "seconds"):
        assert result[name].dims == ("sweep",)
    np.testing.assert_array_equal(result["sweep"], [1, 2, 3])
    np.testing.assert_allclose(result["residual"], [0.1, 0.05, 0.1 / 3])
    assert result["seconds"].attrs["units"] == "s"
    assert result["spread"].attrs["units"] == "rad"
    assert json.loads(result.attrs["options"]) == {"sweeps": 3, "algorithm": "ap"}
    assert result.attrs["version"] == dp.__version__
    assert result.attrs["source"] == "the beamline"
    assert result.attrs["format"] == "daskptycho-result"


def test_modes_of_the_result_are_orthogonal() -> None:
    ds = plain.scan(frames=(2, 2), modes=3)
    probe = ds["probe"].values
    mixture, _ = np.linalg.qr(plain.complex_noise(np.random.default_rng(0), (3, 3)))
    ds["probe"] = (("mode", "y", "x"), np.tensordot(mixture, probe, axes=1).astype(np.complex64))
    found = result_of(ds, np.ones(plain.tiling_of(ds).window.shape), (4,))["probe"].values
    flat = found.reshape(3, -1)
    powers = flat.conj() @ flat.T
    np.testing.assert_allclose(powers - np.diag(np.diag(powers)), 0, atol=1e-4 * powers[0, 0].real)
    incoherent = (abs(probe) ** 2).sum(axis=0)
    np.testing.assert_allclose((abs(found) ** 2).sum(axis=0), incoherent, atol=1e-5 * incoherent.max())


# The store


def test_plain_xarray_reads_the_store_without_a_word(tmp_path: Path) -> None:
    ds = plain.scan(frames=(2, 3))
    result = result_of(
        ds, plain.complex_noise(np.random.default_rng(0), plain.tiling_of(ds).window.shape), (6,)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_result(result, tmp_path / "r.zarr")
        opened = xr.open_zarr(tmp_path / "r.zarr").load()
        again = open_result(tmp_path / "r.zarr")
    xr.testing.assert_identical(opened, result)
    xr.testing.assert_identical(again, result)
    for name in result.variables:
        assert opened[name].dtype == result[name].dtype


@pytest.mark.parametrize("unit", ["pixel", "m"])
def test_a_finished_run_is_read_back_as_it_was_returned(tmp_path: Path, unit: str) -> None:
    made = plain.scan(frames=(3, 3))
    scale = 1.0 if unit == "pixel" else 1e-8
    ds = dp.create_scan(
        tmp_path / "scan.zarr",
        made["intensity"].values,
        made["position"].values * scale,
        probe=made["probe"].values,
        position_unit=unit,
        tile_frames=4,
        **(ENERGY if unit == "m" else {}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = dp.reconstruct(ds, tmp_path / "r.zarr", sweeps=3)
        opened = xr.open_zarr(tmp_path / "r.zarr").load()
    xr.testing.assert_identical(opened, result)
    assert opened.attrs["source"] == str(tmp_path / "scan.zarr")
    options = json.loads(opened.attrs["options"])
    assert options["sweeps"] == 3
    assert options["algorithm"] == "ap"
    assert options["update_probe"] is True
    assert options["sync"]["method"] == "two-level"


def test_nothing_to_open_is_told(tmp_path: Path) -> None:
    with pytest.raises(dp.ScanError, match=r"nowhere\.zarr does not exist; expected a result"):
        open_result(tmp_path / "nowhere.zarr")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(dp.ScanError, match=r"notes\.txt is a file; expected a result"):
        open_result(tmp_path / "notes.txt")
    with pytest.raises(dp.OptionError, match="names no store"):
        open_result("s3://bucket")


def test_a_scan_is_no_result(tmp_path: Path) -> None:
    dp.simulate_scan(tmp_path / "s.zarr", frames=(2, 2), frame_size=8, step=4)
    with pytest.raises(dp.ScanError, match=r"is a daskptycho-scan; expected a result \(daskptycho-result\)"):
        open_result(tmp_path / "s.zarr")


def test_another_zarr_group_is_no_result(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "g.zarr", mode="w")
    with pytest.raises(dp.ScanError, match=r"g\.zarr .* a result"):
        open_result(tmp_path / "g.zarr")


def test_results_of_earlier_versions_open_with_the_names_of_today(tmp_path: Path) -> None:
    made = plain.scan(frames=(3, 3))
    result = dp.reconstruct(made, sweeps=2).assign(disagreement=("sweep", [0.2, 0.1]))
    write_result(result.rename(disagreement="consensus"), LocalStore(tmp_path / "old.zarr"))
    xr.testing.assert_identical(open_result(tmp_path / "old.zarr"), result)
    old = xr.open_zarr(tmp_path / "old.zarr")
    assert "<td>disagreement</td>" in old.ptycho._repr_html_()
    assert any("disagreement" in axes.get_ylabel() for axes in dp.plot_result(old).axes)
