"""A scan that comes without a probe: the guess is right, said, and can be replaced."""

from __future__ import annotations

import bz2
import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy.io import savemat

import daskptycho as dp
from daskptycho.cli import daskptycho
from tests.lenses import SCANS, Lens, scan_with
from tests.rendering import Scene

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STAR = SHARED / "siemens-star-small.npz.bz2"
ZONE_PLATE = "zone plate 600 um behind its focus"


def counted(scene: Scene, photons: float = 1e6) -> np.ndarray:
    """Poisson counts of a scene, with this mean sum."""
    frames = scene.frames * (photons / scene.frames.sum(axis=(1, 2)).mean())
    return np.random.default_rng(1).poisson(frames).astype(np.uint32)


@pytest.fixture(scope="module", params=list(SCANS))
def measured(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Scene, xr.Dataset]:
    """Name, scene and scan, without a probe, of each beam."""
    bench, beam, step = SCANS[request.param]
    scene = scan_with(bench, beam, step, frames=7)
    kind = {"radiation": "electron"} if "microscope" in request.param else {}
    folder = tmp_path_factory.mktemp("scan")
    scan = dp.create_scan(folder / "s.zarr", counted(scene), scene.position, **bench.geometry(), **kind)
    return request.param, scene, scan


def error(scene: Scene, result: xr.Dataset) -> float:
    off = [scene.bench.places(axis)[0] for axis in (0, 1)]
    y, x = (result[axis].values + shift for axis, shift in zip("yx", off, strict=True))
    return scene.error_with_recovered_probe(result["object"].values, y, x, result["illumination"].values)


def test_image_is_right_with_no_word_about_the_probe(measured: tuple[str, Scene, xr.Dataset]) -> None:
    name, scene, scan = measured
    assert "probe" not in scan
    with pytest.warns(UserWarning, match="the scan has no probe: the first guess is") as said:
        result = dp.reconstruct(scan, sweeps=40)
    (words,) = (str(one.message) for one in said if "has no probe" in str(one.message))
    if name == "pinhole":
        assert "is a disc of" in words
    else:
        side = "before" if scene.modes[0].defocus > 0 else "behind"
        assert f"is the root of the mean frame, its focus {side} the sample" in words
        # The distance that is said is that of the lens.
        distance = float(words.partition("(defocus ")[2].split()[0])
        assert distance == pytest.approx(scene.modes[0].defocus, rel=0.1)
    assert float(result["residual"][-1]) < 1.2 * result.attrs["expected_residual"]
    assert error(scene, result) < 0.03


@pytest.fixture(scope="module")
def zone_plate(tmp_path_factory: Any) -> tuple[Scene, xr.Dataset]:
    bench, beam, step = SCANS[ZONE_PLATE]
    scene = scan_with(bench, beam, step, frames=6)
    folder = tmp_path_factory.mktemp("scan")
    return scene, dp.create_scan(folder / "s.zarr", counted(scene), scene.position, **bench.geometry())


def likeness(probe: np.ndarray, scene: Scene) -> float:
    truth = scene.probe[0] / abs(scene.probe[0]).max()
    return float(abs(np.vdot(probe[0], truth)) / np.linalg.norm(probe[0]) / np.linalg.norm(truth))


def test_known_defocus_is_taken_and_its_sign_doubted_if_the_other_fits(
    zone_plate: tuple[Scene, xr.Dataset],
) -> None:
    scene, scan = zone_plate
    with pytest.warns(UserWarning, match="the first guess is") as said:
        right = dp.guess_probe(scan, defocus_m=600e-6)
    assert "the other sign" not in str(said[0].message)
    assert likeness(right, scene) > 0.95
    with pytest.warns(UserWarning, match="the other sign of the defocus fits better"):
        wrong = dp.guess_probe(scan, defocus_m=-600e-6)
    assert likeness(wrong, scene) < 0.5
    np.testing.assert_allclose(
        np.linalg.norm(right) ** 2, scan["intensity"].sum(("qy", "qx")).mean(), rtol=0.02
    )


@pytest.mark.parametrize(("axes", "said"), [("y-x", "y or x reversed"), ("xy", "y and x exchanged")])
def test_wrong_axes_of_the_positions_are_found(
    zone_plate: tuple[Scene, xr.Dataset], axes: str, said: str, tmp_path: Path
) -> None:
    scene, scan = zone_plate
    given = scan["position"].values * [1, -1] if axes == "y-x" else scan["position"].values[:, ::-1]
    wrong = dp.create_scan(tmp_path / "s.zarr", scan["intensity"].values, given, **scene.bench.geometry())
    with pytest.warns(UserWarning, match="the first guess is") as words:
        dp.guess_probe(wrong)
    (doubt,) = (str(one.message) for one in words if "the frames fit better" in str(one.message))
    assert f"with the positions with {said}" in doubt
    with pytest.warns(UserWarning, match="the first guess is") as words:
        dp.guess_probe(scan)
    assert not [one for one in words if "the frames fit better" in str(one.message)]


