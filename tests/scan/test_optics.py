"""The near field: scaling, kernel, and reconstructions that converge to the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho.cli import daskptycho
from daskptycho.errors import ScanError
from daskptycho.model.amplitudes import prepare_amplitudes
from daskptycho.model.forward import NearField
from daskptycho.model.operators import project_data
from daskptycho.scan.optics import effective_distance, fresnel_kernel, fresnel_numbers, magnification

POINT_SOURCE: dict[str, Any] = {
    "propagation": "near-field",
    "energy_eV": 17_000,
    "source_distance_m": 0.005,
    "detector_distance_m": 0.095,
    "detector_pixel_size_m": 2e-6,
}
PARALLEL = POINT_SOURCE | {
    "source_distance_m": None,
    "detector_distance_m": 0.00475,
    "detector_pixel_size_m": 1e-7,
}


@pytest.mark.parametrize("geometry", [POINT_SOURCE, PARALLEL], ids=["point source", "parallel beam"])
def test_near_field_scan_reconstructs_to_the_truth(geometry: dict[str, Any], tmp_path: Path) -> None:
    scan = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(4, 4), frame_size=64, step=12, jitter=3, tile_frames=8, **geometry
    )
    # Both geometries give the same frames: the demagnified detector pixels are equal.
    np.testing.assert_allclose(scan.attrs["pixel_size_m"], [1e-7, 1e-7], rtol=1e-9)
    result = dp.reconstruct(scan, sweeps=60, update_probe=False)
    assert float(result["residual"][-1]) < 1e-9
    truth = scan["truth_object"].values
    assert dp.relative_error(result["object"].values, truth, result["illumination"].values) < 1e-4
    assert result.attrs["pixel_size_m"] == pytest.approx([1e-7, 1e-7])


def test_probe_of_a_near_field_scan_is_recovered_from_a_constant(tmp_path: Path) -> None:
    scan = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(4, 4), frame_size=64, step=12, jitter=3, **POINT_SOURCE
    )
    result = dp.reconstruct(scan, sweeps=60, probe=np.ones((64, 64)))
    assert float(result["residual"][-1]) < 1e-3 < float(result["residual"][1])


def test_near_field_from_a_random_start_improves(tmp_path: Path) -> None:
    scan = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(4, 4), frame_size=64, step=12, photons=1e5, **POINT_SOURCE
    )
    held = dp.reconstruct(scan, sweeps=3, start="random", update_probe=False)
    assert np.isfinite(held["residual"]).all()
    assert float(held["residual"][-1]) < float(held["residual"][0])


def test_wrong_distance_does_not_fit(tmp_path: Path) -> None:
    scan = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(4, 4), frame_size=64, step=12, jitter=3, **POINT_SOURCE
    ).load()
    residuals = {}
    for distance in (0.095, 0.06):
        scan.attrs["detector_distance_m"] = distance
        result = dp.reconstruct(scan, sweeps=30, update_probe=False)
        residuals[distance] = float(result["residual"][-1])
    assert residuals[0.06] > 20 * residuals[0.095]


def test_scaling_theorem_in_numbers() -> None:
    attributes = POINT_SOURCE | {"wavelength_m": 1e-10, "pixel_size_m": 1e-7}
    assert magnification(attributes) == pytest.approx(20)
    assert effective_distance(attributes) == pytest.approx(0.00475)
    assert fresnel_numbers(attributes)[0] == pytest.approx(1e-14 / (1e-10 * 0.00475))


@given(st.integers(4, 12), st.integers(4, 12), st.floats(0.2, 3))
def test_kernel_is_unitary_and_its_projection_keeps_consistent_waves(
    height: int, width: int, number: float
) -> None:
    zone = 1e-14 / number
    kernel = fresnel_kernel(
        {
            "propagation": "near-field",
            "wavelength_m": 1e-10,
            "detector_distance_m": zone / 1e-10,
            "pixel_size_m": 1e-7,
        },
        (height, width),
    )
    assert kernel is not None
    np.testing.assert_allclose(np.abs(kernel), 1, rtol=1e-6)
    random = np.random.default_rng(height * width)
    waves = random.normal(size=(2, 1, height, width, 2)).astype(np.float32).view(np.complex64)[..., 0]
    forward = NearField(kernel).at(np.zeros((2, 2)))
    assert forward.scale((height, width)) == 1
    detected = forward.propagate(waves.copy())
    # The propagation written out as a product in Fourier space.
    plain = np.fft.ifft2(np.fft.fft2(waves) * kernel)
    np.testing.assert_allclose(detected, plain, atol=1e-4)
    np.testing.assert_allclose(forward.propagate_back(detected.copy()), waves, atol=1e-4)
    projected, misfit = project_data(waves.copy(), np.abs(detected[:, 0]), forward)
    np.testing.assert_allclose(projected, waves, atol=1e-3)
    assert misfit < 1e-6


def test_frames_of_the_near_field_are_images_and_stay_in_order() -> None:
    kernel = np.ones((2, 3), dtype=np.complex64)
    counts = np.arange(6, dtype=np.uint16).reshape(1, 2, 3)
    valid = np.array([[True, False, True], [True, True, True]])
    amplitude = prepare_amplitudes(counts, valid, forward=NearField(kernel))[:]
    np.testing.assert_allclose(amplitude[0], [[0, -1, np.sqrt(2)], [np.sqrt(3), 2, np.sqrt(5)]])
    np.testing.assert_array_equal(counts[0, 0], [0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"detector_distance_m": 50.0}, r"64 pixels times the Fresnel number of a pixel are .*expected 1"),
        ({"energy_eV": None}, "'near-field', without energy_eV or wavelength_m"),
        ({"propagation": "middle-field"}, "propagation is 'middle-field'; expected one of far-field, near"),
        ({"source_distance_m": -1.0}, "source_distance_m is -1.0; expected a positive number"),
    ],
)
def test_impossible_geometry_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=words):
        dp.simulate_scan(tmp_path / "s.zarr", frames=(2, 2), frame_size=64, **POINT_SOURCE | changes)
    assert not list(tmp_path.iterdir())


def test_command_line_simulates_and_reports_the_near_field(tmp_path: Path) -> None:
    options = [
        f"--{key.replace('_', '-')}={value}" for key, value in POINT_SOURCE.items() if value is not None
    ]
    made = ["simulate", str(tmp_path / "s.zarr"), "--frames=3x3", "--frame-size=64", *options]
    done = CliRunner().invoke(daskptycho, made)
    assert done.exit_code == 0, done.output
    report = CliRunner().invoke(daskptycho, ["info", str(tmp_path / "s.zarr")]).stdout
    assert "effective distance 4.75 mm, magnified 20 times" in report
    assert "source distance    5 mm" in report
