"""The command line: a whole session, refusals in one line with exit code 2, Ctrl-C, workers."""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import rich.progress
import xarray as xr
from click.testing import CliRunner, Result

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.cli.terminal import ProgressBars
from daskptycho.run.result import write_result
from daskptycho.scan.calibration import GEOMETRY_NUMBERS
from daskptycho.sync.options import Sync
from tests.stopping import Stop, stop_at

ROOT = Path(__file__).resolve().parents[1]
SIEMENS = ROOT.parent / "shared" / "data" / "siemens-star-small.npz.bz2"
COMMANDS = list(daskptycho.commands)
COMMAND = (sys.executable, "-m", "daskptycho")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(daskptycho, [str(argument) for argument in arguments], prog_name="daskptycho")


def run(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return result


def expect_refusal(*arguments: object) -> str:
    """Run a command that has to be refused; return the one line of its error."""
    result = invoke(*arguments)
    assert result.exit_code == 2, f"{result.output}\n{result.exception!r}"
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not re.match(r"Warning: |\d{4}-\d\d-", line)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def run_in_shell(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def read_facts(output: str) -> dict[str, str]:
    """Read names and values from a table as `info` prints it."""
    rows = (re.fullmatch(r"(\S.*?)\s{2,}(\S.*?)\s*", line) for line in output.splitlines())
    return {row[1]: row[2] for row in rows if row is not None}


def list_contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small simulated scan of four tiles and its result."""
    folder = tmp_path_factory.mktemp("work")
    run(
        *("simulate", folder / "scan.zarr", "--frames", "8x8", "--frame-size", 16, "--step", 4),
        *("--jitter", 1, "--tile-frames", 16),
    )
    run("reconstruct", folder / "scan.zarr", folder / "result.zarr", "--sweeps", 12, "--known-probe")
    return folder


def write_frames_file(path: Path, **changes: Any) -> Path:
    """Write an npz file of a valid scan in pixels with the changes of a test; None leaves an array out."""
    y, x = np.mgrid[-8:8, -8:8]
    arrays = {
        "intensity": np.random.default_rng(3)
        .poisson(50 * np.exp(-(y**2 + x**2) / 20), (30, 16, 16))
        .astype(float),
        "position": np.array([(y, x) for y in range(5) for x in range(6)], dtype=float) * 4,
        "probe": np.exp(-(y**2 + x**2) / 20).astype(complex),
    }
    np.savez(path, **{name: array for name, array in (arrays | changes).items() if array is not None})
    return path


# A whole session


def test_session_from_simulation_to_comparison(tmp_path: Path) -> None:
    scan, result, picture = (tmp_path / name for name in ("scan.zarr", "result.zarr", "both.png"))
    simulated = run(
        *("simulate", scan, "--frames", "8x8", "--frame-size", "16", "--step", "4", "--jitter", "1"),
        *("--tile-frames", "16"),
    )
    assert "64 frames of 16 x 16 pixels in 4 tiles" in simulated.stdout

    facts = read_facts(run("info", scan).stdout)
    assert facts["frames"] == "64 of 16 x 16 pixels, float32"
    assert facts["tiles"] == "4 of 16 frames"
    assert facts["pixel size"] == "unknown"

    done = run("reconstruct", scan, result, "--sweeps", 30, "--known-probe")
    residual, sweeps = re.search(r"Residual (\S+?), .* after (\d+) sweeps", done.stdout).groups()
    assert (float(residual) < 1e-3, sweeps) == (True, "30")
    assert f"daskptycho view {result}" in done.stdout
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(result).load()
    assert opened["object"].dims == ("y", "x")
    assert opened["residual"].values[-1] == pytest.approx(float(residual), rel=1e-3)

    assert run("view", result).stdout.strip() == str(tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")

    compared = run("compare", result, scan, picture).stdout
    assert "the truth" in compared
    assert float(read_facts(compared)["relative error"]) < 0.05
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list_contents(tmp_path)[0] == "both.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both.png",
        "result.png",
        "result.zarr",
        "result.zarr.checkpoints",
        "scan.zarr",
    ]


def test_every_option_of_simulate_reaches_the_scan(tmp_path: Path) -> None:
    run(
        *("simulate", tmp_path / "s.zarr", "--frames", "6x5", "--frame-size", 16, "--step", 3.5, "--seed", 4),
        *(
            "--pattern",
            "spiral",
            "--subpixel",
            "--modes",
            2,
            "--photons",
            1e4,
            "--tile-frames",
            10,
            "--jitter",
            0.5,
        ),
    )
    expected = dp.simulate_scan(
        *(tmp_path / "t.zarr", (6, 5), 16, 3.5),
        seed=4,
        pattern="spiral",
        subpixel=True,
        modes=2,
        photons=1e4,
        tile_frames=10,
        jitter=0.5,
    )
    xr.testing.assert_identical(dp.open_scan(tmp_path / "s.zarr").load(), expected.load())
    periodic = (
        "simulate",
        tmp_path / "s.zarr",
        "--frames",
        "8x9",
        "--frame-size",
        16,
        "--step",
        4,
        "--periodic",
    )
    expect_refusal(*periodic)
    run(*periodic, "--overwrite")
    assert dp.open_scan(tmp_path / "s.zarr").attrs["period"] == [32, 36]


def test_every_option_of_reconstruct_reaches_the_result(work: Path, tmp_path: Path) -> None:
    run(
        *(
            "reconstruct",
            work / "scan.zarr",
            tmp_path / "r.zarr",
            "--sweeps",
            3,
            "--algorithm",
            "raar",
            "--beta",
            0.9,
        ),
        *(
            "--sync-every",
            2,
            "--eigensolver",
            "power",
            "--eigensolver-steps",
            7,
            "--known-probe",
            "--modes",
            2,
        ),
        *("--opening", "none", "--start", "random", "--seed", 5, "--whole-pixel"),
    )
    found = dp.open_result(tmp_path / "r.zarr")
    expected = dp.reconstruct(
        dp.open_scan(work / "scan.zarr"),
        sweeps=3,
        algorithm=dp.RAAR(0.9),
        sync=Sync(eigensolver="power", iterations=7, every=2),
        update_probe=False,
        modes=2,
        opening=None,
        start="random",
        seed=5,
        subpixel=False,
    )
    assert found.attrs["options"] == expected.attrs["options"]
    np.testing.assert_allclose(found["object"], expected["object"], rtol=1e-4, atol=1e-4)


def test_tolerance_stops_early_and_says_so(work: Path, tmp_path: Path) -> None:
    done = run(
        *("reconstruct", work / "scan.zarr", tmp_path / "r.zarr", "--known-probe", "--tolerance", 0.01),
        *("--momentum", 0.7, "--sync", "none"),
    )
    sweeps = dp.open_result(tmp_path / "r.zarr").sizes["sweep"]
    assert sweeps < 100
    assert f"after {sweeps} of 100 sweeps" in done.stdout
    assert "disagreement" not in done.stdout


def test_every_option_of_import_reaches_the_scan(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    arrays = dict(np.load(file))
    shifted = np.fft.ifftshift(arrays["intensity"], axes=(1, 2))
    mask = np.ones((16, 16), dtype=bool)
    mask[3, 5] = False
    other = {
        "counts": shifted,
        "where": arrays["position"][:, ::-1] * 1e-6,
        "light": arrays["probe"],
        "good": np.fft.ifftshift(mask),
        "dark": np.ones((16, 16)),
    }
    np.savez(file, **other)
    run(
        *("import", file, tmp_path / "s.zarr", "--intensity-key", "counts", "--position-key", "where"),
        *(
            "--probe-key",
            "light",
            "--valid-key",
            "good",
            "--background-key",
            "dark",
            "--zero-frequency",
            "corner",
        ),
        *("--position-axes", "xy", "--energy-eV", 7200, "--detector-distance-m", 2),
        *("--detector-pixel-size-m", "75e-6x150e-6", "--tile-frames", 7),
    )
    scan = dp.open_scan(tmp_path / "s.zarr").sortby("frame_number")
    np.testing.assert_array_equal(scan["intensity"], arrays["intensity"] * mask)
    np.testing.assert_allclose(scan["position"], arrays["position"] * 1e-6)
    np.testing.assert_array_equal(scan["valid"], mask)
    assert scan["probe"].shape == (1, 16, 16)
    assert scan["position"].attrs["units"] == "m"
    size = scan.attrs["pixel_size_m"]
    assert size[0] == pytest.approx(2 * size[1])
    facts = read_facts(run("info", tmp_path / "s.zarr").stdout)
    assert facts["energy"] == "7.2 keV (wavelength 172.2 pm)"
    assert facts["pixel size"] == "287 nm x 143.5 nm (y, x)"
    assert facts["valid pixels"] == "99.61 %"
    assert facts["tiles"] == "5 of up to 7 frames"


def test_import_of_a_periodic_scan_by_its_wavelength(tmp_path: Path) -> None:
    run(
        *("import", write_frames_file(tmp_path / "f.npz"), tmp_path / "s.zarr", "--position-unit", "pixel"),
        *("--period", "40x50", "--wavelength-m", 1e-10),
    )
    scan = dp.open_scan(tmp_path / "s.zarr")
    assert scan.attrs["period"] == [40, 50]
    assert scan.attrs["wavelength_m"] == 1e-10
    assert "40 x 50 pixels, periodic" in run("info", tmp_path / "s.zarr").stdout


def test_siemens_star_is_imported_in_one_command_and_reconstructed(tmp_path: Path) -> None:
    if not SIEMENS.is_file():
        pytest.skip(f"{SIEMENS} is not there: the real scan is no part of the project")
    scan = tmp_path / "star.zarr"
    run("import", SIEMENS, scan, "--position-unit", "pixel", "--zero-frequency", "corner")
    facts = read_facts(run("info", scan).stdout)
    assert facts["frames"] == "516 of 128 x 128 pixels, uint16"
    assert facts["counts per frame"] == "461,213 (432,703 to 491,441)"
    assert facts["photons per pixel"] == "28.2 (at most 963, 52.5 % zeros)"
    assert facts["pixel size"] == "unknown"
    run("reconstruct", scan, tmp_path / "r.zarr", "--sweeps", 3)
    assert dp.open_result(tmp_path / "r.zarr")["residual"][-1] < 0.06


def test_result_is_described_too(work: Path) -> None:
    facts = read_facts(run("info", work / "result.zarr").stdout)
    result = dp.open_result(work / "result.zarr")
    assert facts["sweeps"].startswith("12 of 12 in ")
    assert facts["residual"].startswith(f"{float(result['residual'][-1]):.4g} ")
    assert facts["object"] == "{} x {} pixels, complex64".format(*result["object"].shape)
    assert facts["algorithm"] == "lbfgs"
    assert facts["update probe"] == "no"
    assert facts["source"] == str(work / "scan.zarr")


def test_info_warns_about_what_is_rarely_intended(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz", probe=None)
    arrays = dict(np.load(file))
    arrays["intensity"][7] = 0
    np.savez(file, **arrays | {"position": arrays["position"] * 3})
    done = run("import", file, tmp_path / "s.zarr", "--position-unit", "pixel")
    assert "frame 7 has no counts, and is left out" in done.stderr
    shown = run("info", tmp_path / "s.zarr")
    assert read_facts(shown.stdout)["left out"] == "frame 7"
    lines = shown.stderr.splitlines()
    assert [line.startswith("Warning: ") for line in lines] == [True] * 2
    for what in ("no probe", "hardly overlap"):
        assert what in "\n".join(lines)


@pytest.mark.parametrize("claimed", ["corner", "centre"])
def test_wrong_claim_about_the_zero_frequency_is_doubted_once(claimed: str, tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    if claimed == "centre":
        counts = np.load(file)["intensity"]
        write_frames_file(file, intensity=np.fft.ifftshift(counts, axes=(1, 2)))
    done = run(
        *("import", file, tmp_path / "s.zarr", "--position-unit", "pixel", "--zero-frequency", claimed)
    )
    said = [line for line in done.stderr.splitlines() if "Warning" in line]
    assert len(said) == 1
    assert "--zero-frequency corner, or without it if it was given" in said[0]


def test_import_says_that_frames_lie_too_far_apart_for_a_right_unit(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    np.savetxt(tmp_path / "p.txt", np.load(file)["position"])
    given = ("--position-file", tmp_path / "p.txt", "--position-unit", "um", "--pixel-size-m")
    assert "share no pixel" not in run("import", file, tmp_path / "right.zarr", *given, "1e-6").stderr
    done = run("import", file, tmp_path / "wrong.zarr", *given, "1e-7")
    assert "most frames share no pixel with another one: the nearest is 40 pixels away" in done.stderr
    shown = run("info", tmp_path / "wrong.zarr").stderr
    assert shown.count("share no pixel") == 1
    assert "hardly overlap" not in shown


@pytest.mark.parametrize("pad", [0, 8])
def test_info_warns_of_a_beam_wider_than_a_near_field_detector(pad: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(50, (9, 32, 32))
    position = np.stack(np.mgrid[:3, :3], axis=-1).reshape(9, 2) * 4
    np.savez(tmp_path / "f.npz", data=counts, position=position, probe=np.ones((32, 32), complex))
    near = ["--propagation", "near-field", "--wavelength-m", "1e-10", "--detector-distance-m", "1.6e-3"]
    near += ["--detector-pixel-size-m", "1e-7", "--position-unit", "pixel", "--zero-frequency", "centre"]
    # The Fresnel number of a pixel is 1 / 16.
    run("import", tmp_path / "f.npz", tmp_path / "s.zarr", *near, "--pad", str(pad))
    found = run("info", tmp_path / "s.zarr").stderr
    assert ("import with --pad 8 to leave it room" in found) == (pad == 0)


# Pictures and comparisons


def test_picture_takes_the_format_of_its_name(work: Path, tmp_path: Path) -> None:
    run("view", work / "result.zarr", tmp_path / "p.pdf", "--keep-ramp")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


def test_picture_that_is_there_is_kept(work: Path, tmp_path: Path) -> None:
    result, scan, picture = work / "result.zarr", work / "scan.zarr", tmp_path / "p.png"
    picture.write_bytes(b"mine")
    commands = (
        ("view", result, picture),
        ("compare", result, scan, picture),
        ("frc", scan, picture, "--sweeps", 1),
        ("info", scan, "--picture", picture),
        ("export", result, picture),
    )
    for command in commands:
        assert "p.png exists already; pass --overwrite to replace it" in expect_refusal(*command)
        assert picture.read_bytes() == b"mine"
    for command in (commands[0], commands[3]):
        run(*command, "--overwrite")
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.write_bytes(b"mine")


def test_pictures_show_what_was_asked_for(work: Path, tmp_path: Path) -> None:
    from PIL import Image

    result, picture = work / "result.zarr", tmp_path / "p.png"
    sizes = {}
    for name, options in {
        "all": (),
        "object": ("--only", "object", "--region", "4:24,6:26"),
        "phase": ("--only", "phase", "--colour-map", "gray", "--range", "-0.5,0.5"),
        "probe": ("--only", "probe"),
        "small": ("--only", "probe", "--size", 3, "--dpi", 50),
    }.items():
        run("view", result, picture, *options, "--overwrite")
        sizes[name] = Image.open(picture).size
    assert sizes["all"][1] > sizes["object"][1]
    assert sizes["object"][0] == sizes["all"][0] == 2 * sizes["phase"][0] == 13 * 150
    assert sizes["small"][0] == 150


def test_image_has_one_dot_per_pixel(work: Path, tmp_path: Path) -> None:
    import matplotlib as mpl
    from PIL import Image

    result, picture = work / "result.zarr", tmp_path / "p.png"
    values = np.abs(dp.open_result(result)["object"].values[10:30, 12:40])
    region = ("--region", "10:30,12:40")
    run("export", result, picture, "--part", "amplitude", *region, "--range", "0.5,1.5")
    dots = np.asarray(Image.open(picture))
    assert dots.shape == (20, 28, 4)
    expected = mpl.colormaps["gray"]((values - 0.5), bytes=True)
    assert np.abs(dots.astype(int) - expected).max() <= 1
    run("export", result, picture, *region, "--overwrite")
    assert np.asarray(Image.open(picture)).shape == (20, 28, 4)
    run("export", result, tmp_path / "o.npy", *region)
    np.testing.assert_array_equal(
        np.load(tmp_path / "o.npy"), dp.open_result(result)["object"].values[10:30, 12:40]
    )


def test_view_and_export_subtract_the_same_ramp_and_say_so(work: Path, tmp_path: Path) -> None:
    import tifffile

    known = dp.open_result(work / "result.zarr")
    ramp = np.exp(0.05j * np.arange(known.sizes["x"]))
    options = json.loads(known.attrs["options"]) | {"update_probe": True}
    tilted = known.assign(object=known["object"] * ramp.astype(np.complex64))
    write_result(tilted.assign_attrs(options=json.dumps(options)), tmp_path / "r.zarr")

    def slope(file: Path) -> float:
        phase = tifffile.imread(file)[0][12:-12, 12:-12]
        return float(np.angle(np.sum(np.exp(1j * np.diff(phase, axis=1)))))

    for target in ("p.png", "i.png", "i.tif"):
        command = "view" if target == "p.png" else "export"
        said = run(command, tmp_path / "r.zarr", tmp_path / target).stderr
        assert said.startswith(f"{tmp_path / target}: the mean slope of the phase has been subtracted")
    kept = run("export", tmp_path / "r.zarr", tmp_path / "kept.tif", "--keep-ramp")
    assert kept.stderr == ""
    assert slope(tmp_path / "kept.tif") - slope(tmp_path / "i.tif") == pytest.approx(0.05, abs=0.02)
    # What holds complex numbers is as it was measured.
    assert run("export", tmp_path / "r.zarr", tmp_path / "o.npy").stderr == ""
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), tilted["object"])


def test_info_draws_a_result_as_well(work: Path, tmp_path: Path) -> None:
    for store in ("scan.zarr", "result.zarr"):
        done = run("info", work / store, "--picture", tmp_path / f"{store}.png")
        assert done.stdout.rstrip().endswith(f"{store}.png")
        assert (tmp_path / f"{store}.png").read_bytes().startswith(b"\x89PNG")


def write_shifted_result(
    source: Path, target: Path, offset: int, unit: str = "pixel", step: float = 1.0
) -> Path:
    """Write a copy of a result whose canvas is smaller and begins elsewhere."""
    part = dp.open_result(source).isel(y=slice(offset, None), x=slice(0, -offset))
    for axis in ("y", "x"):
        part = part.assign_coords({axis: (axis, part[axis].values * step, {"units": unit})})
    write_result(part, target)
    return target


def test_images_on_different_canvases_are_compared_where_both_are(work: Path, tmp_path: Path) -> None:
    other = write_shifted_result(work / "result.zarr", tmp_path / "part.zarr", 3)
    for pair in ((work / "result.zarr", other), (other, work / "result.zarr")):
        facts = read_facts(run("compare", *pair).stdout)
        assert float(facts["relative error"]) < 1e-6
        assert facts["shift"] == "0.000, 0.000 pixels (y, x)"
        assert facts["resolution"].endswith("pixels or better")


def test_resolution_is_a_length_where_the_scale_is_known(work: Path, tmp_path: Path) -> None:
    noisy = dp.open_result(work / "result.zarr")
    noisy["object"] += np.random.default_rng(0).normal(0, 1.5, noisy["object"].shape)
    write_result(noisy, tmp_path / "noisy.zarr")
    paths = [
        write_shifted_result(path, tmp_path / f"{name}-m.zarr", 1, "m", 1e-8)
        for name, path in (("noisy", tmp_path / "noisy.zarr"), ("clean", work / "result.zarr"))
    ]
    facts = read_facts(run("compare", *paths).stdout)
    assert re.fullmatch(r"[\d.]+ nm \(full period\)", facts["resolution"])
    assert facts["FRC crossing"].endswith(" 1/m")


def test_metres_are_compared_with_the_pixels_of_a_simulation(work: Path, tmp_path: Path) -> None:
    result, scan = work / "result.zarr", work / "scan.zarr"
    measured = write_shifted_result(result, tmp_path / "m.zarr", 1, "m", 1e-8)
    expected = read_facts(run("compare", write_shifted_result(result, tmp_path / "p.zarr", 1), scan).stdout)
    done = run("compare", measured, scan).stdout
    assert f"{measured} is in metres and the other image in pixels" in done
    assert read_facts(done) == expected


def test_resolution_of_a_scan_from_its_halves(tmp_path: Path) -> None:
    picture, facts = tmp_path / "frc.png", {}
    for photons in (100, 1e5):
        given = ("--frames", "12x12", "--frame-size", 32, "--step", 4, "--jitter", 1, "--photons", photons)
        run("simulate", tmp_path / "s.zarr", *given, "--overwrite")
        done = run("frc", tmp_path / "s.zarr", picture, "--sweeps", 20, "--known-probe", "--overwrite")
        facts[photons] = read_facts(done.stdout)
        assert facts[photons]["frames"] == "72, 72"
    assert facts[100]["FRC crossing"].endswith(" 1/pixel")
    # With few photons the halves share hardly more than a shape, with many they share everything.
    assert float(facts[100]["resolution"].split()[0]) > 10
    assert facts[1e5]["resolution"].endswith("pixels or better")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frc.png", "s.zarr"]
    run("simulate", tmp_path / "few.zarr", "--frames", "2x2", "--frame-size", 16, "--step", 4)
    assert "has 4 frames; expected at least 8" in expect_refusal("frc", tmp_path / "few.zarr")


# Refusals


BAD_FILES = {
    "NaN counts": ({"intensity": [(4, 2, 3, np.nan)]}, (), "1 NaN or infinite value in frame 4"),
    "negative counts": ({"intensity": [(4, 2, 3, -1)]}, (), "1 negative value in frame 4"),
    "position not finite": ({"position": [(6, 1, np.inf)]}, (), "position is not finite for 1 of 30 frames"),
    "position outside the period": (
        {"position": [(6, 1, 40.0)]},
        ("--period", "32x32"),
        "position lies outside the period for",
    ),
    "period too small": ({}, ("--period", "8x50"), "period is (8, 50) pixels; expected at least (32, 32)"),
    "too few positions": (
        {"position": np.zeros((7, 2))},
        (),
        "30 frames, and 7 positions; expected one for each",
    ),
    "frames of one dimension": (
        {"intensity": np.zeros(30)},
        (),
        "intensity is not found in",
    ),
    "probe of another size": (
        {"probe": np.ones((8, 8))},
        ("--probe-key", "probe"),
        "probe has the shape (1, 8, 8); expected",
    ),
    "mask of another size": (
        {"good": np.ones((8, 8), bool)},
        ("--valid-key", "good"),
        "valid (good) is 8 x 8 bool; expected (16, 16)",
    ),
    "no positions": ({"position": None}, (), "30 frames and no positions; expected"),
    "a key that is not there": ({}, ("--probe-key", "beam"), "name it with probe_key (--probe-key)"),
    "no tile": ({}, ("--tile-frames", 0), "tile_frames is 0; expected at least 1"),
    "negative energy": ({}, ("--energy-eV", -1), "energy_eV is -1.0; expected a positive number"),
    "two energies": ({}, ("--energy-eV", 1e4, "--wavelength-m", 1e-9), "give one of the two"),
}


@pytest.mark.parametrize(("changes", "options", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_refused_and_nothing_is_left(
    tmp_path: Path, changes: dict[str, Any], options: tuple[Any, ...], message: str
) -> None:
    good = dict(np.load(write_frames_file(tmp_path / "f.npz")))
    arrays = {name: change for name, change in changes.items() if not isinstance(change, list)}
    for name, change in changes.items():
        if isinstance(change, list):
            arrays[name] = good[name]
            for *index, value in change:
                arrays[name][tuple(index)] = value
    write_frames_file(tmp_path / "f.npz", **arrays)
    line = expect_refusal(
        "import", tmp_path / "f.npz", tmp_path / "new" / "s.zarr", "--position-unit", "pixel", *options
    )
    assert message in line
    assert list_contents(tmp_path) == ["f.npz"]


def test_metres_without_geometry_are_refused_with_the_options_to_give(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    line = expect_refusal("import", file, tmp_path / "s.zarr", "--detector-distance-m", 2)
    for option in ("--energy-eV", "--detector-pixel-size-m", "--position-unit pixel"):
        assert option in line
    assert "--detector-distance-m" not in line
    assert list_contents(tmp_path) == ["f.npz"]


@pytest.mark.filterwarnings("default:zero_frequency")
def test_warning_is_one_line(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    done = run("import", file, tmp_path / "s.zarr", "--position-unit", "pixel", "--zero-frequency", "corner")
    lines = [line for line in done.stderr.splitlines() if "Importing: " not in line]
    assert all(line.startswith("Warning: ") for line in lines)
    assert any("--zero-frequency corner" in line for line in lines)


def test_damaged_scan_is_refused_and_nothing_is_left(work: Path, tmp_path: Path) -> None:
    scan = tmp_path / "s.zarr"
    run("simulate", scan, "--frames", "6x6", "--frame-size", 16, "--step", 4, "--tile-frames", 9)
    (scan / "intensity" / "c" / "2" / "0" / "0").unlink()
    before = list_contents(tmp_path)
    for command in (
        ("info", scan),
        ("reconstruct", scan, tmp_path / "r.zarr"),
        ("compare", work / "result.zarr", scan),
    ):
        assert "1 of 4 chunks of intensity are missing" in expect_refusal(*command)
    assert list_contents(tmp_path) == before


@pytest.mark.parametrize(
    "damage", [lambda chunk: bytes(len(chunk)), lambda chunk: chunk[:99]], ids=["zeros", "cut off"]
)
def test_scan_with_a_damaged_chunk_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    scan = tmp_path / "s.zarr"
    run("simulate", scan, "--frames", "6x6", "--frame-size", 16, "--step", 4, "--tile-frames", 9)
    chunk = scan / "intensity" / "c" / "2" / "0" / "0"
    chunk.write_bytes(damage(chunk.read_bytes()))
    assert f"frames of {scan} cannot be read: " in expect_refusal("info", scan)


def test_dark_scan_is_refused_once_it_is_read(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz", intensity=np.zeros((30, 16, 16)))
    run("import", file, tmp_path / "s.zarr", "--position-unit", "pixel")
    before = list_contents(tmp_path)
    assert "no counts at all" in expect_refusal("reconstruct", tmp_path / "s.zarr", tmp_path / "r.zarr")
    assert list_contents(tmp_path) == before


def test_scan_without_a_probe_is_reconstructed_and_it_is_said(tmp_path: Path) -> None:
    url, out = tmp_path / "s.zarr", tmp_path / "r.zarr"
    frames = write_frames_file(tmp_path / "f.npz", probe=None)
    said = run("import", frames, url, "--position-unit", "pixel").stdout
    assert "It has no probe: reconstruct will guess one from the frames" in said
    assert "the scan has no probe: the first guess is" in run("reconstruct", url, out, "--sweeps", 2).stderr
    assert "has no probe" in expect_refusal("reconstruct", url, tmp_path / "n.zarr", "--known-probe")
    # The halves of a scan share one guess.
    assert run("frc", url, "--sweeps", 2).stderr.count("the scan has no probe") == 1


BAD_OPTIONS = {
    ("--beta", 0.7): "--beta is 0.7 with --algorithm ap; only raar has a beta",
    ("--beta", 0.7, "--algorithm", "dm"): "only raar has a beta",
    ("--beta", 7, "--algorithm", "raar"): "expected above 0 and at most 1",
    ("--momentum", 0.7, "--algorithm", "raar"): "only algorithms without a stack take one",
    ("--momentum", 1.5): "momentum is 1.5",
    ("--momentum", "fast"): "'fast' is neither 'nesterov' nor a number",
    (
        "--sync",
        "none",
        "--sync-every",
        3,
        "--eigensolver-steps",
        9,
    ): "--sync-every and --eigensolver-steps with --sync none",
    ("--sync-every", 0): "sync every is 0",
    ("--sync-every", 1.5): "'1.5' is neither 'auto' nor a whole number",
    ("--eigensolver-steps", 0): "iterations is 0",
    ("--iterations", 50): "expected --sweeps, the number of sweeps over all frames, or --eigensolver-steps",
    ("--sweeps", 0): "sweeps is 0; expected a whole number, 1 or more",
    ("--modes", 0): "modes is 0",
    ("--tolerance", -1): "tolerance is -1.0; expected above 0",
    ("--workers", 0): "--workers is 0; expected 1 or more",
    ("--workers", 2, "--scheduler", "tcp://127.0.0.1:8786"): "--workers and --scheduler are both given",
    ("--scheduler", "nowhere"): "no Dask scheduler answers at nowhere",
    ("--scheduler", "carrier-pigeon://coop:1"): "no Dask scheduler answers at carrier-pigeon",
    ("--algorithm", "magic"): "'magic' is not one of 'lbfgs', 'ap', 'raar', 'dm'",
    ("--speed", 9): "No such option '--speed'",
}


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.items(), ids=lambda value: str(value)[:40])
def test_options_that_make_no_sense_are_refused(
    work: Path, tmp_path: Path, options: tuple[Any, ...], message: str
) -> None:
    assert message in expect_refusal("reconstruct", work / "scan.zarr", tmp_path / "new" / "r.zarr", *options)
    assert list_contents(tmp_path) == []


REFUSED = {
    "view nowhere.zarr": "nowhere.zarr does not exist",
    "view scan.zarr": "is a daskptycho-scan; expected a result",
    "view result.zarr picture.bmp9": "picture.bmp9 ends in .bmp9; expected one of",
    "view result.zarr no/where.png": "no is not a folder",
    "view result.zarr p.png --region 3:9": "'3:9' is not a region; expected rows and columns, as in",
    "view result.zarr p.png --region 900:990,0:9": "the region 900:990,0:9 holds no pixel; expected rows and",
    "view result.zarr p.png --range 1,0": "'1,0' is not a range; expected a smaller and a larger number",
    "view result.zarr p.png --colour-map rainbows": "colour map 'rainbows' is not known",
    "export result.zarr o.npy --colour-map gray": "--colour-map with a .npy file; expected a .png",
    "info nowhere.zarr": "nowhere.zarr does not exist",
    "info .": "holds no Zarr group",
    "compare result.zarr nowhere.zarr": "nowhere.zarr does not exist",
    "compare result.zarr": "Missing argument 'B'; see 'daskptycho compare --help'",
    "reconstruct nowhere.zarr new.zarr": "nowhere.zarr does not exist",
    "reconstruct result.zarr new.zarr": "is a result of daskptycho",
    "reconstruct scan.zarr result.zarr": "result.zarr exists already; pass --overwrite",
    "import nowhere.npz new.zarr": "nowhere.npz does not exist; expected a data file",
    "import notes.txt new.zarr": "notes.txt is of no known format",
    "import notes.txt result.zarr": "result.zarr exists already; pass --overwrite",
    "simulate scan.zarr": "scan.zarr exists already",
    "simulate new.zarr --frames 8x": "'8x' is not a pair of whole numbers; expected y and x, as in 8x8",
    "simulate new.zarr --frame-size 2": "frame_size is 2; expected at least 4 pixels",
    "simulate new.zarr --pattern spiral --periodic": "a periodic spiral does not exist",
    "simulate notes.txt/new.zarr": "notes.txt/new.zarr.partial: Not a directory",
    "simulate s3://bucket": "s3://bucket names no store; expected s3://bucket/name",
    "simulate https://host/new.zarr": "is on a web server, which is read-only; expected a bucket or a disk",
    "info ftp://host/scan.zarr": "the scheme ftp:// is not known; expected a path or one of s3://",
    "import notes.txt new.zarr --detector-pixel-size-m wide": "'wide' is not a length; expected metres",
    "demo notes.txt": "notes.txt: File exists",
    "dance": "No such command 'dance'; see 'daskptycho --help'",
    "--dance": "No such option '--dance'; see 'daskptycho --help'",
}


@pytest.mark.parametrize(("line", "message"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.chdir(work)
    Path("notes.txt").write_text("nothing")
    before = list_contents(work)
    assert message in expect_refusal(*line.split())
    assert list_contents(work) == before


def test_measured_scan_has_no_image_to_compare_with(work: Path, tmp_path: Path) -> None:
    run("import", write_frames_file(tmp_path / "f.npz"), tmp_path / "s.zarr", "--position-unit", "pixel")
    assert "is a measured scan" in expect_refusal("compare", work / "result.zarr", tmp_path / "s.zarr")


def test_bug_is_not_a_refusal(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(url: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("daskptycho.run.history.open_finished", broken)
    assert isinstance(invoke("view", work / "result.zarr").exception, RuntimeError)


@pytest.mark.parametrize("command", [["view"], ["export", "image.tif"]], ids=lambda words: words[0])
def test_result_of_a_run_that_was_stopped_is_not_there_yet(work: Path, tmp_path: Path, command: list) -> None:
    out = tmp_path / "stopped.zarr"
    with pytest.raises(Stop):
        dp.reconstruct(dp.open_scan(work / "scan.zarr"), out, sweeps=8, callback=stop_at(2))
    name, *others = command
    line = expect_refusal(name, out, *(tmp_path / other for other in others))
    assert line.endswith(f"sweep 2 is kept: finish it with daskptycho resume {out}, or use --sweep 2")


def test_command_that_is_interrupted_while_it_is_loaded_ends_in_a_line() -> None:
    code = """
import sys
from daskptycho.__main__ import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "daskptycho.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "Interrupted; nothing incomplete is left behind.\n"


# Help


def test_help_is_quick() -> None:
    heavy = {"dask", "distributed", "matplotlib", "numba", "numpy", "rich", "scipy", "xarray", "zarr"}
    code = (
        "import sys\nfrom daskptycho.__main__ import main\nsys.argv = ['daskptycho', '--help']\n"
        f"try: main()\nexcept SystemExit: print(*({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stderr.split() == []


def test_a_run_begins_without_what_it_does_not_need(work: Path, tmp_path: Path) -> None:
    unneeded = {"bokeh", "boto3", "h5py", "IPython", "matplotlib", "obstore", "skimage", "tifffile"}
    unneeded |= {f"scipy.{name}" for name in ("interpolate", "io", "ndimage", "optimize", "signal", "stats")}
    arguments = ["reconstruct", str(work / "scan.zarr"), str(tmp_path / "result.zarr"), "--sweeps", "1"]
    code = (
        f"import sys\nfrom daskptycho.__main__ import main\nsys.argv = ['daskptycho', *{arguments!r}]\n"
        f"try: main()\nexcept SystemExit: print(sorted({unneeded!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert (tmp_path / "result.zarr").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_purpose_and_examples_that_can_be_read(name: str) -> None:
    command = daskptycho.commands[name]
    shown = run(name, "--help").stdout
    assert command.help
    assert all(len(line) <= 80 for line in shown.splitlines())
    for example in command.examples:
        assert example.splitlines()[0].rstrip("\\ ") in shown
        program, typed, *arguments = shlex.split(example.replace("\\\n", " "))
        assert (program, typed) == ("daskptycho", name)
        command.make_context(name, arguments)


def test_commands_are_those_of_the_design_in_the_order_of_use() -> None:
    assert [
        *("demo", "simulate", "import", "record", "info", "plan", "reconstruct"),
        *("resume", "history", "view", "compare", "frc", "export", "check-gpu"),
    ] == COMMANDS
    listed = re.findall(r"^  (\S+)  +\S", run("--help").stdout.split("Commands:")[1], re.MULTILINE)
    assert listed == COMMANDS


@pytest.mark.parametrize(
    ("name", "function"),
    [("simulate", dp.simulate_scan), ("import", dp.create_scan), ("reconstruct", dp.reconstruct)],
)
def test_defaults_are_those_of_python(name: str, function: Any) -> None:
    command = daskptycho.commands[name]
    arguments = [param.name for param in command.params if isinstance(param, click.Argument)]
    typed = command.make_context(name, list(arguments)).params
    in_python = {key: value.default for key, value in inspect.signature(function).parameters.items()}
    # The value of --sync is a field of Sync, whose defaults have a test of their own.
    shared = (typed.keys() & in_python.keys()) - {*arguments, "sync"}
    if name == "import":
        # Options that override the file have no default, which would override it as well.
        shared -= {"position_unit", "propagation", "radiation"}
    if name == "reconstruct":
        # A switch that is not given stands for "auto".
        assert (typed["polish"], in_python["polish"]) == (None, "auto")
        shared -= {"polish"}
    assert len(shared) >= 8
    assert {key: typed[key] for key in shared} == {key: in_python[key] for key in shared}


def test_defaults_of_sync_are_those_of_python() -> None:
    typed = daskptycho.commands["reconstruct"].make_context("reconstruct", ["scan", "out"]).params
    names = ("sync", "inner", "eigensolver", "eigensolver_steps", "sync_every")
    asked = Sync(*(typed[name] for name in names))
    assert asked == Sync()


# As a process


def test_module_is_the_same_command() -> None:
    for flag in ("--version", "-V"):
        assert run_in_shell(flag).stdout == f"daskptycho, version {dp.__version__}\n"


LOGGED = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  Reconstructing: sweep (\d+) of 50   residual .* s per sweep"


def test_progress_in_a_file_says_when_and_how_long(work: Path, tmp_path: Path) -> None:
    command = ("reconstruct", work / "scan.zarr", tmp_path / "r.zarr", "--sweeps", 50, "--known-probe")
    lines = run(*command).stderr.splitlines()
    sweeps = [1, *range(5, 51, 5)]
    found = [re.match(LOGGED, line) for line in lines]
    assert [int(match[1]) for match in found if match] == sweeps
    assert [line.endswith(" left") for line in lines] == [sweep < 50 for sweep in sweeps]
    told = run(*command, "--overwrite", "--verbose").stderr.splitlines()
    assert len(told) == 50
    silent = run(*command, "--overwrite", "--quiet")
    assert (silent.stdout, silent.stderr) == ("", "")


def test_a_run_that_waits_does_not_fill_a_log() -> None:
    """It reports its last sweep every few seconds, for as long as no frame comes."""
    lines: list[str] = []
    log = ProgressBars(rich.progress.Progress(disable=True), lines.append).tiles("Following")
    for number in (1, 2, 2, 2, 10, 10, 10):
        log(number, 20)
    assert [line.rpartition(": ")[2].split("   ")[0] for line in lines] == [
        "tile 1 of 20",
        "tile 2 of 20",
        "tile 10 of 20",
    ]


def test_progress_over_frames_is_written_into_a_file_too(tmp_path: Path) -> None:
    given = ("--frames", "8x8", "--frame-size", 16, "--step", 4, "--tile-frames", 16)
    simulated = run("simulate", tmp_path / "s.zarr", *given)
    assert re.search(r"  Simulating: frame 64 of 64$", simulated.stderr, re.MULTILINE)
    silent = run("simulate", tmp_path / "s.zarr", *given, "--overwrite", "-q")
    assert (silent.stdout, silent.stderr) == ("", "")


def test_refusal_of_a_process_has_no_traceback(tmp_path: Path) -> None:
    done = run_in_shell("info", tmp_path / "nowhere.zarr")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"Error: {tmp_path}/nowhere.zarr does not exist; expected a scan, as create_scan writes it\n"
    )


def test_terminal_without_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    run(
        *("import", write_frames_file(tmp_path / "f.npz"), tmp_path / "s.zarr", "--position-unit", "pixel"),
        *("--energy-eV", 7200, "--detector-distance-m", 2, "--detector-pixel-size-m", 5e-6),
    )
    done = run_in_shell("info", tmp_path / "s.zarr", PYTHONIOENCODING="ascii", COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "4.305 ?m" in done.stdout


@pytest.fixture
def running(request: pytest.FixtureRequest, work: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long reconstruction in another process, after its first sweep."""
    from distributed import LocalCluster

    with ExitStack() as opened:
        where = getattr(request, "param", [])
        if where == ["--scheduler"]:
            cluster = opened.enter_context(
                LocalCluster(2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None)
            )
            where = ["--scheduler", cluster.scheduler_address]
        process = subprocess.Popen(
            [
                *(*COMMAND, "reconstruct", str(work / "scan.zarr"), str(tmp_path / "r.zarr")),
                *("--sweeps", "1000000", *where),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "sweep 1 of 1000000" in (process.stderr.readline() if "dashboard" in line else line)
        yield process
        if process.poll() is None:
            process.kill()
        process.communicate()


clusters = pytest.mark.parametrize(
    "running",
    [
        [],
        pytest.param(["--workers", "2"], marks=pytest.mark.long),
        pytest.param(["--scheduler"], marks=pytest.mark.long),
    ],
    indirect=True,
    ids=["threads", "workers", "scheduler"],
)


def test_ctrl_c_while_python_ends_leaves_no_traceback() -> None:
    script = """
import atexit, os, signal, sys
from daskptycho.__main__ import main
# What is registered last runs first, while Python ends.
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv = ["daskptycho", "--version"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""
    assert done.stdout.startswith("daskptycho, version")


@pytest.mark.parametrize("command", ["import", "record", "simulate"])
def test_geometry_has_the_same_options_everywhere(command: str) -> None:
    def geometry(of: str) -> dict[str, Any]:
        return {
            param.name: param.type.name
            for param in daskptycho.commands[of].params
            if (param.name or "").endswith(("_m", "_eV")) or param.name in ("radiation", "propagation")
        }

    shared = set(geometry("record"))
    assert shared == {*GEOMETRY_NUMBERS, "radiation", "propagation"}
    own = {name: kind for name, kind in geometry(command).items() if name in shared}
    assert own == {name: kind for name, kind in geometry("record").items() if name in own}
    # A simulated scan has no calibrated pixel, and one number for its energy.
    assert set(own) == shared - ({"pixel_size_m", "wavelength_m"} if command == "simulate" else set())


@clusters
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_run_that_is_asked_to_stop_leaves_a_checkpoint_and_nothing_half_written(
    running: subprocess.Popen[str], tmp_path: Path, number: signal.Signals, code: int, message: str
) -> None:
    assert list_contents(tmp_path)[0] == "r.zarr.partial"
    # A terminal or a batch system sends the signal to the whole group of processes.
    os.killpg(running.pid, number)
    out, err = running.communicate()
    assert running.returncode == code
    stopped, kept = err.splitlines()[-2:]
    assert (out, stopped) == ("", f"{message}; nothing incomplete is left behind.")
    assert kept.endswith(
        f"is kept in {tmp_path}/r.zarr.checkpoints; resume with: daskptycho resume {tmp_path}/r.zarr"
    )
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["r.zarr.checkpoints"]
    sweep = dp.checkpoints(tmp_path / "r.zarr")[-1].sweep
    assert f"Sweep {sweep} is kept" in kept
    run("resume", tmp_path / "r.zarr", "--sweeps", sweep + 1)
    assert dp.open_result(tmp_path / "r.zarr").sizes["sweep"] == sweep + 1


def test_fault_is_reported_in_two_lines(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(progress: Any) -> None:
        raise dp.FaultError("the store is gone")

    monkeypatch.setattr("daskptycho.cli.terminal.ProgressBars.sweeps", lambda *_: fail)
    failed = invoke("reconstruct", work / "scan.zarr", tmp_path / "r.zarr")
    assert failed.exit_code == 1
    assert failed.stderr.splitlines() == [
        "Error: the store is gone",
        f"Sweep 1 is kept in {tmp_path}/r.zarr.checkpoints; resume with: daskptycho resume {tmp_path}/r.zarr",
    ]


# On a cluster


def test_workers_give_the_same_image_as_threads(work: Path, tmp_path: Path) -> None:
    done = run_in_shell(
        *(
            "reconstruct",
            work / "scan.zarr",
            tmp_path / "r.zarr",
            "--sweeps",
            12,
            "--known-probe",
            "--workers",
            2,
        )
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        f"{tmp_path}/r.zarr is complete; look at it with: daskptycho view {tmp_path}/r.zarr",
    )
    usual = ("  Reconstructing: ", "Dask's dashboard: ")
    assert [line for line in done.stderr.splitlines() if not any(part in line for part in usual)] == []
    paths = (tmp_path / "r.zarr", work / "result.zarr")
    found, expected = (dp.open_result(path)["object"].values for path in paths)
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


def test_running_scheduler_is_used_and_left_running(work: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        options = ("--sweeps", 2, "--scheduler", cluster.scheduler_address)
        run("reconstruct", work / "scan.zarr", tmp_path / "r.zarr", *options)
        with Client(cluster) as client:
            ran = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.task_prefixes))
    assert ran > 0


# Frames and pixels that are wrong


def test_frames_are_left_out_by_import_and_by_reconstruct(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    (tmp_path / "bad.txt").write_text("4\n7\n")
    scan, out = tmp_path / "s.zarr", tmp_path / "r.zarr"
    run("import", file, scan, "--position-unit", "pixel", "--leave-out", tmp_path / "bad.txt")
    assert read_facts(run("info", scan).stdout)["left out"] == "frames 4 and 7"
    run("reconstruct", scan, out, "--sweeps", 2, "--leave-out", "9,11-12", "--checkpoint-minutes", "none")
    assert read_facts(run("info", out).stdout)["left out"] == "frames 4, 7, 9, 11 and 12"
    said = expect_refusal("reconstruct", scan, tmp_path / "x.zarr", "--leave-out", "30")
    assert "leave_out names frame 30, which the scan does not have" in said
    assert "expected numbers of frames" in expect_refusal(
        "import", file, tmp_path / "x.zarr", "--position-unit", "pixel", "--leave-out", "all"
    )


def test_codes_and_negative_counts_have_their_options(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    arrays = dict(np.load(file))
    counts = arrays["intensity"].astype("i4")
    counts[3, 2, 5], counts[:, 1, 1] = 77777, -1
    counts[5, 2, 2] = -4
    np.savez(file, **arrays | {"intensity": counts})
    command = ("import", file, tmp_path / "s.zarr", "--position-unit", "pixel")
    assert "--clip-negative" in expect_refusal(*command)
    done = run(*command, "--clip-negative", "--mask-value", 77777, "--mask-value", "nan")
    assert "with a negative code (-1)" in done.stderr
    valid = dp.open_scan(tmp_path / "s.zarr")["valid"].values
    assert np.argwhere(~valid).tolist() == [[1, 1], [2, 5]]


def test_info_of_a_scan_with_one_valid_pixel(tmp_path: Path) -> None:
    file = write_frames_file(tmp_path / "f.npz")
    arrays = dict(np.load(file))
    valid = np.zeros(arrays["intensity"].shape[1:], dtype=bool)
    valid[2, 3] = True
    np.savez(file, **arrays, good=valid)
    run("import", file, tmp_path / "s.zarr", "--position-unit", "pixel", "--valid-key", "good")
    assert "only 1 of 256 pixels are valid" in run("info", tmp_path / "s.zarr").stderr


def test_a_unit_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = np.load(write_frames_file(tmp_path / "f.npz"))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["data"], file["position"] = arrays["intensity"], arrays["position"]
        file["position"].attrs["units"] = "um"
    said = expect_refusal("import", tmp_path / "f.h5", tmp_path / "s.zarr", "--position-unit", "pixel")
    assert "the positions of f.h5 are in um, but position_unit (--position-unit) is pixel" in said


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "s.zarr", "--frames", "6x6", "--frame-size", 16),
        ("view", "WORK/result.zarr", "p.png"),
        ("compare", "WORK/result.zarr", "WORK/scan.zarr", "c.png"),
        *(("export", "WORK/result.zarr", name) for name in ("i.tif", "i.zarr", "i.h5", "i.nxs", "i.cxi")),
    ],
    ids=lambda command: f"{command[0]} {command[-1]}",
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    work: Path, tmp_path: Path, command: tuple[object, ...]
) -> None:
    arguments = [str(part).replace("WORK", str(work)) if "WORK" in str(part) else part for part in command]
    place = 1 if command[0] == "simulate" else len(arguments) - 1
    arguments[place] = tmp_path / str(arguments[place])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        done = invoke(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.exit_code == 2, f"{done.output}\n{done.exception!r}"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "cannot be written: File too large; nothing of it is left" in line
    assert list(tmp_path.iterdir()) == []


def test_a_background_is_found_on_request(tmp_path: Path) -> None:
    run("simulate", tmp_path / "s.zarr", "--frames", "4x4", "--step", 4, "--frame-size", 16)
    asked = ["--sweeps", 12, "--refine", "smooth-background"]
    run("reconstruct", tmp_path / "s.zarr", tmp_path / "r.zarr", *asked)
    result = dp.open_result(tmp_path / "r.zarr")
    assert result["background"].shape == (16, 16)
    assert json.loads(result.attrs["options"])["refine"]["background"]["smooth"] == 3


def test_positions_are_refined_on_request(tmp_path: Path) -> None:
    run("simulate", tmp_path / "s.zarr", "--frames", "4x4", "--step", 4, "--frame-size", 16)
    said = run(
        *("reconstruct", tmp_path / "s.zarr", tmp_path / "r.zarr", "--sweeps", 12),
        *("--refine", "positions", "--refine", "gain"),
    ).output
    assert "Positions: " in said
    assert "Beam: " in said
    result = dp.open_result(tmp_path / "r.zarr")
    assert result["position"].shape == result["position_given"].shape
    assert {"positions", "beam"} <= read_facts(run("info", tmp_path / "r.zarr").stdout).keys()
    run("view", tmp_path / "r.zarr", tmp_path / "r.png")
