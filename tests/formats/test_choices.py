"""What import takes of a file is right, or refused, or said: files that are not what they seem."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat

from daskptycho.cli import daskptycho
from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file

FRAMES, SIZE = 12, 8
Y, X = np.mgrid[:SIZE, :SIZE] - SIZE // 2
BRIGHT = 300 * np.exp(-(Y**2 + (X - 0.5) ** 2) / 4)
COUNTS = np.random.default_rng(4).poisson(BRIGHT, (FRAMES, SIZE, SIZE)).astype(np.uint16)
POSITION = np.argwhere(np.ones((3, 4))) * 3.0
PROBE = np.exp(-(Y**2 + X**2) / 8) * np.exp(0.1j * Y)


def write(path: Path, **arrays: Any) -> Path:
    """An HDF5 file; a double underscore in a name is a slash, and a pair has a unit."""
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            value, unit = value if isinstance(value, tuple) else (value, None)
            item = file.create_dataset(name.replace("__", "/"), data=value)
            if unit is not None:
                item.attrs["units"] = unit
    return path


def said_by(path: Path, **options: Any) -> tuple[dict[str, Any], str, dict[str, str]]:
    """What was read, what was warned of, and the account."""
    account: dict[str, str] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_file(path, report=lambda all_: account.update({t.what: str(t) for t in all_}), **options)
    return found, "\n".join(str(warning.message) for warning in caught), account


@pytest.fixture
def h5(tmp_path: Path) -> Callable[..., Path]:
    return lambda **arrays: write(tmp_path / "a.h5", **arrays)


# Amplitudes


@pytest.mark.parametrize("name", ["diffamp", "amplitude", "sqrt_intensity"])
def test_amplitudes_are_known_by_name_and_squared(name: str, h5: Callable[..., Path]) -> None:
    # Divided by a flat field: their squares are not whole any more.
    amplitudes = np.sqrt(COUNTS / 1.37)
    found, said, _ = said_by(h5(**{name: amplitudes}, position=POSITION), intensity_key=name)
    np.testing.assert_allclose(found["intensity"][:], COUNTS / 1.37)
    assert "are amplitudes, by their name: they are squared (--frames-hold counts keeps them)" in said


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_amplitudes_are_known_by_their_squares(kind: str, h5: Callable[..., Path]) -> None:
    path = h5(data=np.sqrt(COUNTS).astype(kind), position=POSITION)
    found, said, _ = said_by(path)
    np.testing.assert_array_equal(found["intensity"][:], COUNTS)
    assert "their squares are whole numbers" in said
    kept, said, _ = said_by(path, frames_hold="counts")
    assert kept["intensity"][:].max() < 20
    assert not said


def test_counts_of_any_kind_are_not_taken_for_amplitudes(h5: Callable[..., Path]) -> None:
    for counts in (COUNTS, COUNTS * 0.7, COUNTS / COUNTS.max(), COUNTS.astype(float), 0 * COUNTS):
        found, said, _ = said_by(h5(data=counts, position=POSITION))
        np.testing.assert_array_equal(found["intensity"][:], counts)
        assert not said


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(
    ("name", "logarithm"),
    [(r"log\(1 \+ counts\)", np.log1p), (r"log10\(1 \+ counts\)", lambda counts: np.log10(1.0 + counts))],
)
def test_logarithms_of_counts_are_refused(
    name: str, logarithm: Callable[..., Any], kind: str, h5: Callable[..., Path]
) -> None:
    path = h5(data=logarithm(COUNTS).astype(kind), position=POSITION)
    with pytest.raises(ScanError, match=rf"hold {name}; expected counts: undo the logarithm"):
        read_file(path)
    assert read_file(path, frames_hold="counts")["intensity"][:].max() < 10


def test_frames_of_another_type_are_named_with_it(h5: Callable[..., Path]) -> None:
    with pytest.raises(ScanError, match=r"it holds /data \(12 x 8 x 8 complex128\)"):
        read_file(h5(data=COUNTS.astype(complex), position=POSITION))


def test_link_to_frames_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["position"] = POSITION
        file["scan/data"] = h5py.ExternalLink("frames.h5", "/data")
    with pytest.raises(ScanError, match=r"/scan/data, which is a link to a missing file \(frames.h5\)"):
        read_file(tmp_path / "a.h5")


def test_positions_with_a_third_column_are_named_with_the_option(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=np.column_stack([POSITION, np.zeros(FRAMES)]))
    with pytest.raises(
        ScanError, match=r"\(/position \(12 x 3 float64, without a unit\) is there: .*--position-columns"
    ):
        read_file(path)
    found = read_file(path, position_key="position", position_columns=("1", "2"))
    np.testing.assert_array_equal(found["position"], POSITION)


def test_masks_of_single_frames_are_refused_with_what_to_do(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, mask=np.ones((FRAMES, SIZE, SIZE), dtype=bool))
    with pytest.raises(ScanError, match=r"a mask for each frame; .*--leave-out.*--mask-value"):
        read_file(path, valid_key="mask")


def test_whole_numbers_called_amplitudes_are_refused(h5: Callable[..., Path]) -> None:
    path = h5(diffamp=COUNTS, position=POSITION)
    with pytest.raises(ScanError, match=r"called amplitudes, but are whole numbers .*--frames-hold counts"):
        read_file(path)
    np.testing.assert_array_equal(read_file(path, frames_hold="counts")["intensity"][:], COUNTS)
    squared = read_file(path, frames_hold="amplitudes")["intensity"][:]
    np.testing.assert_array_equal(squared, COUNTS.astype(float) ** 2)


def test_amplitudes_with_their_zero_frequency_in_the_corner(h5: Callable[..., Path]) -> None:
    rolled = np.fft.ifftshift(np.sqrt(COUNTS), axes=(1, 2)).astype("f4")
    found, said, _ = said_by(h5(diffamp=rolled, points=POSITION.T))
    np.testing.assert_array_equal(found["intensity"][:], COUNTS)
    np.testing.assert_array_equal(found["position"], POSITION)
    assert "are amplitudes" in said
    assert "brightest round the corner: the zero frequency is taken to lie there" in said


def test_probe_of_another_size_is_left_out_and_it_is_said(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, probe=np.ones((4, 4)))
    found, said, account = said_by(path)
    assert "probe" not in found
    assert "probe: /probe (4 x 4 float64) of" in said
    assert account["probe"].startswith("none taken; there: /probe (4 x 4 float64)")


def test_probe_with_its_centre_in_the_corner(h5: Callable[..., Path]) -> None:
    found, said, _ = said_by(h5(data=COUNTS, position=POSITION, probe=np.fft.ifftshift(PROBE)))
    np.testing.assert_allclose(found["probe"], PROBE[None])
    assert "the probe of a.h5 is brightest round the corner: its centre is moved" in said
    assert not said_by(h5(data=COUNTS, position=POSITION, probe=PROBE))[1]


# Files that are away


def virtual(path: Path, source: str, shape: tuple[int, ...] = COUNTS.shape) -> Path:
    layout = h5py.VirtualLayout(COUNTS.shape, COUNTS.dtype)
    layout[: shape[0]] = h5py.VirtualSource(source, "data", shape=shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
        file["position"] = POSITION
    return path


def test_virtual_frames_are_read_if_they_are_all_there(tmp_path: Path) -> None:
    path = virtual(tmp_path / "a.h5", "part.h5")
    with pytest.raises(
        ScanError, match=r"/data of .* in other files, of which 1 is missing.*: part\.h5; copy"
    ):
        read_file(path)
    write(tmp_path / "part.h5", data=COUNTS)
    np.testing.assert_array_equal(read_file(path)["intensity"][:], COUNTS)
    write(tmp_path / "part.h5", data=COUNTS[:5])
    with pytest.raises(ScanError, match=r"data in part\.h5, which ends early"):
        read_file(path)
    write(tmp_path / "part.h5", other=COUNTS)
    with pytest.raises(ScanError, match=r"missing or incomplete: data in part\.h5"):
        read_file(path)
    (tmp_path / "part.h5").write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(ScanError, match=r"part\.h5, which cannot be read"):
        read_file(path)


def test_frames_that_were_never_written_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", COUNTS.shape, "u2", chunks=(1, SIZE, SIZE))
        file["position"] = POSITION
    with pytest.raises(ScanError, match=r"/data of .* was never written"):
        read_file(tmp_path / "a.h5")


def test_linked_file_that_is_damaged_is_called_damaged(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a_master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("part.h5", "/data")
    with pytest.raises(ScanError, match=r"data_000001 .* is a link to a missing file \(part\.h5\)"):
        read_file(tmp_path / "a_master.h5")
    (tmp_path / "part.h5").write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    with pytest.raises(ScanError, match=r"data_000001 .* is a link to part\.h5, a damaged file"):
        read_file(tmp_path / "a_master.h5")


def test_dangling_links_of_cxi_are_said(tmp_path: Path) -> None:
    detector = "entry_1/instrument_1/detector_1"
    with h5py.File(tmp_path / "a.cxi", "w") as file:
        file[f"{detector}/distance"] = 1.0
        file["entry_1/data_1/data"] = h5py.SoftLink("/nowhere")
    with pytest.raises(ScanError, match=r"entry_1/data_1/data of .* is a link that leads nowhere"):
        read_file(tmp_path / "a.cxi")
    with h5py.File(tmp_path / "a.cxi", "a") as file:
        del file["entry_1/data_1/data"]
        file["entry_1/data_1/data"] = COUNTS
        file[f"{detector}/mask"] = h5py.SoftLink("/nowhere")
        file["entry_1/data_1/translation"] = h5py.ExternalLink("away.h5", "/t")
        file["entry_1/sample_1/geometry_1/translation"] = np.pad(POSITION, ((0, 0), (0, 1))) * 1e-6
    assert len(read_file(tmp_path / "a.cxi")["position"]) == FRAMES


# One of several


def test_two_detectors_one_is_taken_and_the_other_named(h5: Callable[..., Path]) -> None:
    path = h5(
        entry__pixirad__data=COUNTS, entry__vortex__data=np.ones((FRAMES, 4, 4)), entry__position=POSITION
    )
    found, said, account = said_by(path)
    assert found["intensity"].shape == COUNTS.shape
    assert "/entry/pixirad/data (12 x 8 x 8 uint16) is taken" in said
    assert "also has /entry/vortex/data (12 x 4 x 4 float64); --intensity-key chooses" in said
    assert account["frames"].startswith(
        "/entry/pixirad/data, 12 x 8 x 8 uint16; also there: /entry/vortex/data"
    )
    chosen, said, _ = said_by(path, intensity_key="vortex/data")
    assert chosen["intensity"].shape == (FRAMES, 4, 4)
    assert not said


def test_stack_with_as_many_frames_as_positions_comes_first(h5: Callable[..., Path]) -> None:
    path = h5(data=np.ones((3, SIZE, SIZE)), scan__eiger__data=COUNTS, position=POSITION)
    assert read_file_quietly(path)["intensity"].shape == COUNTS.shape


def read_file_quietly(path: Path, **options: Any) -> dict[str, Any]:
    return said_by(path, **options)[0]


@pytest.mark.parametrize(
    ("numbers", "name", "taken", "other"),
    [
        (
            {"a__distance": (2.0, "m"), "b__distance": (0.4, "m")},
            "detector_distance_m",
            2.0,
            "/b/distance (0.4 m)",
        ),
        (
            {"a__pixel_size": (75.0, "um"), "b__pixel_size": (55e-6, "m")},
            "detector_pixel_size_m",
            75e-6,
            "/b/pixel_size",
        ),
        (
            {"a__energy": (8.0, "keV"), "b__energy": (9000.0, "eV")},
            "energy_eV",
            8000.0,
            "/b/energy (9000 eV)",
        ),
    ],
)
def test_two_numbers_that_differ_are_said(
    numbers: dict[str, Any], name: str, taken: float, other: str, h5: Callable[..., Path]
) -> None:
    path = h5(data=COUNTS, position=POSITION, **numbers)
    found, said, account = said_by(path)
    assert found[name] == pytest.approx(taken)
    assert other in said
    assert f"--key {name}=PATH chooses" in said
    assert any(other in line for line in account.values())
    key = "/b/" + next(iter(numbers)).partition("__")[2]
    chosen, said, _ = said_by(path, keys={name: key})
    assert chosen[name] != pytest.approx(taken)
    assert not said


def test_two_numbers_that_agree_are_no_matter(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, a__distance=(2.0, "m"), b__distance=(2000.0, "mm"))
    assert not said_by(path)[1]


def test_dark_frames_and_masks_are_named_and_not_used(h5: Callable[..., Path]) -> None:
    path = h5(
        data=COUNTS, position=POSITION, dark=np.full((4, SIZE, SIZE), 3.0), mask=COUNTS[0] > 5, bad=Y == 0
    )
    found, _, account = said_by(path)
    assert not {"background", "valid"} & set(found)
    assert account["background"] == (
        "none taken; there: /dark (4 x 8 x 8 float64) (--background-key takes it)"
    )
    assert "there: /mask (8 x 8 bool) (--valid-key takes it)" in account["valid pixels"]
    found = read_file(path, background_key="dark", valid_key="mask+~bad")
    np.testing.assert_array_equal(found["background"], np.full((SIZE, SIZE), 3.0))
    np.testing.assert_array_equal(found["valid"], (COUNTS[0] > 5) & (Y != 0))


def test_energy_and_wavelength_are_compared(h5: Callable[..., Path], tmp_path: Path) -> None:
    numbers = {"energy": (8.0, "keV"), "wavelength": (1.2, "angstrom")}
    path = h5(data=COUNTS, position=POSITION, **numbers)
    with pytest.raises(ScanError, match=r"energy 8000 eV and the wavelength 1\.2e-10 m; .*--energy-eV or"):
        read_file(path)
    assert "wavelength_m" not in read_file_quietly(path, energy_eV=8000.0)
    path = h5(data=COUNTS, position=POSITION, energy=(8.0, "keV"), wavelength=(1.5498, "angstrom"))
    assert read_file(path)["energy_eV"] == 8000
    # At 300 keV an electron has 1.97 pm.
    path = h5(data=COUNTS, position=POSITION, energy=(300.0, "keV"), wavelength=(1.96875, "pm"))
    assert read_file(path)["radiation"] == "electron"


def test_energy_of_an_electron_microscope_is_not_taken_for_that_of_photons(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, energy=(300.0, "keV"))
    with pytest.raises(ScanError, match=r"300000 eV, and a\.h5 does not say of what; .*--radiation electron"):
        read_file(path)
    assert read_file(path, radiation="photon")["energy_eV"] == 300e3


def master(path: Path, *, particle: str | None = None, description: str | None = None, **zero: float) -> Path:
    with h5py.File(path, "w") as file:
        file["entry/data/data_000001"] = COUNTS
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = "NXdetector"
        numbers = {"detector_distance": 2.0, "beam_center_x": 4.0, "beam_center_y": 4.0} | zero
        for name, value in numbers.items():
            detector[name] = value
            detector[name].attrs["units"] = "m" if name == "detector_distance" else "pixel"
        detector["incident_energy"] = 300e3
        detector["incident_energy"].attrs["units"] = "eV"
        if particle is not None:
            detector["detectorSpecific/incident_particle_type"] = particle
        if description is not None:
            detector["description"] = description
    return path


@pytest.mark.parametrize("said", [{"particle": "electrons"}, {"description": "DECTRIS ARINA Si 192x192"}])
def test_master_file_of_an_electron_detector(said: dict[str, Any], tmp_path: Path) -> None:
    raster = {"scan_shape": (3, 4), "scan_step_m": 1e-11}
    found = read_file(master(tmp_path / "a_master.h5", **said), **raster)
    assert (found["radiation"], found["energy_eV"]) == ("electron", 300e3)
    with pytest.raises(ScanError, match="does not say of what"):
        read_file(master(tmp_path / "a_master.h5"), **raster)


def test_zeros_of_a_master_file_mean_unknown(tmp_path: Path) -> None:
    zeros = {"detector_distance": 0.0, "beam_center_x": 0.0, "beam_center_y": 0.0}
    path = master(tmp_path / "a_master.h5", particle="electron", **zeros)
    found, said, account = said_by(path, scan_shape=(3, 4), scan_step_m=1e-11)
    assert found["intensity"].shape == COUNTS.shape
    assert "detector_distance_m" not in found
    assert "detector_distance_m and centre of /entry/instrument/detector are zero" in said
    assert account["detector distance"].startswith("none taken; there: ")


# Positions of other forms


def test_forms_of_positions(h5: Callable[..., Path]) -> None:
    yx = np.array([tuple(row) for row in POSITION], dtype=[("y", "f8"), ("x", "f8")])
    xy = np.array([tuple(row[::-1]) for row in POSITION], dtype=[("x_um", "f8"), ("y_um", "f8")])
    for position in (POSITION, POSITION.T, POSITION.reshape(3, 4, 2), yx):
        found = read_file(h5(data=COUNTS, position=position))
        np.testing.assert_array_equal(found["position"], POSITION)
    found = read_file(h5(data=COUNTS, position=xy))
    np.testing.assert_allclose(found["position"], POSITION * 1e-6)


def test_number_of_a_scan_is_no_list_of_positions(h5: Callable[..., Path]) -> None:
    found = read_file(h5(data=COUNTS, scan=317, x=POSITION[:, 1], y=POSITION[:, 0]))
    np.testing.assert_array_equal(found["position"], POSITION)
    with pytest.raises(ScanError, match="12 frames and no positions"):
        read_file(h5(data=COUNTS, position=3.0, probe="x-ray"))


def test_columns_of_two_groups_are_not_joined(h5: Callable[..., Path]) -> None:
    with pytest.raises(ScanError, match="12 frames and no positions"):
        read_file(h5(data=COUNTS, a__y=POSITION[:, 0], b__x=POSITION[:, 1]))


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 3)])
def test_one_value_for_each_row_and_column(rows: int, columns: int, h5: Callable[..., Path]) -> None:
    counts = COUNTS.reshape(rows, columns, SIZE, SIZE)
    found, said, _ = said_by(h5(data=counts, Y=np.arange(rows) * 2.0, X=np.arange(columns) * 3.0))
    np.testing.assert_array_equal(found["position"], np.argwhere(np.ones((rows, columns))) * [2.0, 3.0])
    assert not said
    # x changes from row to row where only its length fits.
    found, said, _ = said_by(h5(data=counts, Y=np.arange(columns) * 2.0, X=np.arange(rows) * 3.0))
    np.testing.assert_array_equal(found["position"][1], [2.0, 0.0])
    assert not said


def test_slow_axis_of_a_square_raster_is_said_and_can_be_chosen(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS[:9].reshape(3, 3, SIZE, SIZE), Y=np.arange(3) * 2.0, X=np.arange(3) * 3.0)
    found, said, _ = said_by(path)
    assert found["position"][1].tolist() == [0.0, 3.0]
    assert "nothing says whether /Y or /X changes from row to row" in said
    found, said, _ = said_by(path, slow_axis="x")
    assert found["position"][1].tolist() == [2.0, 0.0]
    assert not said
    with pytest.raises(OptionError, match="slow_axis is 'z'"):
        read_file(path, slow_axis="z")


def nexus_raster(path: Path, axes: list[str] | None) -> Path:
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        entry["definition"] = "NXptycho"
        groups = {
            "det": "NXdetector",
            "sample": "NXsample",
            "sample/t": "NXtransformations",
            "data": "NXdata",
        }
        for name, nexus_class in groups.items():
            entry.create_group(name).attrs["NX_class"] = nexus_class
        entry["det/data"] = COUNTS[:9].reshape(3, 3, SIZE, SIZE)
        entry["data/data"] = entry["det/data"]
        if axes is not None:
            entry["data"].attrs["axes"] = axes
        for name, vector, step in (("sx", (1, 0, 0), 3.0), ("sy", (0, 1, 0), 2.0)):
            entry[f"sample/t/{name}"] = np.arange(3) * step
            entry[f"sample/t/{name}"].attrs.update({"units": "um", "vector": vector})
    return path


def test_motors_in_alphabetical_order_do_not_exchange_the_axes_of_a_raster(tmp_path: Path) -> None:
    found, said, _ = said_by(nexus_raster(tmp_path / "a.nxs", None))
    # The first row: only x of the sample changes, and the beam moves on it along -x of the laboratory.
    np.testing.assert_allclose(found["position"][:3], [[0, 0], [0, 3e-6], [0, 6e-6]], atol=1e-18)
    assert "nothing says whether /entry/sample/t/sy or /entry/sample/t/sx changes from row to row" in said
    for axes, second in ((["sy", "sx", ".", "."], [0, 3e-6]), (["sx", "sy", ".", "."], [2e-6, 0])):
        found, said, _ = said_by(nexus_raster(tmp_path / "a.nxs", axes))
        np.testing.assert_allclose(found["position"][1], second, atol=1e-18)
        assert not said


# MATLAB


def test_matlab_has_its_axes_the_other_way_round(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "new.mat", "w", userblock_size=512) as file:
        file["p/data"], file["p/position"], file["p/probe"] = COUNTS.transpose(0, 2, 1), POSITION.T, PROBE.T
    content = bytearray((tmp_path / "new.mat").read_bytes())
    content[:22] = b"MATLAB 7.3 MAT-file   "
    (tmp_path / "new.mat").write_bytes(content)
    variables = {"data": np.moveaxis(COUNTS, 0, -1), "position": POSITION, "probe": PROBE}
    savemat(tmp_path / "old.mat", {"p": variables})
    for name in ("new.mat", "old.mat"):
        found, said, account = said_by(tmp_path / name)
        np.testing.assert_array_equal(found["intensity"][:], COUNTS)
        np.testing.assert_array_equal(found["position"], POSITION)
        np.testing.assert_allclose(found["probe"], PROBE[None])
        assert not said
        assert "8 x 8 x 12 uint16" in account["frames"]
    # Written from Python with the frames first: the number of positions tells.
    savemat(tmp_path / "first.mat", {"data": COUNTS, "position": POSITION})
    found, said, _ = said_by(tmp_path / "first.mat")
    np.testing.assert_array_equal(found["intensity"][:], COUNTS)
    assert "is taken as (frame, qy, qx), by the number of positions; frame_axis" in said


def test_frames_that_come_last_are_known_by_the_positions(h5: Callable[..., Path]) -> None:
    path = h5(data=np.moveaxis(COUNTS, 0, -1), position=POSITION)
    found, said, _ = said_by(path)
    np.testing.assert_array_equal(found["intensity"][[7, 2]], COUNTS[[7, 2]])
    assert "is taken as (qy, qx, frame)" in said
    assert len(said_by(path, frame_axis="last")[0]["intensity"]) == FRAMES


# Units


@pytest.mark.parametrize("attribute", ["units", "unit"])
@pytest.mark.parametrize("unit", ["Micrometer", "micrometers", "UM", "µm", b"um"])
def test_units_are_known_by_all_their_names(attribute: str, unit: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", data=COUNTS, position=POSITION, det_distance=2000.0, energy=8.0)
    with h5py.File(path, "a") as file:
        for name, own in (("position", unit), ("det_distance", "MM"), ("energy", "KeV")):
            file[name].attrs[attribute] = own
    found = read_file(path)
    np.testing.assert_allclose(found["position"], POSITION * 1e-6)
    assert (found["detector_distance_m"], found["energy_eV"]) == (2.0, 8000.0)


def test_units_in_names_and_numbers_without_a_unit(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, lambda_nm=0.15498, ccd_pixel_um=75.0, distance=2.0)
    found, _, account = said_by(path)
    assert found["wavelength_m"] == pytest.approx(1.5498e-10)
    assert found["detector_pixel_size_m"] == pytest.approx(75e-6)
    assert "detector_distance_m" not in found
    assert account["detector distance"] == (
        "none taken; there: /distance (2 (no unit: m)) (--key detector_distance_m=PATH takes it)"
    )


def test_files_of_ptylab_are_in_metres(h5: Callable[..., Path]) -> None:
    numbers = {"wavelength": 6.328e-7, "zo": 0.05, "dxd": 4.5e-6}
    found = read_file(h5(ptychogram=COUNTS, encoder=POSITION * 1e-5, **numbers), position_unit="m")
    assert found["wavelength_m"] == 6.328e-7
    assert (found["detector_distance_m"], found["detector_pixel_size_m"]) == (0.05, 4.5e-6)


def test_number_with_an_impossible_unit_is_no_matter_if_it_is_given(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, energy=(8.0, "parsec"))
    with pytest.raises(ScanError, match="'parsec', which is unknown"):
        read_file(path)
    assert read_file(path, energy_eV=8000.0)["energy_eV"] == 8000.0


# The command line


def test_import_prints_what_it_took(h5: Callable[..., Path], tmp_path: Path) -> None:
    path = h5(data=COUNTS, position=(POSITION, "um"), dark=COUNTS[0], energy=(8.0, "keV"), title="test")
    options = [
        "--detector-distance-m",
        "2",
        "--detector-pixel-size-m",
        "1e-3",
        "--frames",
        "0:12",
        "--flip",
        "yx",
    ]
    done = CliRunner().invoke(daskptycho, ["import", str(path), str(tmp_path / "s.zarr"), *options])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "frames      /data, 12 x 8 x 8 uint16",
        "positions   /position, 12 x 2 float64, um",
        "background  none taken; there: /dark (8 x 8 uint16) (--background-key takes it)",
        "energy      /energy, 8 keV",
    ]


def test_chunks_that_were_never_written_are_said(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        frames = file.create_dataset("data", COUNTS.shape, "u2", chunks=(1, SIZE, SIZE))
        frames[:9] = COUNTS[:9]
        file["position"] = POSITION
    _, said, _ = said_by(tmp_path / "a.h5")
    assert "3 of the 12 chunks of /data of" in said
    assert "were never written, and are read as 0" in said


def test_energy_and_wavelength_that_differ_a_little_are_said(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, position=POSITION, energy=(8.0, "keV"), wavelength=(1.557, "angstrom"))
    found, said, _ = said_by(path)
    assert found["energy_eV"] == 8000
    assert "which differ by 0.46 %; the energy is taken" in said


def test_three_columns_are_named_and_not_taken(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS, translation=np.ones((FRAMES, 3)))
    accounts: list[str] = []
    with pytest.raises(ScanError, match="12 frames and no positions"):
        read_file(path, report=lambda taken: accounts.extend(map(str, taken)))
    assert any(
        "there: /translation (12 x 3 float64, without a unit) (--position-key" in line for line in accounts
    )


def test_classes_of_matlab_tell_its_order_of_axes(h5: Callable[..., Path]) -> None:
    path = h5(data=COUNTS.transpose(0, 2, 1), position=POSITION.T)
    with h5py.File(path, "a") as file:
        file["data"].attrs["MATLAB_class"] = np.bytes_("uint16")
    np.testing.assert_array_equal(read_file(path)["intensity"][:], COUNTS)
