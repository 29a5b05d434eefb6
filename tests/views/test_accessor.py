"""``ds.ptycho``: arrays that are ready to plot, pictures, and what a notebook shows of scans and results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp

ROOT = Path(__file__).resolve().parents[2]
WAVELENGTH, DISTANCE, PIXEL = 2e-10, 2.0, 75e-6
SIZE = WAVELENGTH * DISTANCE / (16 * PIXEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan in metres and its result."""
    folder = tmp_path_factory.mktemp("scans")
    pixels = dp.simulate_scan(folder / "pixels.zarr", frames=(6, 6), frame_size=16, step=4, jitter=1)
    scan = dp.create_scan(
        folder / "scan.zarr",
        pixels["intensity"].values,
        pixels["position"].values * SIZE,
        probe=pixels["probe"].values,
        wavelength_m=WAVELENGTH,
        detector_distance_m=DISTANCE,
        detector_pixel_size_m=PIXEL,
        source="<beamline>",
    )
    dp.reconstruct(scan, folder / "result.zarr", sweeps=5, update_probe=False)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> xr.Dataset:
    # As other tools open it.
    return xr.open_zarr(folder / "result.zarr")


def test_amplitude_and_phase_are_the_lit_part_of_the_object(result: xr.Dataset) -> None:
    amplitude, phase = result.ptycho.amplitude, result.ptycho.phase
    assert (amplitude.name, phase.name, phase.attrs["units"]) == ("amplitude", "phase", "rad")
    assert amplitude["x"].attrs["units"] == "m"
    same = result["object"].sel(y=amplitude["y"], x=amplitude["x"])
    assert same.shape == amplitude.shape
    lit = np.isfinite(amplitude.values)
    assert 0.5 < lit.mean() < 1
    np.testing.assert_allclose(amplitude.values[lit], np.abs(same.values[lit]), rtol=1e-5)
    shown = np.exp(1j * phase.values[lit]) * amplitude.values[lit]
    # The same phase was subtracted from all pixels.
    factor = np.vdot(same.values[lit], shown)
    assert abs(factor) == pytest.approx(np.sum(amplitude.values[lit] ** 2), rel=1e-4)
    assert (
        abs(np.angle(np.sum(shown * result["illumination"].sel(y=same["y"], x=same["x"]).values[lit]))) < 0.2
    )


def test_phase_plots_with_its_axes(result: xr.Dataset) -> None:
    axes = result.ptycho.phase.plot().axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [m]", "y [m]")


def test_scan_and_result_are_shown_with_picture_geometry_and_options(
    folder: Path, result: xr.Dataset
) -> None:
    shown = {"scan": dp.open_scan(folder / "scan.zarr"), "result": result}
    html = {name: ds.ptycho._repr_html_() for name, ds in shown.items()}
    for text in html.values():
        assert re.search(r"<img src='data:image/jpeg;base64,\S{9000,}'", text)
    for said in ("Scan", "36 of 16 x 16 pixels", "333.3 nm", "6.1992 keV", "&lt;beamline&gt;"):
        assert said in html["scan"]
    for said in ("Result", "333.3 nm", "5 of 5 in", "<td>update probe</td><td>no</td>"):
        assert said in html["result"]
    titles = [axes.get_title() for axes in shown["scan"].ptycho.plot().axes if axes.get_title()]
    assert titles == ["mean of 36 of 36 frames", "36 scan positions"]
    assert len(shown["result"].ptycho.plot().subfigs) == 2


def test_dataset_of_another_kind_is_refused(folder: Path) -> None:
    for ds in (xr.Dataset(), dp.open_scan(folder / "scan.zarr")):
        with pytest.raises(dp.ScanError, match="no object whose phase could be shown"):
            ds.ptycho.phase  # noqa: B018
    with pytest.raises(dp.ScanError, match="neither object nor intensity"):
        xr.Dataset().ptycho.plot()


def test_accessor_is_known_once_a_dataset_was_asked_for() -> None:
    code = (
        "import daskptycho as dp, sys; assert 'xarray' not in sys.modules; dp.open_result; "
        "import xarray as xr; print(type(xr.Dataset().ptycho).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Ptycho", done.stderr


def test_terminal_shows_facts_in_lines(folder: Path, result: xr.Dataset) -> None:
    scan = dp.open_scan(folder / "scan.zarr")
    for shown, title, fact in ((scan, "Scan", "frames"), (result, "Result", "residual")):
        lines = repr(shown.ptycho).splitlines()
        assert lines[0] == title
        assert any(line.startswith(f"  {fact} ") for line in lines)
