"""Phases of frames from a coarse grid: known phases, tiles that have none, and what a run gets from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import daskptycho as dp
from daskptycho.backend import compare_sums, turn_image
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel
from daskptycho.model.operators import split
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import OverlapSum, overlap_waves
from daskptycho.scan.dataset import position_in_pixels
from daskptycho.sync.coarse import CoarseGrid, are_linked, synchronise_coarsely
from daskptycho.sync.gramian import block_within
from daskptycho.sync.options import Cadence, Sync
from daskptycho.tiling import Tile, make_tiling
from tests import islands, plain


def simulate(folder: Path, **options: Any) -> Any:
    chosen: dict[str, Any] = {"frames": (12, 12), "frame_size": 32, "step": 8, "jitter": 1, "seed": 5}
    return dp.simulate_scan(folder / "scan.zarr", **chosen | options, overwrite=True)


def grid_of(scan: Any, period: tuple[int, int] | None = None) -> tuple[Tile, CoarseGrid | None]:
    frames = scan.sizes["frame"]
    tiling = make_tiling(position_in_pixels(scan), scan["intensity"].shape[1:], (frames,), period=period)
    return tiling.tiles[0], block_within(tiling.tiles[0], tiling.frame_shape, tiling.period).grid


def turned_frames(scan: Any, tile: Tile, phase: np.ndarray) -> tuple[TileModel, np.ndarray, OverlapSum]:
    """The frames of the true object, each turned by a phase: the model, the object, and the overlap sum."""
    at = TileModel(Model((Probe(),)), {"probe": scan["probe"].values}, {})
    truth = np.ascontiguousarray(scan["truth_object"].values.astype(np.complex64))
    waves = split(truth, at.probe[None], tile.corner)
    waves *= np.exp(1j * phase).astype(np.complex64)[:, None, None, None]
    return at, truth, overlap_waves(tile, waves, at, truth)


def test_slowly_varying_phases_of_true_frames_are_found(tmp_path: Path) -> None:
    scan = simulate(tmp_path)
    tile, grid = grid_of(scan)
    assert grid is not None
    y, x = (tile.corner / tile.corner.max(axis=0)).T
    phase = 0.1 * np.cos(np.pi * y) + 0.1 * x**2
    at, truth, left = turned_frames(scan, tile, phase)
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    found = synchronise_coarsely(tile, grid, left, truth, weight, at.probe, 0.0)
    rest = np.angle(found.found.phase) + phase
    assert (rest - rest.mean()).std() < 0.25 * phase.std()
    assert found.found.spread == pytest.approx(phase.std(), rel=0.3)
    lit = weight > 0
    error = [dp.relative_error(image * weight, truth, lit) for image in (left.image_sum, found.image_sum)]
    assert error[1] < 0.3 * error[0]


def test_phases_that_are_not_significant_leave_the_sum_alone(tmp_path: Path) -> None:
    scan = simulate(tmp_path)
    tile, grid = grid_of(scan)
    assert grid is not None
    at, truth, left = turned_frames(scan, tile, 1e-3 * np.arange(len(tile)) / len(tile))
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    misfit = float(scan["intensity"].sum())
    found = synchronise_coarsely(tile, grid, left, truth, weight, at.probe, misfit)
    np.testing.assert_array_equal(found.image_sum, left.image_sum)
    np.testing.assert_array_equal(found.found.phase, 1)
    assert found.image_sum is not left.image_sum


def test_large_phases_are_left_to_the_gramian(tmp_path: Path) -> None:
    scan = simulate(tmp_path)
    tile, grid = grid_of(scan)
    assert grid is not None
    at, truth, left = turned_frames(scan, tile, np.random.default_rng(0).uniform(-3, 3, len(tile)))
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    found = synchronise_coarsely(tile, grid, left, truth, weight, at.probe, 0.0)
    cadence = Cadence.begin(Sync(), growing=False)
    assert cadence.coming().coarse
    assert not cadence.after(0.01, found.found.spread, 1.0).coarse


def test_tiles_that_a_grid_does_not_serve_have_none(tmp_path: Path) -> None:
    assert grid_of(simulate(tmp_path, frames=(7, 7)))[1] is None
    periodic = simulate(tmp_path, frames=(10, 10), periodic=True, jitter=0)
    assert grid_of(periodic, (80, 80))[1] is None
    _, grid = grid_of(simulate(tmp_path))
    assert grid is not None
    # A probe of a few pixels, whose frames share pixels and no light.
    probe = np.zeros((1, 32, 32), dtype=np.complex64)
    probe[0, 14:18, 14:18] = 1
    assert not are_linked(grid, probe)
    assert are_linked(grid, np.ones((1, 32, 32), dtype=np.complex64))


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "full"},
        {"iterations": 30},
        {"eigensolver": "lobpcg"},
        {"normalisation": "frame"},
    ],
)
def test_what_is_asked_of_the_eigensolver_is_done(asked: dict[str, Any]) -> None:
    begun = Cadence.begin(Sync(**asked), growing=False)
    assert not begun.coming().coarse
    assert not begun.after(0.1, 0.01, 1.0).coarse


def test_a_random_start_begins_with_the_gramian() -> None:
    begun = Cadence.begin(Sync(), growing=True)
    assert not begun.coming().coarse
    grown = begun.after(0.1, 0.01, 1.5)
    assert not grown.growing
    assert grown.coming().coarse


def lines(rows: int, columns: int, step: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:rows, :columns]
    return np.stack([step[0] * y.ravel(), step[1] * x.ravel()], axis=1)


UNEVEN = {
    "lines": lines(10, 24, (8, 2)),
    "columns": lines(22, 10, (2, 7)),
    "patches": np.concatenate([lines(9, 9, (2, 2)), np.add(lines(9, 9, (2, 2)), (0, 26))]),
    "random": np.random.default_rng(2).integers(0, 70, (150, 2)),
}


@pytest.mark.parametrize("options", [{}, {"algorithm": "ap"}], ids=["lbfgs", "ap"])
@pytest.mark.parametrize("corner", UNEVEN.values(), ids=UNEVEN)
def test_frames_that_lie_unevenly_fit_as_well_as_with_the_gramian(
    tmp_path: Path, corner: np.ndarray, options: dict[str, Any]
) -> None:
    scan = islands.simulate(tmp_path / "scan.zarr", corner, None)
    syncs = dp.Sync(), dp.Sync(iterations=24)
    found, expected = (
        islands.measure_error(dp.reconstruct(scan, sweeps=24, update_probe=False, sync=sync, **options))
        for sync in syncs
    )
    assert found < 1.05 * expected + 1e-4


def test_phases_that_are_not_small_are_not_applied(tmp_path: Path) -> None:
    scan = simulate(tmp_path)
    tile, grid = grid_of(scan)
    assert grid is not None
    at, truth, left = turned_frames(scan, tile, np.zeros(len(tile)))
    # A torque that no small phases explain.
    left = left._replace(image_sum=(left.image_sum * np.linspace(-90j, 90j, truth.shape[1])).astype("c8"))
    weight = at.inverse_illumination(illuminate_tile(tile, at))
    found = synchronise_coarsely(tile, grid, left, truth, weight, at.probe, None)
    assert (found.found.phase == 1).all()
    assert found.found.spread == 1.0
    np.testing.assert_array_equal(found.image_sum, left.image_sum)


def test_image_is_turned_between_nodes() -> None:
    random = np.random.default_rng(3)
    image, nodes = plain.complex_noise(random, (9, 13)).astype(np.complex64), random.normal(size=(3, 4)) / 20
    row, column = np.linspace(0, 2, 9).astype(np.float32), np.linspace(0, 3, 13).astype(np.float32)
    found = turn_image(image, row, column, nodes.astype(np.float32))
    along = [np.interp(column, np.arange(4), line) for line in nodes]
    phi = np.stack([np.interp(row, np.arange(3), line) for line in np.transpose(along)], axis=1)
    np.testing.assert_allclose(found, image * np.exp(1j * phi), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(abs(found), abs(image), rtol=1e-5)


def test_sums_are_compared_with_the_image() -> None:
    random = np.random.default_rng(4)
    image, total = (plain.complex_noise(random, (9, 13)).astype(np.complex64) for _ in range(2))
    lit = random.random((9, 13)).astype(np.float32)
    turn, power = compare_sums(lit, image, total, 0.1, 4)
    expected = np.where(lit > 0.1, (image.conj() * total).imag / lit, 0)
    np.testing.assert_allclose(turn, expected, rtol=1e-4, atol=1e-5)
    blocks = np.pad(abs(image) ** 2, ((0, 3), (0, 3))).reshape(3, 4, 4, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(power, blocks, rtol=1e-5)


def test_a_run_needs_no_more_sweeps_than_with_phases_of_frames(tmp_path: Path) -> None:
    scan = simulate(tmp_path, frames=(16, 16))
    truth = scan["truth_object"].values
    lit = dp.reconstruct(scan, sweeps=1, update_probe=False)["illumination"].values
    sweeps = []
    for sync in (dp.Sync(), dp.Sync(iterations=24)):
        error: list[float] = []

        def keep(progress: dp.Progress, error: list[float] = error) -> bool:
            error.append(dp.relative_error(progress.object(), truth, lit))
            return error[-1] < 1e-2

        dp.reconstruct(scan, sweeps=40, update_probe=False, sync=sync, callback=keep)
        assert error[-1] < 1e-2
        sweeps.append(len(error))
    assert sweeps[0] <= sweeps[1] + 2
