"""Runs that diverge go back, say so, and end no worse than they were; others are left alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import daskptycho as dp
from daskptycho.model.probe import Probe
from daskptycho.run.guard import FIRST_SWEEPS, MOST_RETURNS, Guard
from daskptycho.run.loop import Loop
from tests.stopping import Stop, stop_at

NO_SYNC = dp.Sync(method=None)


# The decision


@pytest.mark.parametrize(
    ("best", "residual", "reflects", "diverged"),
    [
        (0.1, 0.19, False, False),
        (0.1, 0.21, False, True),
        (0.1, 0.9, True, False),
        (0.1, 1.1, True, True),
        (0.9, 1.05, False, False),
        (0.9, 1.1, False, True),
        (0.1, np.nan, True, True),
        (0.1, np.inf, False, True),
        (1e-9, 5e-7, False, False),
        (None, 30.0, False, False),
    ],
)
def test_rise_that_is_a_divergence(
    best: float | None, residual: float, reflects: bool, diverged: bool
) -> None:
    assert Guard(best).has_diverged(FIRST_SWEEPS + 1, residual, reflects=reflects) == diverged


def test_first_sweeps_may_rise() -> None:
    for sweep in range(1, FIRST_SWEEPS + 1):
        assert not Guard(0.1).has_diverged(sweep, 5.0, reflects=False)
        assert Guard(0.1).has_diverged(sweep, np.nan, reflects=False)


def test_best_is_the_lowest() -> None:
    guard = Guard()
    for residual in (0.5, 0.2, 0.3):
        guard = guard.after(residual)
    assert guard == Guard(0.2, 0)
    assert guard.is_calm(0.21)
    assert not guard.is_calm(0.3)


def test_each_return_halves_the_steps_and_ends_reflections() -> None:
    assert [Guard(returns=times).share for times in range(3)] == [1, 0.5, 0.25]
    raar = dp.RAAR()
    assert Guard().choose_algorithm(raar) is raar
    assert Guard(returns=1).choose_algorithm(raar) == dp.AP()
    assert not Guard(returns=MOST_RETURNS).exhausted
    assert Guard(returns=MOST_RETURNS + 1).exhausted


# Runs


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """In tiles of two sizes."""
    path = tmp_path_factory.mktemp("scans") / "scan.zarr"
    return dp.simulate_scan(path, frames=(6, 6), frame_size=16, step=4, jitter=1, tile_frames=20)


@pytest.fixture
def overshooting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's step is three times too long, so that a run diverges until a return shortens it."""
    update = Probe.update

    def overshoot(own: Probe, value: Any, sums: Any) -> Any:
        return value + 3 * (update(own, value, sums) - value)

    monkeypatch.setattr(Probe, "update", overshoot)


def run(scan: xr.Dataset, out: Path | None = None, **options: Any) -> tuple[xr.Dataset, list[str]]:
    """A result, and what the run has said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = dp.reconstruct(scan, out, **{"sweeps": 40, "sync": NO_SYNC} | options)
    return result, [str(warning.message) for warning in caught if "R2" in str(warning.message)]


def perturbed(scan: xr.Dataset) -> np.ndarray:
    probe = scan["probe"].values
    random = np.random.default_rng(0)
    return probe * (1 + 0.3 * random.normal(size=probe.shape))


@pytest.mark.usefixtures("overshooting")
def test_run_that_diverges_goes_back_and_ends_well(scan: xr.Dataset) -> None:
    result, said = run(scan, probe=perturbed(scan))
    residual = result["residual"].values
    assert "the reconstruction diverged; the run goes back to" in said[0]
    assert "0.5 of its steps" in said[0]
    assert np.isfinite(residual).all()
    assert residual[-1] < 1.2 * residual.min()
    assert residual[-1] < 0.1 * residual[0]
    assert result.sizes["sweep"] == 40


def test_good_run_never_goes_back(scan: xr.Dataset) -> None:
    _, said = run(scan, probe=perturbed(scan))
    assert not said


@pytest.mark.usefixtures("overshooting")
def test_resumed_run_goes_back_to_the_same_image(scan: xr.Dataset, tmp_path: Path) -> None:
    whole, said = run(scan, tmp_path / "whole.zarr", probe=perturbed(scan))
    assert said
    for at in (2, 4, 11, 25):
        out = tmp_path / f"{at}.zarr"
        with pytest.raises(Stop):
            run(scan, out, probe=perturbed(scan), callback=stop_at(at))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = dp.resume(out)
        xr.testing.assert_equal(resumed.drop_vars("seconds"), whole.drop_vars("seconds"))


@pytest.mark.usefixtures("overshooting")
def test_run_on_threads_of_a_cluster_goes_back_too(scan: xr.Dataset) -> None:
    here, _ = run(scan, probe=perturbed(scan))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        there, said = run(scan, probe=perturbed(scan))
    assert said
    xr.testing.assert_equal(there.drop_vars("seconds"), here.drop_vars("seconds"))


def spoil_sweeps(monkeypatch: pytest.MonkeyPatch, first: int, factor: float) -> None:
    """From this number of sweeps on, R2 is this many times what it would be."""
    advance = Loop.advance

    def spoil(own: Loop, standing: Any) -> Any:
        counts = own.counts if standing.sweep < first else own.counts / factor
        return advance(replace(own, counts=counts), standing)

    monkeypatch.setattr(Loop, "advance", spoil)


def test_run_that_diverges_again_and_again_ends_with_its_anchor(
    scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_sweeps(monkeypatch, 5, np.nan)
    result, said = run(scan, update_probe=False)
    assert result.sizes["sweep"] == 5 + MOST_RETURNS + 1
    assert len(said) == MOST_RETURNS + 1
    assert "the run has gone back 6 times and ends with the start" in said[-1]
    assert "diverged again and again; the image is that after sweep 0" in result.attrs["warnings"][0]
    # Ones, but for corners of the canvas that no tile covers.
    assert np.isin(result["object"], (0, 1)).all()
    assert (result["object"] == 1).mean() > 0.9


def test_rise_for_once_is_forgiven(scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it has gone back, the run compares with what it finds there."""
    spoil_sweeps(monkeypatch, 12, 1e4)
    result, said = run(scan, update_probe=False, momentum=0.0, sweeps=30)
    assert sum("goes back" in sentence for sentence in said) == 1
    assert "goes back to the image after sweep 10" in said[0]
    assert result.sizes["sweep"] == 30


def test_first_guesses_that_cannot_be_compared_are_refused(
    scan: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_sweeps(monkeypatch, 0, np.nan)
    with pytest.raises(dp.ScanError, match="the residual of sweep 1 is not finite: the first guesses"):
        dp.reconstruct(scan, sweeps=3)
