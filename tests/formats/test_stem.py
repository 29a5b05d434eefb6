"""4D-STEM becomes scans: rasters with units, electrons, axes tested by reconstruction."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rsciio.blockfile
import rsciio.tvips
import xarray as xr
from zarr.storage import ZipStore

import daskptycho as dp
from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file
from tests.formats import sources

WRITERS: dict[str, tuple[Callable[..., None], str, dict[str, Any]]] = {
    "hspy": (sources.write_hspy, "scan.hspy", {}),
    "zspy": (sources.write_zspy, "scan.zspy", {}),
    "py4DSTEM": (sources.write_py4dstem, "scan.h5", {}),
    "DM4": (sources.write_dm4, "scan.dm4", {}),
    "EMPAD": (
        sources.write_empad,
        "scan.xml",
        {"crop": sources.SIZE, "pixel_size_m": sources.STEM_STEP_M / 4},
    ),
    "MIB": (
        sources.write_mib,
        "scan.mib",
        {
            "scan_shape": (6, 5),
            "assume": {"scan_step_m": sources.STEM_STEP_M},
            "pixel_size_m": sources.STEM_STEP_M / 4,
        },
    ),
    "Dectris": (
        lambda scan, path: sources.write_nxmx(scan, path, positions=False),
        "scan_master.h5",
        {
            "scan_shape": (6, 5),
            "scan_step_m": sources.STEM_STEP_M,
            "pixel_size_m": sources.STEM_STEP_M / 4,
        },
    ),
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return sources.raster(tmp_path_factory.mktemp("truth"))


@pytest.mark.parametrize("name", WRITERS)
def test_raster_of_each_format_reconstructs_with_its_own_signs_only(
    name: str, truth: xr.Dataset, tmp_path: Path
) -> None:
    write, file, options = WRITERS[name]
    write(truth, tmp_path / file)
    scan = dp.import_scan(tmp_path / file, tmp_path / "s.zarr", **options).load()
    in_order = scan.sortby("frame_number")
    valid = scan.get("valid", True)
    np.testing.assert_array_equal(in_order["intensity"], truth["intensity"] * valid)
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], sources.STEM_STEP_M / 4, rtol=1e-6)
    pixels = in_order["position"].values / (sources.STEM_STEP_M / 4)
    np.testing.assert_allclose(pixels - pixels[0], truth["position"] - truth["position"][0], atol=1e-6)
    probe = truth["probe"].values
    result = dp.reconstruct(scan, sweeps=25, probe=probe, update_probe=False)
    own = float(result["residual"][-1])
    others = sources.with_other_signs(scan, probe, sweeps=25)
    assert min(others.values()) > 10 * own, (own, others)


def test_electrons_have_their_own_wavelength(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_hspy(truth, tmp_path / "a.hspy")
    scan = dp.import_scan(tmp_path / "a.hspy", tmp_path / "s.zarr")
    assert scan.attrs["energy_eV"] == sources.STEM_ENERGY_EV
    # De Broglie wavelength at 80 keV, from tables of electron microscopy.
    assert scan.attrs["wavelength_m"] == pytest.approx(4.1757e-12, rel=1e-4)
    assert scan.attrs["radiation"] == "electron"


def test_detector_calibrated_in_angles_needs_the_energy(truth: xr.Dataset, tmp_path: Path) -> None:
    _, axes = sources.stem_axes(truth)
    angle = 4.1757e-12 * 4 / (sources.SIZE * sources.STEM_STEP_M) * 1e3
    for axis in axes[2:]:
        axis.update(scale=angle, units="mrad")
    sources.write_zspy(truth, tmp_path / "a.zspy", axes)
    found = read_file(tmp_path / "a.zspy")
    assert found["pixel_size_m"] == pytest.approx([sources.STEM_STEP_M / 4] * 2, rel=1e-3)


def test_zipped_store_is_closed_after_it_is_recognised(
    truth: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.write_zspy(truth, tmp_path / "a")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a")
    opened: list[ZipStore] = []

    class Watched(ZipStore):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr("zarr.storage.ZipStore", Watched)
    found = read_file((tmp_path / "a.zip").rename(tmp_path / "a.zspy"))
    # The frames are read through the last one.
    assert [store._is_open for store in opened] == [False] * (len(opened) - 1) + [True]
    frames = truth["intensity"].shape[0]
    np.testing.assert_array_equal(found["intensity"].read(np.arange(frames)), truth["intensity"])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("readme", "no data")
    with pytest.raises(ScanError, match="of no known format"):
        read_file(tmp_path / "other.zip")


def test_ragged_markers_of_hyperspy_do_not_matter(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_zspy(truth, tmp_path / "a.zspy")
    # Arrays of arrays, whose codec only numcodecs has: Zarr cannot open their group.
    markers = tmp_path / "a.zspy" / "Experiments" / "simulated" / "metadata" / "Markers" / "points"
    markers.mkdir(parents=True)
    for folder in (markers.parent, markers):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (markers / "position").mkdir()
    ragged = {
        "zarr_format": 2,
        "shape": [6, 5],
        "chunks": [6, 5],
        "dtype": "|O",
        "compressor": None,
        "order": "C",
    }
    ragged |= {"fill_value": 0, "filters": [{"id": "vlen-array", "dtype": "<f8"}]}
    (markers / "position" / ".zarray").write_text(json.dumps(ragged))
    assert read_file(tmp_path / "a.zspy")["energy_eV"] == sources.STEM_ENERGY_EV


def test_two_cubes_of_one_file_the_larger_is_taken_and_the_other_named(
    truth: xr.Dataset, tmp_path: Path
) -> None:
    sources.write_py4dstem(truth, tmp_path / "a.emd")
    with h5py.File(tmp_path / "a.emd", "a") as file:
        root = file["datacube_root"]
        root.copy("datacube", "overview")
        del root["overview/data"]
        root["overview/data"] = root["datacube/data"][:3] + 1
        for name in ("datacube", "overview"):
            root[f"{name}/data"].attrs["name"] = name
    account: list = []
    with pytest.warns(UserWarning, match=r"datacube \(6 x 5 .* is taken .* has overview \(3 x 5"):
        found = read_file(tmp_path / "a.emd", report=account.extend)
    assert found["intensity"].shape[0] == 30
    assert "overview (3 x 5 x 32 x 32 uint16) (--intensity-key)" in str(account[0])
    chosen = read_file(tmp_path / "a.emd", intensity_key="overview")
    np.testing.assert_array_equal(chosen["intensity"][:], truth["intensity"][:15] + 1)
    with pytest.raises(ScanError, match=r"it holds .*'overview'.*expected 'nothing'"):
        read_file(tmp_path / "a.emd", intensity_key="nothing")
    with pytest.raises(OptionError, match="only the frames have names"):
        read_file(tmp_path / "a.emd", probe_key="probe")


def test_calibration_of_py4dstem_is_named_as_not_used(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_py4dstem(truth, tmp_path / "a.emd")
    with h5py.File(tmp_path / "a.emd", "a") as file:
        for name, value in (("QR_rotation", 0.2), ("QR_flip", True), ("Q_pixel_size", 1.0)):
            file[f"datacube_root/metadatabundle/calibration/{name}"] = value
    account: list = []
    with pytest.warns(UserWarning, match="QR_flip, .*QR_rotation of a.emd are not used; .*--rotation-deg"):
        read_file(tmp_path / "a.emd", report=account.extend, assume={"energy_eV": 80e3})
    said = {taken.what: str(taken) for taken in account}
    assert said["raster"] == "axes Rx and Ry, 1.5e-10 x 1.5e-10 m"
    assert said["detector pixel"].startswith("axes Qx and Qy, 8.33")


@pytest.mark.parametrize("scale", ["wide", None, float("nan"), [1, 2]])
def test_axes_without_a_number_are_refused(scale: Any, truth: xr.Dataset, tmp_path: Path) -> None:
    _, axes = sources.stem_axes(truth)
    axes[0]["scale"] = scale
    sources.write_zspy(truth, tmp_path / "a.zspy", axes)
    with pytest.raises(ScanError, match="the step of the scan has an axis with the scale"):
        read_file(tmp_path / "a.zspy")


def write_blo(data: np.ndarray, path: Path) -> None:
    rsciio.blockfile.file_writer(str(path), signal_of(data.astype(np.uint8)), show_progressbar=False)


def write_tvips(data: np.ndarray, path: Path) -> None:
    rsciio.tvips.file_writer(str(path), signal_of(data), show_progressbar=False)


def write_mrc(data: np.ndarray, path: Path) -> None:
    """A header of 1024 bytes after MRC 2014, with the sizes and the type of the frames."""
    header = np.zeros(256, dtype="<i4")
    frames = data.reshape(-1, *data.shape[2:])
    header[0:3] = header[7:10] = frames.shape[::-1]
    header[3] = 6
    content = bytearray(header.tobytes())
    content[208:216] = b"MAP \x44\x44\0\0"
    path.write_bytes(bytes(content) + frames.astype("<u2").tobytes())


def signal_of(data: np.ndarray) -> dict[str, Any]:
    """What RosettaSciIO's writers take."""
    named = zip(
        ("y", "x", "qy", "qx"), (1.5, 1.5, 0.1, 0.1), ("nm", "nm", "cm", "cm"), data.shape, strict=True
    )
    axes = [
        {
            "name": name,
            "scale": scale,
            "offset": 0.0,
            "units": unit,
            "size": size,
            "navigate": "q" not in name,
        }
        for name, scale, unit, size in named
    ]
    metadata = {"General": {"title": "simulated"}, "Acquisition_instrument": {"TEM": {"beam_energy": 200.0}}}
    signal = {"data": data, "axes": axes, "metadata": metadata, "original_metadata": {}}
    return signal | {"attributes": {"_lazy": False}}


