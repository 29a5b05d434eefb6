"""Exports open with the readers of other packages, have the pixel size, and are complete or absent."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
from click.testing import CliRunner, Result

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.errors import OptionError, ScanError
from tests.formats import sources

PIXEL_M = (2e-8, 3e-8)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """A reconstruction in metres whose pixels are not square."""
    folder = tmp_path_factory.mktemp("result")
    truth = sources.simulated(folder)
    scan = dp.create_scan(
        folder / "s.zarr",
        truth["intensity"].values,
        truth["position"].values * PIXEL_M,
        probe=truth["probe"],
        pixel_size_m=PIXEL_M,
        energy_eV=8000,
    )
    return dp.reconstruct(scan, folder / "r.zarr", sweeps=3, update_probe=False)


@pytest.fixture
def stored(result: xr.Dataset, tmp_path: Path) -> Path:
    from daskptycho.run.result import write_result

    write_result(result, tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(daskptycho, [str(argument) for argument in arguments])


def test_tiff_has_phase_amplitude_and_pixel_size(result: xr.Dataset, tmp_path: Path) -> None:
    dp.export_result(result, tmp_path / "image.tif")
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        phase, amplitude = file.asarray()
        described = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        page = file.pages[0]
        per_centimetre = [
            page.tags[name].value[0] / page.tags[name].value[1] for name in ("XResolution", "YResolution")
        ]
    np.testing.assert_allclose(phase, np.angle(result["object"]), atol=1e-6)
    np.testing.assert_allclose(amplitude, np.abs(result["object"]), atol=1e-6)
    assert (described["PhysicalSizeY"], described["PhysicalSizeX"]) == pytest.approx((0.02, 0.03))
    assert [channel["Name"] for channel in described["Channel"]] == ["phase", "amplitude"]
    np.testing.assert_allclose(per_centimetre, [1e-2 / PIXEL_M[1], 1e-2 / PIXEL_M[0]], rtol=1e-4)


def test_ome_zarr_follows_its_specification(result: xr.Dataset, tmp_path: Path) -> None:
    import zarr
    from ome_zarr_models.v05 import Image

    wide = result.isel(y=np.arange(600) % result.sizes["y"], x=np.arange(301) % result.sizes["x"])
    wide = wide.assign_coords(y=("y", 1e-7 + np.arange(600) * PIXEL_M[0], {"units": "m"}))
    dp.export_result(wide, tmp_path / "image.ome.zarr")
    group = zarr.open_group(str(tmp_path / "image.ome.zarr"), mode="r")
    (multiscale,) = Image.from_zarr(group).attributes.ome.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [axis.unit for axis in multiscale.axes][1:] == ["micrometer", "micrometer"]
    shapes, scales, first = [], [], []
    for dataset in multiscale.datasets:
        scale, translation = dataset.coordinateTransformations
        shapes.append(group[dataset.path].shape)
        scales.append(scale.scale)
        first.append(translation.translation[1])
    assert shapes == [(2, 600, 301), (2, 300, 151), (2, 150, 76)]
    np.testing.assert_allclose(scales, [[1, 0.02 * 2**n, 0.03 * 2**n] for n in range(3)])
    np.testing.assert_allclose(first, [0.1, 0.11, 0.13])
    np.testing.assert_allclose(group["0"][0], np.angle(wide["object"]), atol=1e-6)
    blocks = wide["object"].values[:, :300].reshape(300, 2, 150, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(group["1"][1][:, :150], np.abs(blocks), atol=1e-5)


def test_nexus_shows_the_phase_by_default(result: xr.Dataset, tmp_path: Path) -> None:
    import nexusformat.nexus as nx

    dp.export_result(result, tmp_path / "image.nxs")
    root = nx.nxload(str(tmp_path / "image.nxs"))
    shown = root.get_default()
    np.testing.assert_allclose(shown.nxsignal.nxdata, np.angle(result["object"]), atol=1e-6)
    assert [axis.nxname for axis in shown.nxaxes] == ["y", "x"]
    np.testing.assert_allclose(shown["x"].nxdata, result["x"])
    assert shown["x"].attrs["units"] == "m"
    np.testing.assert_allclose(root["entry/object/data"].nxdata, result["object"])
    np.testing.assert_allclose(root["entry/probe/data"].nxdata, result["probe"])
    assert root["entry/process/program"] == "daskptycho"


def test_cxi_gives_the_same_positions_back(result: xr.Dataset, tmp_path: Path) -> None:
    from daskptycho.formats.laboratory import beam_positions

    dp.export_result(result, tmp_path / "image.cxi")
    with h5py.File(tmp_path / "image.cxi") as file:
        assert file["cxi_version"][()] == 160
        image = file["entry_1/image_1"]
        np.testing.assert_array_equal(image["data"], result["object"])
        np.testing.assert_allclose(image["pixel_size"], PIXEL_M)
        height, width = result["object"].shape
        np.testing.assert_allclose(image["image_size"], [width * PIXEL_M[1], height * PIXEL_M[0], 0])
        np.testing.assert_array_equal(file["entry_1/result_1/data"], result["object"])
        moved = file["entry_1/sample_1/geometry_1/translation"][()]
    np.testing.assert_allclose(beam_positions(moved), result["position"])


def test_hdf5_holds_every_variable_with_its_dimensions(result: xr.Dataset, tmp_path: Path) -> None:
    dp.export_result(result, tmp_path / "image.h5")
    with h5py.File(tmp_path / "image.h5") as file:
        assert set(file) == set(result.variables)
        np.testing.assert_array_equal(file["object"], result["object"])
        assert [dim.label for dim in file["object"].dims] == ["y", "x"]
        np.testing.assert_array_equal(file["object"].dims[0]["y"], result["y"])
        assert file["y"].attrs["units"] == "m"
        assert file.attrs["options"] == result.attrs["options"]


def test_scan_in_pixels_is_exported_without_a_scale(result: xr.Dataset, tmp_path: Path) -> None:
    bare = result.assign_coords({axis: (axis, np.arange(result.sizes[axis]) * 1.0) for axis in "yx"})
    del bare.attrs["pixel_size_m"]
    for suffix in ("tif", "zarr", "nxs", "cxi", "h5"):
        assert dp.export_result(bare, tmp_path / f"image.{suffix}").exists()
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert "PhysicalSizeX" not in file.ome_metadata
    with h5py.File(tmp_path / "image.cxi") as file:
        assert "pixel_size" not in file["entry_1/image_1"]


@pytest.mark.parametrize("name", ["i.tif", "i.ome.zarr", "i.nxs", "i.cxi", "i.h5"])
def test_command_line_exports_completely_or_not_at_all(name: str, stored: Path, monkeypatch) -> None:
    target = stored.parent / name
    done = command("export", stored, target)
    assert (done.exit_code, done.stdout.strip()) == (0, str(target)), done.output
    again = command("export", stored, target)
    assert again.exit_code == 2
    assert "exists already; pass --overwrite" in again.stderr
    assert command("export", stored, target, "--overwrite").exit_code == 0
    before = sorted(path.name for path in stored.parent.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr("h5py.Group.create_dataset", full)
    monkeypatch.setattr("h5py.Group.__setitem__", full)
    monkeypatch.setattr("tifffile.imwrite", full)
    monkeypatch.setattr("zarr.Group.create_array", full)
    failed = command("export", stored, target, "--overwrite")
    assert failed.exit_code == 2
    assert "No space left on device" in failed.stderr
    assert sorted(path.name for path in stored.parent.iterdir()) == before


def test_impossible_exports_are_refused(result: xr.Dataset, stored: Path) -> None:
    with pytest.raises(OptionError, match=r"image\.bmp ends in \.bmp; expected one of \.cxi, \.nxs"):
        dp.export_result(result, stored.parent / "image.bmp")
    with pytest.raises(ScanError, match=r"s3://bucket/image\.tif is not a local path"):
        dp.export_result(result, "s3://bucket/image.tif")
    with pytest.raises(ScanError, match="no is not a folder"):
        dp.export_result(result, stored.parent / "no" / "image.tif")
    assert command("export", stored.parent, stored.parent / "i.tif").exit_code == 2
    refused = command("export", stored, "i.bmp").stderr
    assert "i.bmp ends in .bmp; expected one of .cxi, .nxs" in refused
    assert refused.rstrip().endswith(".tiff, .png")


def test_scan_and_result_are_never_replaced_by_an_image(result: xr.Dataset, stored: Path) -> None:
    root = (stored / "zarr.json").read_bytes()
    with pytest.raises(ScanError, match="is a daskptycho-result and is not replaced by a picture"):
        dp.export_result(result, stored, overwrite=True)
    assert (stored / "zarr.json").read_bytes() == root