@pytest.mark.filterwarnings("ignore:the scan has no probe")
def test_the_scan_remembers_what_is_known_of_the_beam(
    zone_plate: tuple[Scene, xr.Dataset], tmp_path: Path
) -> None:
    scene, scan = zone_plate
    kept = dp.create_scan(
        *(tmp_path / "s.zarr", scan["intensity"].values, scan["position"].values),
        beam={"defocus_m": 600e-6},
        **scene.bench.geometry(),
    )
    np.testing.assert_array_equal(dp.guess_probe(kept), dp.guess_probe(scan, defocus_m=600e-6))
    with pytest.raises(dp.OptionError, match="diameter of the probe is -3; expected pixels, above 0"):
        dp.guess_probe(kept, diameter=-3)


@pytest.mark.parametrize("name", ["microscope 50 nm overfocus", "microscope 50 nm underfocus"])
@pytest.mark.filterwarnings("ignore:the scan has no probe")
def test_convergence_angle_is_an_aperture_whose_defocus_is_found(name: str, tmp_path: Path) -> None:
    bench, beam, step = SCANS[name]
    scene = scan_with(bench, beam, step, frames=6)
    scan = dp.create_scan(
        *(tmp_path / "s.zarr", counted(scene), scene.position),
        radiation="electron",
        **bench.geometry(),
    )
    assert likeness(dp.guess_probe(scan, convergence_angle_mrad=15), scene) > 0.97
    assert likeness(dp.guess_probe(scan, convergence_angle_mrad=15, defocus_m=beam.defocus), scene) > 0.99
    with pytest.raises(dp.OptionError, match=r"an aperture with a radius of .* the angle"):
        dp.guess_probe(scan, convergence_angle_mrad=150)


@pytest.mark.filterwarnings("ignore:the scan has no probe")
def test_large_frames_are_tried_cropped_and_guessed_whole(tmp_path: Path) -> None:
    bench, beam, step = SCANS[ZONE_PLATE]
    fine = type(bench)(
        (192, 192), *(bench.wavelength, bench.distance, bench.detector_pixel), near=False, oversampling=1
    )
    scene = scan_with(fine, beam, 3 * step, frames=6)
    scan = dp.create_scan(tmp_path / "s.zarr", counted(scene), scene.position, **fine.geometry())
    probe = dp.guess_probe(scan)
    assert probe.shape == (1, 192, 192)
    assert likeness(probe, scene) > 0.93


def test_without_a_geometry_a_guess_needs_none_but_a_defocus_does(
    zone_plate: tuple[Scene, xr.Dataset], tmp_path: Path
) -> None:
    scene, scan = zone_plate
    position = scan["position"].values / scan.attrs["pixel_size_m"][0]
    bare = dp.create_scan(tmp_path / "s.zarr", scan["intensity"].values, position, position_unit="pixel")
    with pytest.warns(UserWarning, match="its focus before the sample, R2"):
        assert likeness(dp.guess_probe(bare), scene) > 0.95
    with pytest.raises(dp.OptionError, match="the scan has no wavelength or no pixel size; expected"):
        dp.guess_probe(bare, defocus_m=1e-4)


def test_near_field_begins_with_an_even_beam(tmp_path: Path) -> None:
    scan = dp.simulate_scan(
        *(tmp_path / "s.zarr", (2, 2), 32, 4),
        propagation="near-field",
        energy_eV=8000,
        detector_distance_m=0.01,
        detector_pixel_size_m=1e-6,
    ).drop_vars("probe")
    with pytest.warns(UserWarning, match="the first guess is an even beam"):
        assert (dp.guess_probe(scan) == 1).all()
    with pytest.raises(dp.OptionError, match="diameter of the beam is given for a near field; expected none"):
        dp.guess_probe(scan, diameter=5)


def test_a_probe_that_is_held_is_not_guessed(zone_plate: tuple[Scene, xr.Dataset]) -> None:
    with pytest.raises(dp.OptionError, match="the scan has no probe, and none is given; expected the known"):
        dp.reconstruct(zone_plate[1], sweeps=1, update_probe=False)


@pytest.mark.filterwarnings("ignore:the scan has no probe")
def test_a_run_without_a_probe_is_resumed(zone_plate: tuple[Scene, xr.Dataset], tmp_path: Path) -> None:
    scan = zone_plate[1]
    whole = dp.reconstruct(scan, sweeps=6)
    dp.reconstruct(scan, tmp_path / "r.zarr", sweeps=3)
    resumed = dp.resume(tmp_path / "r.zarr", sweeps=6)
    np.testing.assert_allclose(resumed["residual"], whole["residual"], rtol=1e-4)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(daskptycho, [str(argument) for argument in arguments])


