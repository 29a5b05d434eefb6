"""Positions that are wrong in a rendered scan are found along, whatever the tiles, workers and options."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from tests import islands
from tests.drifting import Drifting, make_drifting
from tests.elsewhere import images_on_disk, two_workers
from tests.stopping import Stop, stop_at

KNOWN: dict[str, Any] = {"update_probe": False}
EARLY = dp.Positions(start=8)


@cache
def drifting(kind: str, **options: Any) -> Drifting:
    given: dict[str, Any] = {"side": 9, "step": 5.0, "tile_frames": 27, "seed": 7}
    return make_drifting(kind, **given | options)


def refine(ds: xr.Dataset, **options: Any) -> xr.Dataset:
    return dp.reconstruct(ds, **{"sweeps": 50, "refine": EARLY} | KNOWN | options)


def given_error(known: Drifting, result: xr.Dataset) -> float:
    return known.error(result.assign(position=result["position_given"]))


@pytest.mark.parametrize(("kind", "most"), [("white", 0.05), ("affine", 0.05), ("drift", 0.1)])
def test_positions_are_found(kind: str, most: float) -> None:
    known = drifting(kind)
    result = refine(known.scan)
    assert given_error(known, result) > 0.25
    assert known.error(result) < most
    np.testing.assert_array_equal(result["position_given"], known.scan["position"])
    assert result["position"].attrs == known.scan["position"].attrs
    # The first tests moved nothing, and those after it less and less.
    moved, tested = result["position_moved"].values, ~np.isnan(result["position_significance"].values)
    assert tested[7]
    assert not tested[:7].any()
    assert not moved[~tested].any()
    assert moved.max() > 20 * moved[-4:].max()


def test_misfit_and_image_gain_from_it() -> None:
    known = drifting("white")
    with pytest.warns(UserWarning, match="where counting photons would leave"):
        plain = refine(known.scan, refine=())
    refined = refine(known.scan)
    assert "position_given" not in plain
    assert refined["residual"][-1] < plain["residual"][-1] / 5
    errors = []
    for result in (plain, refined):
        lit = (result["illumination"] > 0.3 * result["illumination"].max()).values
        a, b = result["object"].values, known.truth(result)
        found = np.fft.ifft2(np.fft.fft2(a * lit) * np.fft.fft2(b * lit).conj())
        shared = abs(found).max() / np.sqrt((abs(a * lit) ** 2).sum() * (abs(b * lit) ** 2).sum())
        errors.append(1 - shared)
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("photons", [1e5, 1e6])
def test_exact_positions_stay(photons: float) -> None:
    known = drifting("exact", photons=photons)
    result = dp.reconstruct(known.scan, sweeps=40, refine="positions", **KNOWN)
    assert known.error(result) < 0.03


def test_tiles_change_little() -> None:
    one = refine(make_drifting("white", side=9, step=5.0, seed=7).scan)
    many = refine(drifting("white", tile_frames=9).scan)
    by_number = [result.sortby("frame_number")["position"].values for result in (one, many)]
    wrong = by_number[0] - by_number[1]
    assert abs(wrong - wrong.mean(axis=0)).max() < 0.05
    assert np.sqrt(((wrong - wrong.mean(axis=0)) ** 2).mean()) < 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"sync": dp.Sync("full", every=1)},
        {"sync": dp.Sync(every=1)},
        {"sync": dp.Sync(method=None)},
        {"sync": dp.Sync(inner=2), "sweeps": 40},
        {"algorithm": "raar"},
        {"modes": 2, "update_probe": True, "sweeps": 80},
        {"update_probe": True, "sweeps": 80, "refine": dp.Positions(start=8, hold=None)},
    ],
    ids=["full", "two-level", "no sync", "inner", "raar", "modes", "probe"],
)
def test_whatever_the_options(options: dict[str, Any]) -> None:
    known = drifting("white")
    result = refine(known.scan, **options)
    held = bool(options.get("update_probe")) and options.get("refine") is None
    wrong = result["position"].values - known.true[result["frame_number"].values]
    wrong -= wrong.mean(axis=0)
    if held:
        wrong = wrong - affine_part(wrong, result["position_given"].values)
    assert np.sqrt((wrong**2).mean()) < 0.12


def affine_part(moves: np.ndarray, place: np.ndarray) -> np.ndarray:
    basis = np.column_stack([np.ones(len(place)), place])
    return basis @ np.linalg.lstsq(basis, moves, rcond=None)[0]


def test_pictures_show_the_light_of_frames_that_have_moved() -> None:
    known = drifting("white")
    ends = refine(known.scan, sweeps=8)
    assert ends["position_moved"][7] > 0.1
    lights = []

    def look(progress: dp.Progress) -> None:
        if progress.sweep == 8:
            lights.append(progress.preview(most=10**6).illumination)

    refine(known.scan, sweeps=9, callback=look)
    np.testing.assert_allclose(lights[0], ends["illumination"], rtol=1e-6)


def test_pixels_that_are_not_valid() -> None:
    known = drifting("white")
    valid = np.random.default_rng(0).random((32, 32)) > 0.05
    masked = known.scan.assign(valid=(("qy", "qx"), valid))
    masked["intensity"] = masked["intensity"].where(masked["valid"], 1e6)
    assert known.error(refine(masked)) < 0.06


def test_an_image_of_a_run_without_it_is_a_start() -> None:
    """The canvas of a result has no margin for frames that move."""
    known = drifting("exact")
    plain = refine(known.scan, refine=(), sweeps=12)
    image = plain["object"].values
    refined = refine(known.scan, start=image, sweeps=1)
    assert refined["object"].shape > image.shape
    ones = refine(known.scan, sweeps=1)
    assert float(refined["residual"][0]) < 1.1 * float(plain["residual"][-1])
    assert float(refined["residual"][0]) < 0.1 * float(ones["residual"][0])
    again = refine(known.scan, start=refined["object"].values, sweeps=1)
    assert float(again["residual"][0]) < 1.1 * float(plain["residual"][-1])
    with pytest.raises(dp.OptionError, match=r"start has shape \(3, 3\); expected .* its margin"):
        refine(known.scan, start=np.ones((3, 3)))


def test_periodic_scan() -> None:
    known = drifting("white", side=16, step=6.0, tile_frames=64, jitter=0.0)
    known.scan.attrs["period"] = [96, 96]
    result = refine(known.scan)
    assert given_error(known, result) > 0.9
    assert known.error(result) < 0.1


# Parts that are held, and parts that move


def test_affine_part_is_held_while_the_probe_is_recovered() -> None:
    known = drifting("drift")
    result = refine(known.scan, update_probe=True, sweeps=30)
    moves = result["position"].values - result["position_given"].values
    assert abs(moves).max() > 0.3
    assert abs(affine_part(moves, result["position_given"].values)).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "moves", "most"),
    [("affine", "affine", 0.02), ("drift", "drift", 0.05), ("backlash", "lines", 0.03)],
)
def test_moves_of_few_numbers_are_found_more_exactly(kind: str, moves: str, most: float) -> None:
    known = drifting(kind)
    result = refine(known.scan, refine=dp.Positions(start=8, moves=moves, line=9))
    assert known.error(result) < most
    # All frames of a line move alike.
    if moves == "lines":
        moved = (result["position"] - result["position_given"]).values
        lines = result["frame_number"].values // 9
        for line in np.unique(lines):
            assert np.ptp(moved[lines == line], axis=0).max() < 1e-9


def test_frames_stay_within_reach() -> None:
    known = drifting("drift")
    result = refine(known.scan, refine=dp.Positions(start=8, limit=1))
    moved = (result["position"] - result["position_given"]).values
    assert 1.0 < abs(moved).max() <= 1.5


@pytest.mark.parametrize(
    ("refined", "message"),
    [
        ("beam", "refine holds 'beam'"),
        (["positions", EARLY], "two ways to refine one positions; expected it once"),
        (3, "refine is 3"),
    ],
)
def test_what_cannot_be_refined(refined: Any, message: str) -> None:
    with pytest.raises(dp.OptionError, match=message):
        dp.reconstruct(drifting("white").scan, refine=refined)


@pytest.mark.parametrize(
    "options",
    [{"start": 0}, {"every": True}, {"limit": 0}, {"moves": "any"}, {"hold": "all"}, {"moves": "lines"}],
    ids=str,
)
def test_impossible_positions(options: Any) -> None:
    with pytest.raises(dp.OptionError, match="Positions"):
        dp.Positions(**options)


def test_positions_that_are_rounded_cannot_be_refined() -> None:
    with pytest.raises(dp.OptionError, match="subpixel"):
        dp.reconstruct(drifting("white").scan, refine="positions", subpixel=False)


# Runs that are cut off, and runs on workers


@pytest.mark.parametrize(
    "options",
    [KNOWN, {"update_probe": True}, {"algorithm": "raar", "sync": dp.Sync("full")}],
    ids=["known probe", "probe", "raar"],
)
def test_resumed_run_has_the_same_bits(tmp_path: Path, options: Any) -> None:
    scan = drifting("white").scan
    given = {"sweeps": 16, "refine": dp.Positions(start=4)} | options
    expected = dp.reconstruct(scan, **given)
    for sweep in (7, 8):
        with pytest.raises(Stop):
            dp.reconstruct(scan, tmp_path / "r.zarr", callback=stop_at(sweep), overwrite=True, **given)
        found = dp.resume(tmp_path / "r.zarr", scan=scan)
        xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))
        assert found.attrs == expected.attrs
        at_stop = dp.open_checkpoint(tmp_path / "r.zarr", sweep)
        assert abs(at_stop["position"] - at_stop["position_given"]).max() > 0.1
        with pytest.raises(dp.ScanError):
            dp.reconstruct(scan, tmp_path / "r.zarr", **given)


@pytest.mark.timeout(100)
def test_worker_processes_change_nothing() -> None:
    scan = drifting("white").scan
    given: dict[str, Any] = {"sweeps": 12, "refine": dp.Positions(start=4)} | KNOWN
    expected = dp.reconstruct(scan, **given)
    with two_workers():
        found = dp.reconstruct(scan, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


def test_little_memory_changes_nothing(tmp_path: Path) -> None:
    """Images on disk, and amplitudes read from the store in each sweep."""
    known = drifting("white")
    named = {name: known.scan[name].values for name in ("intensity", "position", "probe", "frame_number")}
    ds = dp.create_scan(tmp_path / "scan.zarr", **named, position_unit="pixel", tile_frames=27)
    given: dict[str, Any] = {"sweeps": 12, "refine": dp.Positions(start=4)} | KNOWN
    expected = dp.reconstruct(ds, **given)
    with images_on_disk():
        found = dp.reconstruct(ds, **given)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize("refine", ["positions", "gain"])
@pytest.mark.parametrize("corner", [islands.islands(25), islands.parked(25)], ids=["islands", "parked"])
@pytest.mark.filterwarnings("ignore")
def test_parts_of_a_scan_stay_where_they_are(tmp_path: Path, corner: np.ndarray, refine: str) -> None:
    """Nothing tells how far a part moved as a whole, nor how bright the beam was on it."""
    scan = islands.simulate(tmp_path / "s.zarr", corner, 1e5)
    result = dp.reconstruct(scan, refine=refine, update_probe=False, sweeps=40)
    plain = dp.reconstruct(scan, update_probe=False, sweeps=40)
    assert result["residual"][-1] < 1.1 * plain["residual"][-1]
    if refine == "positions":
        moved = result["position"].values - result["position_given"].values
        assert np.abs(moved).max() < 0.3
        for part in np.unique(result["part"]):
            assert np.abs(moved[result["part"] == part].mean(axis=0)).max() < 0.05
    else:
        of_main = np.log(result["gain"].values[result["part"] == 0])
        assert of_main.std() < 0.02
