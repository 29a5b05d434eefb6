"""What each reader finds: geometry with its units, masks, links; and what it refuses."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.errors import OptionError, ScanError
from daskptycho.formats import read_file
from daskptycho.formats.arrange import orient_positions
from daskptycho.formats.units import to_si
from tests.formats import sources

MOONFLOWER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "moonflower.ptyd"
GEOMETRY = {"energy_eV": 8000.0, "detector_distance_m": 2.0, "detector_pixel_size_m": 172e-6}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return sources.simulated(tmp_path_factory.mktemp("truth"))


def plain_hdf5(truth: xr.Dataset, path: Path, **more: Any) -> Path:
    """Frames and positions under the names of a beamline, positions in micrometres in two datasets."""
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "scan/eiger/frames", data=truth["intensity"].values, chunks=(2, 32, 32), **hdf5plugin.LZ4()
        )
        for axis, column in zip("yx", sources.metres(truth).T, strict=True):
            file[f"motors/{axis}"] = column * 1e6
            file[f"motors/{axis}"].attrs["units"] = "µm"
        for name, (value, unit) in more.items():
            file[name] = value
            if unit is not None:
                file[name].attrs["units"] = unit
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (sources.write_ptyd, "a.ptyd"),
        (sources.write_cxi, "a.cxi"),
        (sources.write_nxptycho, "a.nxs"),
        (sources.write_nxmx, "a_master.h5"),
    ],
)
def test_geometry_is_read_in_si(write: Any, name: str, truth: xr.Dataset, tmp_path: Path) -> None:
    # The format is recognised by the content, not by the name.
    write(truth, tmp_path / name)
    (tmp_path / name).rename(tmp_path / "measured.dat")
    found = read_file(tmp_path / "measured.dat")
    wavelength = 1.23984198e-6 / found["energy_eV"] if "energy_eV" in found else found["wavelength_m"]
    assert wavelength == pytest.approx(1.23984198e-6 / 8000)
    assert found["detector_distance_m"] == pytest.approx(2)
    np.testing.assert_allclose(np.broadcast_to(found["detector_pixel_size_m"], 2), 172e-6)
    np.testing.assert_array_equal(found["intensity"][:], truth["intensity"])
    np.testing.assert_array_equal(found["intensity"][[4, 2, 2]], truth["intensity"][[4, 2, 2]])


def test_bits_of_masks_decide_which_pixels_are_valid(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_cxi(truth, tmp_path / "a.cxi")
    sources.write_nxmx(truth, tmp_path / "a_master.h5")
    sources.write_ptyd(truth, tmp_path / "a.ptyd")
    # A pixel with signal or in the mask of a peak is valid, unless it is hot as well.
    bad = {"a.cxi": [[3, 4], [8, 9]], "a_master.h5": [[3, 4], [5, 6]], "a.ptyd": [[3, 4]]}
    for name, pixels in bad.items():
        assert np.argwhere(~read_file(tmp_path / name)["valid"]).tolist() == pixels


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("mm", "has the unit 'mm', which is a unit of length; expected a unit of energy"),
        ("parsec", "has the unit 'parsec', which is unknown"),
        ("eV", "energy_eV comes out as 1.28174e-15 .*expected 1 to 1e"),
    ],
)
def test_impossible_units_are_refused(unit: str, words: str, truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_cxi(truth, tmp_path / "a.cxi", energy_unit=unit)
    with pytest.raises(ScanError, match=words):
        read_file(tmp_path / "a.cxi")


def test_energy_in_volts_without_a_unit_is_no_energy_in_joules(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_cxi(truth, tmp_path / "a.cxi")
    with h5py.File(tmp_path / "a.cxi", "a") as file:
        file["entry_1/instrument_1/source_1/energy"][()] = 8000.0
    with pytest.raises(ScanError, match=r"energy_eV comes out as .*e\+22 from a.cxi; .*--energy-eV"):
        read_file(tmp_path / "a.cxi")
    with pytest.warns(UserWarning, match=r"energy_eV is 8000\.0 as given; a\.cxi has"):
        assert read_file(tmp_path / "a.cxi", energy_eV=8000.0)["energy_eV"] == 8000.0


def test_given_numbers_take_precedence_and_assumed_ones_do_not(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_ptyd(truth, tmp_path / "a.ptyd")
    with pytest.warns(UserWarning, match="detector_distance_m is 3.0 as given; a.ptyd has 2.0"):
        assert read_file(tmp_path / "a.ptyd", detector_distance_m=3.0)["detector_distance_m"] == 3.0
    with pytest.warns(UserWarning, match="wavelength_m is not assumed: a.ptyd has energy_eV 8000"):
        found = read_file(tmp_path / "a.ptyd", assume={"wavelength_m": 1e-10, "source_distance_m": 1.0})
    assert (found["energy_eV"], found["source_distance_m"]) == (8000, 1.0)
    assert "wavelength_m" not in found
    with pytest.raises(OptionError, match="weather cannot be assumed; expected one of energy_eV"):
        read_file(tmp_path / "a.ptyd", assume={"weather": 1})


def test_plain_hdf5_by_usual_names_keys_and_assumptions(truth: xr.Dataset, tmp_path: Path) -> None:
    path = plain_hdf5(truth, tmp_path / "a.h5", **{"beam/E": (8.0, "keV"), "camera/distance": (2000.0, "mm")})
    scan = dp.import_scan(
        path,
        tmp_path / "s.zarr",
        keys={"energy_eV": "beam/E"},
        assume={"detector_pixel_size_m": 172e-6},
    ).sortby("frame_number")
    np.testing.assert_array_equal(scan["intensity"], truth["intensity"])
    np.testing.assert_allclose(scan["position"], sources.metres(truth))
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], truth.attrs["pixel_size_m"])
    named = read_file(path, intensity_key="scan/eiger/frames", position_key="motors/x+motors/y")
    np.testing.assert_allclose(named["position"], sources.metres(truth)[:, ::-1])
    with pytest.raises(ScanError, match=r"valid is not found in .*/motors/x \(25 float64\).*--valid-key"):
        read_file(path, valid_key="mask")
    with pytest.raises(OptionError, match=r"centring: there is no such option; expected one of"):
        read_file(path, centring=True)


def test_positions_may_be_in_a_file_of_their_own(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_nxmx(truth, tmp_path / "a_master.h5", positions=False)
    with pytest.raises(
        ScanError, match=r"25 frames and no positions; expected .*--scan-shape.*--position-file"
    ):
        read_file(tmp_path / "a_master.h5")
    np.savetxt(tmp_path / "p.txt", sources.metres(truth)[:, ::-1], delimiter=", ", header="x, y")
    np.save(tmp_path / "p.npy", sources.metres(truth))
    for name, axes in (("p.txt", "xy"), ("p.npy", "yx")):
        found = read_file(tmp_path / "a_master.h5", position_file=tmp_path / name, position_axes=axes)
        np.testing.assert_allclose(found["position"], sources.metres(truth))
    (tmp_path / "p.txt").write_text("1 2 3\n")
    with pytest.raises(ScanError, match="has 3 columns; expected two columns of numbers"):
        read_file(tmp_path / "a_master.h5", position_file=tmp_path / "p.txt")


def test_circular_links_are_not_followed(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_nxmx(truth, tmp_path / "a_master.h5")
    with h5py.File(tmp_path / "a_master.h5", "a") as file:
        file["entry/sample/whole"] = h5py.SoftLink("/entry")
        file["entry/instrument/nowhere"] = h5py.SoftLink("/nowhere")
    assert len(read_file(tmp_path / "a_master.h5")["position"]) == 25


def test_probe_of_whole_frames_is_dropped_for_cropped_ones(truth: xr.Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=truth["intensity"], position=truth["position"], probe=truth["probe"])
    with pytest.warns(UserWarning, match="the probe of the file is left out"):
        assert "probe" not in read_file(tmp_path / "a.npz", crop=24)


NEAR: dict[str, Any] = {
    "propagation": "near-field",
    "energy_eV": 17_000,
    "detector_distance_m": 1e-3,
    "detector_pixel_size_m": (1e-7, 2e-7),
}


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_near_field_frames_get_a_margin(suffix: str, truth: xr.Dataset, tmp_path: Path) -> None:
    held = {"data": truth["intensity"].values, "position": 1e-7 * truth["position"].values}
    held |= {"probe": truth["probe"].values, "good": held["data"][0] >= 0}
    held["good"][3, 4] = False
    if suffix == "npz":
        np.savez(tmp_path / "a.npz", **held)
    else:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, values in held.items():
                file[name] = values
    found = read_file(tmp_path / f"a.{suffix}", pad=3, valid_key="good", probe_key="probe", **NEAR)
    frames = found["intensity"][np.arange(25)]
    assert frames.shape == (25, 38, 38)
    np.testing.assert_array_equal(frames[:, 3:-3, 3:-3], held["data"])
    assert frames.sum() == held["data"].sum()
    np.testing.assert_array_equal(found["valid"][3:-3, 3:-3], held["good"])
    assert found["valid"].sum() == held["good"].sum()
    # The object stays where it was, and the beam goes on beyond the edge.
    np.testing.assert_allclose(found["position"], held["position"] - [3e-7, 6e-7])
    np.testing.assert_array_equal(found["probe"][..., 3:-3, 3:-3], held["probe"])
    assert (found["probe"][..., :3, 3] == held["probe"][..., :1, 0]).all()
    scan = dp.create_scan(tmp_path / "s.zarr", **found)
    assert not scan["valid"].values[:3].any()


def test_margin_of_positions_in_pixels(truth: xr.Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=truth["intensity"], position=truth["position"])
    found = read_file(tmp_path / "a.npz", pad=2, position_unit="pixel", **NEAR)
    np.testing.assert_allclose(found["position"], truth["position"] - 2)
    assert found["valid"].sum() == 32 * 32


def test_cropped_images_of_the_near_field_keep_their_probe(truth: xr.Dataset, tmp_path: Path) -> None:
    held = {"data": truth["intensity"].values, "probe": truth["probe"].values}
    np.savez(tmp_path / "a.npz", position=1e-7 * truth["position"], **held)
    found = read_file(tmp_path / "a.npz", crop=24, **NEAR)
    np.testing.assert_array_equal(found["probe"], held["probe"][..., 4:-4, 4:-4])
    np.testing.assert_array_equal(found["intensity"], held["data"][:, 4:-4, 4:-4])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pad": 2}, r"pad \(--pad\) belongs to the near field"),
        ({"pad": -1, **NEAR}, "pad is -1; expected 0 pixels or more"),
        ({"zero_frequency": "corner", **NEAR}, "for a near field, whose frames are images"),
        ({"centre": (16, 16), **NEAR}, "for a near field, whose frames are images"),
    ],
)
def test_what_only_one_field_has_is_refused_in_the_other(
    options: dict[str, Any], words: str, truth: xr.Dataset, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", data=truth["intensity"], position=1e-7 * truth["position"])
    with pytest.raises(OptionError, match=words):
        read_file(tmp_path / "a.npz", **options)


def test_file_in_a_bucket_is_refused_as_such() -> None:
    with pytest.raises(ScanError, match=r"s3://bucket/a\.h5 is not a local file"):
        read_file("s3://bucket/a.h5")


def test_linked_file_that_is_missing_is_named(truth: xr.Dataset, tmp_path: Path) -> None:
    sources.write_nxmx(truth, tmp_path / "a_master.h5")
    (tmp_path / "a_data_000002.h5").unlink()
    with pytest.raises(ScanError, match="data_000002 of /entry/data is a link to a missing file"):
        read_file(tmp_path / "a_master.h5")


def test_frames_are_cropped_round_the_zero_frequency(truth: xr.Dataset, tmp_path: Path) -> None:
    frames = np.zeros((25, 40, 40), dtype=np.uint32)
    frames[:, 5:37, 2:34] = truth["intensity"].values.astype(np.uint32)
    np.savez(tmp_path / "a.npz", data=frames, position=truth["position"], good=frames[0] >= 0)
    with pytest.warns(
        UserWarning, match=r"lies at \(21, 18\), off the middle \(20, 20\): frames are cropped to 36"
    ):
        found = read_file(tmp_path / "a.npz", centre=(21, 18), valid_key="good")
    assert np.asarray(found["intensity"]).shape == (25, 36, 36)
    found = read_file(tmp_path / "a.npz", centre=(21, 18), crop=32, valid_key="good")
    np.testing.assert_array_equal(found["intensity"], truth["intensity"])
    assert found["valid"].shape == (32, 32)
    with pytest.raises(
        OptionError, match=r"crop is \(38, 38\) round \(21, 18\).*expected at most \(38, 36\)"
    ):
        read_file(tmp_path / "a.npz", centre=(21, 18), crop=38)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [("yx", [1, 2]), ("xy", [2, 1]), ("-yx", [-1, 2]), ("y-x", [1, -2]), ("-xy", [2, -1])],
)
def test_axes_of_positions_by_letters_and_signs(axes: str, expected: list[float]) -> None:
    assert orient_positions([[1.0, 2.0]], axes).tolist() == [expected]
    for wrong in ("yy", "zx", "y", ""):
        with pytest.raises(OptionError, match="position_axes is"):
            orient_positions([[1.0, 2.0]], wrong)


def test_positions_rotate_from_the_first_axis_to_the_second(truth: xr.Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=truth["intensity"], position=np.tile([[1.0, 0.0]], (25, 1)))
    found = read_file(tmp_path / "a.npz", rotation_deg=90)
    np.testing.assert_allclose(found["position"][0], [0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("number", "unit", "kind", "expected"),
    [
        (7.2, "keV", "energy", 7200),
        (1.602176634e-16, "J", "energy", 1000),
        (5, b"um", "length", 5e-6),
        (2, "Å", "length", 2e-10),
        (3, "mrad", "angle", 3e-3),
        (0.5, "1/Å", "reciprocal length", 5e9),
    ],
)
def test_units_are_converted(number: float, unit: Any, kind: str, expected: float) -> None:
    assert float(to_si(number, unit, kind, "it")) == pytest.approx(expected)


def test_stack_is_never_in_memory(tmp_path: Path) -> None:
    frames, size = 200, 96
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset(
            "data",
            shape=(frames, size, size),
            dtype=np.uint16,
            chunks=(1, size, size),
            **hdf5plugin.Bitshuffle(),
        )
        for start in range(0, frames, 50):
            data[start : start + 50] = start + 1
        file["positions"] = np.argwhere(np.ones((20, 10))) * 12.0
    tracemalloc.start()
    dp.import_scan(tmp_path / "a.h5", tmp_path / "s.zarr", position_unit="pixel", tile_frames=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 2 * frames * size**2


def test_extra_that_is_not_installed_is_named(
    truth: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.write_cxi(truth, tmp_path / "a.cxi")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(OptionError, match=r"needs hdf5plugin, .*pip install '.\[formats\]' in the folder"):
        read_file(tmp_path / "a.cxi")


def test_damaged_hdf5_is_refused(truth: xr.Dataset, tmp_path: Path) -> None:
    path = plain_hdf5(truth, tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ScanError, match=r"a\.h5 cannot be read as HDF5"):
        read_file(path)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((3, 4))
    with pytest.raises(ScanError, match=r"intensity is not found in .*/data \(3 x 4 float64\)"):
        read_file(tmp_path / "b.h5")


@pytest.mark.skipif(not MOONFLOWER.exists(), reason="moonflower.ptyd is not in ../shared/data")
def test_moonflower_is_imported(tmp_path: Path) -> None:
    scan = dp.import_scan(MOONFLOWER, tmp_path / "s.zarr")
    assert "probe" not in scan
    assert scan.sizes["frame"] == 92
    assert scan.attrs["energy_eV"] == 7200
    assert scan.attrs["pixel_size_m"][0] == pytest.approx(172.2e-12 * 7.19 / (128 * 172e-6), rel=1e-3)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the scan has no probe", "ignore:the beam is")
@pytest.mark.skipif(not MOONFLOWER.exists(), reason="moonflower.ptyd is not in ../shared/data")
def test_moonflower_is_reconstructed_with_its_own_signs_only(tmp_path: Path) -> None:
    scan = dp.import_scan(MOONFLOWER, tmp_path / "s.zarr", probe_diameter=60).load()
    result = dp.reconstruct(scan, sweeps=40)
    own = float(result["residual"][-1])
    assert own < 6e-4
    # The recovered probe is a photograph of the full moon, which has no mirror symmetry.
    residuals = sources.with_other_signs(scan, result["probe"].values, sweeps=20)
    assert min(residuals.values()) > 5 * own, (own, residuals)


@pytest.mark.long
@pytest.mark.skipif(not MOONFLOWER.exists(), reason="moonflower.ptyd is not in ../shared/data")
@pytest.mark.filterwarnings("ignore:the beam is")
def test_a_beam_without_a_lens_is_guessed_as_a_disc(tmp_path: Path) -> None:
    scan = dp.import_scan(MOONFLOWER, tmp_path / "s.zarr")
    with pytest.warns(UserWarning, match=r"the first guess is a disc of (5|6)\d pixels"):
        dp.guess_probe(scan)


# The command line


def command(*arguments: object) -> Result:
    return CliRunner().invoke(daskptycho, [str(argument) for argument in arguments])


def test_command_line_has_all_options_of_python(truth: xr.Dataset, tmp_path: Path) -> None:
    path = plain_hdf5(truth, tmp_path / "a.h5", **{"beam/E": (8.0, "keV")})
    done = command(
        *(
            "import",
            path,
            tmp_path / "s.zarr",
            "--key",
            "energy_eV=beam/E",
            "--centre",
            "15,17",
            "--crop",
            28,
        ),
        *("--assume", "detector_distance_m=2", "--assume", "detector_pixel_size_m=172e-6x172e-6"),
        *("--position-axes", "-yx", "--rotation-deg", 90, "--guess-probe", "--probe-diameter", 12),
        *("--probe-defocus-m", 1e-6, "--tile-frames", 5),
    )
    assert done.exit_code == 0, done.output
    scan = dp.open_scan(tmp_path / "s.zarr").sortby("frame_number")
    np.testing.assert_array_equal(scan["intensity"], truth["intensity"][:, 1:29, 3:31])
    y, x = sources.metres(truth).T
    np.testing.assert_allclose(scan["position"], np.column_stack([-x, -y]), atol=1e-15)
    assert scan.attrs["beam"] == {"diameter": 12.0, "defocus_m": 1e-6}
    report = command("info", tmp_path / "s.zarr", "--picture", tmp_path / "s.png")
    assert "mean frame (log)" in report.stdout
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--assume", "8000"), "'8000' is not an assumption; expected key=value, as in energy_eV=8000"),
        (("--assume", "speed=3"), "speed cannot be assumed"),
        (("--key", "energy_eV"), "'energy_eV' is not a key; expected name=path"),
        (("--key", "colour=beam/E"), "a key is given for 'colour'; expected one of energy_eV"),
        (("--centre", "middle"), "'middle' is not a point in pixels; expected y and x, as in 257.5,260"),
        (("--crop", "wide"), "'wide' is not a size; expected pixels, as in 256 or 256x192"),
        (("--position-axes", "zx"), "position_axes is 'zx'; expected 'yx' or 'xy'"),
        (
            ("--probe-diameter", -3),
            "diameter of the probe is -3.0; expected pixels, above 0",
        ),
        (
            ("--scan-shape", "5x5"),
            "positions are in metres, but the pixel size is unknown; expected --energy-eV",
        ),
    ],
)
def test_impossible_options_are_refused_in_one_line(
    options: tuple[object, ...], words: str, truth: xr.Dataset, tmp_path: Path
) -> None:
    path = plain_hdf5(truth, tmp_path / "a.h5")
    done = command("import", path, tmp_path / "s.zarr", *options)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_info_warns_of_a_zero_frequency_elsewhere(truth: xr.Dataset, tmp_path: Path) -> None:
    rolled = np.roll(truth["intensity"].values, 6, axis=1)
    dp.create_scan(tmp_path / "s.zarr", rolled, truth["position"].values, position_unit="pixel")
    said = command("info", tmp_path / "s.zarr").stderr
    assert "bright centre of the frames is at 2" in said
    assert "but the zero frequency is assumed at 16, 16: if that is where the direct beam lies," in said