@pytest.mark.parametrize(
    ("write", "name"), [(write_blo, "a.blo"), (write_tvips, "a_000.tvips"), (write_mrc, "a.mrc")]
)
@pytest.mark.filterwarnings("ignore:the axes of the detector are in")
def test_more_files_of_electron_microscopes(
    write: Callable[..., None], name: str, truth: xr.Dataset, tmp_path: Path
) -> None:
    data = (truth["intensity"].values % 200).astype(np.uint16).reshape(6, 5, sources.SIZE, sources.SIZE)
    write(data, tmp_path / name)
    found = read_file(tmp_path / name, scan_shape=(6, 5), scan_step_m=1e-10, energy_eV=200e3)
    assert found["radiation"] == "electron"
    frames = found["intensity"][:]
    if name == "a.blo":
        # Its writer scales counts to a byte.
        assert frames.shape == (30, sources.SIZE, sources.SIZE)
    else:
        np.testing.assert_array_equal(frames, data.reshape(frames.shape))
    np.testing.assert_allclose(found["position"][6], [1e-10, 1e-10])


def test_store_without_permission_is_reported_as_such(
    truth: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.write_zspy(truth, tmp_path / "a.zspy")

    def locked(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "a.zspy")

    monkeypatch.setattr("zarr.open_group", locked)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_file(tmp_path / "a.zspy")


def test_raster_needs_its_shape_and_step(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_mib(truth, tmp_path / "a.mib")
    with pytest.raises(ScanError, match=r"30 frames and no positions; expected scan_shape \(--scan-shape\)"):
        read_file(tmp_path / "a.mib")
    with pytest.raises(ScanError, match=r"scan_shape is \(5, 5\) for 30 frames"):
        read_file(tmp_path / "a.mib", scan_shape=(5, 5), scan_step_m=1e-10)
    with pytest.raises(ScanError, match="does not say how far the beam moves"):
        read_file(tmp_path / "a.mib", scan_shape=(6, 5))
    with pytest.raises(ScanError, match=r"scan_step_m comes out as 0\.4 .*expected 1e-13 to 0\.01"):
        read_file(tmp_path / "a.mib", scan_shape=(6, 5), scan_step_m=0.4)


def test_what_is_known_of_the_beam_is_kept_for_the_guess(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_hspy(truth, tmp_path / "a.hspy")
    read = read_file(tmp_path / "a.hspy", probe_defocus_m=2e-9, convergence_angle_mrad=20)
    assert read["beam"] == {"defocus_m": 2e-9, "convergence_angle_mrad": 20}
    assert "probe" not in read


def test_damaged_files_are_refused_with_the_message_of_the_reader(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_dm4(truth, tmp_path / "a.dm4")
    (tmp_path / "a.dm4").write_bytes((tmp_path / "a.dm4").read_bytes()[:200])
    with pytest.raises(ScanError, match="cannot be read by RosettaSciIO's digitalmicrograph"):
        read_file(tmp_path / "a.dm4")


@pytest.mark.filterwarnings("ignore:the axes of the detector are in")
def test_calibrated_detector_gives_the_pixel_of_the_object(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    write_mrc(np.random.default_rng(0).poisson(20, (5, 6, 16, 16)).astype(np.uint16), path)
    raster = {"scan_shape": (5, 6), "scan_step_m": 2e-9}
    read = read_file(path, **raster, energy_eV=200e3, mrad_per_pixel=0.5)
    # The wavelength at 200 kV is 2.508 pm.
    np.testing.assert_allclose(read["pixel_size_m"], 2.508e-12 / (16 * 0.5e-3), rtol=1e-3)
    # Binned and cropped frames have pixels of another angle, and the object's follow.
    binned = read_file(path, **raster, energy_eV=200e3, mrad_per_pixel=0.5, crop=8, bin=2)
    np.testing.assert_allclose(binned["pixel_size_m"], 2.508e-12 / (8 * 0.5e-3), rtol=1e-3)
    read = read_file(path, **raster, inverse_angstrom_per_pixel=0.04)
    np.testing.assert_allclose(read["pixel_size_m"], 1 / (16 * 0.04e10))
    with pytest.raises(OptionError, match="mrad_per_pixel is given without the energy"):
        read_file(path, **raster, mrad_per_pixel=0.5)
    with pytest.raises(OptionError, match="pixel_size_m and a calibration of the detector are given"):
        read_file(path, **raster, energy_eV=200e3, mrad_per_pixel=0.5, pixel_size_m=1e-11)
    with pytest.raises(OptionError, match="mrad_per_pixel is -1; expected a number above 0"):
        read_file(path, **raster, energy_eV=200e3, mrad_per_pixel=-1)
