"""What is said at the end of a run, and that nothing is said about good ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho.run.verdict import count_unknowns, find_faults
from tests import plain

FALLING = [0.5, 0.3, 0.1, 0.05, 0.03, 0.02, 0.015, 0.012, 0.011, 0.01]
SCAN = xr.Dataset()


def faults(residuals: list[float], expected: float | None = None, **options: Any) -> str:
    return " ".join(find_faults(residuals, expected, SCAN, **{"reflects": False} | options))


# The decision


@pytest.mark.parametrize(
    ("residuals", "expected"),
    [
        ([], None),
        (FALLING, None),
        (FALLING, 0.008),
        (FALLING, 0.03),
        ([0.3] * 3, 1e-4),
        ([0.3] * 12, None),
        ([0.3] * 12, 0.25),
        ([1e-9] * 11 + [3e-7], None),
        ([1.7, 0.4], None),
    ],
)
def test_nothing_is_said_about_a_run_that_may_be_good(residuals: list[float], expected: float | None) -> None:
    assert not faults(residuals, expected)


@pytest.mark.parametrize(
    ("residuals", "expected", "said"),
    [
        ([2.0] * 12, None, "R2 is 2: the model fits the frames worse than no light at all"),
        ([*FALLING, 0.02], None, "R2 has risen to 0.02 from 0.01 in sweep 10"),
        ([0.1] * 12, 0.01, "R2 is 0.1, where counting photons would leave 0.01"),
        ([0.6] * 12, None, "half of the measured intensity is not described"),
    ],
)
def test_bad_run_is_told_with_causes_and_a_command(
    residuals: list[float], expected: float | None, said: str
) -> None:
    found = faults(residuals, expected)
    assert said in found
    for cause in ("positions", "centre", "probe", "masked", "background", "daskptycho info SCAN"):
        assert cause in found


def test_algorithms_that_reflect_may_rise() -> None:
    assert not faults([*FALLING, 0.03], reflects=True)
    assert faults([*FALLING, 0.05], reflects=True)


def test_r2_far_below_what_counts_allow_is_told() -> None:
    falling = [0.5, 0.1, *[0.002] * 10]
    assert "R2 is 0.002, far below the 0.01 that counting" in faults(falling, 0.01, unknowns=0.3)
    assert not faults(falling, 0.003, unknowns=0.3)
    # Nearly as many unknowns as values: all noise can be fitted.
    assert not faults(falling, 0.01, unknowns=0.9)
    assert not faults(falling[:5], 0.01, unknowns=0.3)


def test_unknowns_are_those_of_the_object_and_of_a_probe_that_is_recovered() -> None:
    scan = plain.scan(frames=(6, 6))
    values = scan["intensity"].size
    assert count_unknowns(scan, (40, 30)) == pytest.approx(2400 / values)
    assert count_unknowns(scan, (40, 30), (2, 12, 10)) == pytest.approx((2400 + 480) / values)
    used = scan.assign(frame_used=("frame", np.arange(36) < 18))
    assert count_unknowns(used, (20, 30)) == pytest.approx(2 * 1200 / values)
    assert count_unknowns(used, (4000, 3000)) == 1


# Runs


def simulate(folder: Path, photons: float | None, **options: Any) -> xr.Dataset:
    given = {"frames": (7, 7), "frame_size": 24, "step": 6, "jitter": 1, "seed": 3}
    return dp.simulate_scan(folder / "scan.zarr", photons=photons, **given | options)


def run(scan: xr.Dataset, **options: Any) -> tuple[xr.Dataset, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = dp.reconstruct(scan, **{"sweeps": 25} | options)
    return result, [str(warning.message) for warning in caught if "R2" in str(warning.message)]


@pytest.mark.parametrize("photons", [1e2, 1e3, 1e4, 1e6, None])
@pytest.mark.parametrize("options", [{}, {"update_probe": False}, {"subpixel": False}], ids=str)
def test_good_scans_make_no_warnings(tmp_path: Path, photons: float | None, options: dict[str, Any]) -> None:
    result, said = run(simulate(tmp_path, photons), **options)
    assert not said
    assert "warnings" not in result.attrs
    assert ("expected_residual" in result.attrs) == (photons is not None)


@pytest.mark.parametrize("photons", [1e3, 1e5])
def test_expected_residual_is_that_of_the_truth(tmp_path: Path, photons: float) -> None:
    """R2 of the first sweep from the true object with the true probe."""
    scan = simulate(tmp_path, photons)
    truth = scan["truth_object"].values
    result, _ = run(scan, sweeps=1, start=truth, update_probe=False)
    assert result.attrs["expected_residual"] == pytest.approx(float(result["residual"][0]), rel=0.05)


def test_result_says_what_went_wrong(tmp_path: Path) -> None:
    """Frames with the zero frequency in the corner."""
    scan = simulate(tmp_path, 1e5)
    corner = np.fft.ifftshift(scan["intensity"].values, axes=(1, 2))
    shifted = scan.assign(intensity=scan["intensity"].copy(data=corner))
    out = tmp_path / "result.zarr"
    result, said = run(shifted, out=out)
    assert len(said) == 1
    assert result.attrs["warnings"] == said
    assert dp.open_result(out).attrs["warnings"] == said
    assert dp.open_result(out).attrs["expected_residual"] == result.attrs["expected_residual"]
    assert dp.open_checkpoint(out).attrs["expected_residual"] == result.attrs["expected_residual"]


def test_image_of_a_single_frame_is_doubted(tmp_path: Path) -> None:
    scan = simulate(tmp_path, 1e5, frames=(1, 1))
    with pytest.warns(UserWarning, match="the scan has a single frame: .* R2 tells nothing"):
        result = dp.reconstruct(scan, sweeps=3)
    assert "single frame" in result.attrs["warnings"][0]


def test_what_is_no_count_has_no_expectation(tmp_path: Path) -> None:
    scan = simulate(tmp_path, 1e4)
    result, _ = run(scan.assign(intensity=scan["intensity"] * 1.5), sweeps=2)
    assert "expected_residual" not in result.attrs