def test_commands_take_a_probe_from_a_result_and_from_files(
    zone_plate: tuple[Scene, xr.Dataset], tmp_path: Path
) -> None:
    scene, scan = zone_plate
    url, probe = scan.encoding["source"], (scene.probe[0] / abs(scene.probe[0]).max()).astype(np.complex64)
    np.save(tmp_path / "p.npy", probe)
    np.savez(tmp_path / "p.npz", other=np.zeros(3), probe=probe[None])
    savemat(tmp_path / "p.mat", {"probe": probe})
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["last/P"] = probe[None, None]
    done = command("reconstruct", url, tmp_path / "r.zarr", "--sweeps", 12, "--guess-probe")
    assert done.exit_code == 0, done.output
    assert "the scan has no probe: the first guess is" in done.output
    first = {}
    for name in ("r.zarr", "p.npy", "p.npz", "p.mat", "p.h5:last/P"):
        out = tmp_path / "out.zarr"
        done = command("reconstruct", url, out, "--sweeps", 1, "--probe", tmp_path / name, "--overwrite")
        assert done.exit_code == 0, done.output
        assert "has no probe" not in done.output
        first[name] = float(dp.open_result(out)["residual"][0])
    assert first["p.npz"] == first["p.npy"] == first["p.mat"] == first["p.h5:last/P"]
    refused = command("reconstruct", url, tmp_path / "o.zarr", "--probe", tmp_path / "p.h5")
    assert refused.exit_code == 2
    assert "p.h5 has /last/P; expected a probe: name it, as in p.h5:PATH" in refused.output
    refused = command("reconstruct", url, tmp_path / "o.zarr", "--probe", tmp_path / "p.npy", "--guess-probe")
    assert "--probe and options for a guess of the probe are given; expected one" in refused.output


def test_import_keeps_the_probe_that_is_given(zone_plate: tuple[Scene, xr.Dataset], tmp_path: Path) -> None:
    scene, scan = zone_plate
    probe = (scene.probe[0] / abs(scene.probe[0]).max()).astype(np.complex64)
    np.save(tmp_path / "p.npy", probe)
    np.savez(
        tmp_path / "f.npz", data=scan["intensity"].values, position=scan["position"].values, probe=probe[::-1]
    )
    options = ("--energy-eV", 8000, "--pixel-size-m", scan.attrs["pixel_size_m"][0])
    done = command("import", tmp_path / "f.npz", tmp_path / "a.zarr", *options, "--probe", tmp_path / "p.npy")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(dp.open_scan(tmp_path / "a.zarr")["probe"][0], probe)
    done = command(
        "import",
        tmp_path / "f.npz",
        tmp_path / "b.zarr",
        *options,
        "--guess-probe",
        "--probe-defocus-m",
        6e-4,
    )
    assert done.exit_code == 0, done.output
    assert "It has no probe: reconstruct will guess one from the frames" in done.output
    other = dp.open_scan(tmp_path / "b.zarr")
    assert "probe" not in other
    assert other.attrs["beam"] == {"defocus_m": 6e-4}
    refused = command("import", tmp_path / "f.npz", tmp_path / "c.zarr", *options, "--probe-defocus-m", 6e-4)
    assert "f.npz has a probe, and defocus_m of the beam is given for a guess of one" in refused.output


def test_a_first_probe_may_have_any_unit(zone_plate: tuple[Scene, xr.Dataset]) -> None:
    """The squares of a probe in the units of an integral over a microscope's aperture overflow float32."""
    scene, scan = zone_plate
    residuals = [
        float(
            dp.reconstruct(scan, sweeps=3, probe=factor * scene.probe / abs(scene.probe).max())["residual"][
                -1
            ]
        )
        for factor in (1, 1e21, 1e-24)
    ]
    np.testing.assert_allclose(residuals, residuals[0], rtol=1e-3)


@pytest.mark.long
@pytest.mark.skipif(not STAR.exists(), reason="the Siemens star is not in ../shared/data")
def test_the_siemens_star_is_sharp_without_its_probe(tmp_path: Path) -> None:
    star = np.load(io.BytesIO(bz2.decompress(STAR.read_bytes())))
    np.savez(tmp_path / "star.npz", data=star["data"], scan=star["scan"])
    done = command("import", tmp_path / "star.npz", tmp_path / "s.zarr", "--position-unit", "pixel")
    assert done.exit_code == 0, done.output
    done = command("reconstruct", tmp_path / "s.zarr", tmp_path / "r.zarr", "--sweeps", 80)
    assert done.exit_code == 0, done.output
    result = dp.open_result(tmp_path / "r.zarr")
    assert float(result["residual"][-1]) < 0.0130
    known = dp.reconstruct(
        dp.open_scan(tmp_path / "s.zarr"), sweeps=20, probe=star["probe"].reshape(1, 128, 128)
    )
    same = dp.compare_images(result["object"], known["object"], weight=known["illumination"])
    assert same.error < 0.2


def test_lens_is_focused_where_it_says() -> None:
    """The renderer's own law: at the focus, the beam is as narrow as diffraction allows, on its axis."""
    at = np.linspace(-4e-7, 4e-7, 41)
    focus = abs(Lens(1e-3, 1.5e-10, 0.0)(at, at)) ** 2
    off = abs(Lens(1e-3, 1.5e-10, 600e-6)(at, at)) ** 2
    assert focus[20, 20] == focus.max()
    # The first dark ring of Airy's disc.
    assert np.argmin(focus[20, 20:28]) == round(0.61 * 1.5e-10 / 1e-3 / 2e-8)
    assert off.max() < 0.05 * focus.max()
