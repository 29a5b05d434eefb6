"""The solve for the offsets of all frames, against dense matrices, and the pace of the updates."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from daskptycho.sync.frame_graph import FrameGraph, Frames, laplacian, link_frames, pair_weights
from daskptycho.sync.positions import Freedom, Pace, TileForces, find_moves
from daskptycho.tiling import overlapping_pairs

FRAME = (8, 6)
MOVING = Pace(every=2, due_in=1, interval=2, moving=True)


def raster(side: int = 5, step: int = 3) -> NDArray[np.float64]:
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    return step * np.stack([y.ravel(), x.ravel()], axis=1).astype(float)


FRAMES = Frames(raster(), np.arange(25), None, 1000.0)


def curvatures(frames: int) -> NDArray[np.float64]:
    """Random symmetric positive matrices: yy, yx and xx."""
    random = np.random.default_rng(0)
    root = random.normal(size=(frames, 2, 2))
    matrix = root @ root.transpose(0, 2, 1) + np.eye(2)
    return np.stack([matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]], axis=1)


def gaussian() -> NDArray[np.complex64]:
    y, x = np.indices(FRAME)
    return np.exp(-((y - 3.5) ** 2 + (x - 2.5) ** 2) / 8)[None].astype(np.complex64)


def dense_laplacian(position: NDArray, curvature: NDArray, ridge: float, anchor: float) -> NDArray:
    """The matrix of the module's docstring, element by element."""
    frames = len(position)
    power = abs(gaussian()[0].astype(complex)) ** 2
    shared = np.zeros((frames, frames))
    for i in range(frames):
        for j in range(frames):
            dy, dx = (position[j] - position[i]).astype(int)
            for y in range(FRAME[0]):
                for x in range(FRAME[1]):
                    if 0 <= y + dy < FRAME[0] and 0 <= x + dx < FRAME[1]:
                        shared[i, j] += power[y, x] * power[y + dy, x + dx]
    total = shared.sum(axis=1)
    matrix = np.zeros((frames, 2, frames, 2))
    for i in range(frames):
        for j in range(frames):
            both = (curvature[i] + curvature[j]) / 2 + ridge * np.array([1, 0, 1])
            weight = shared[i, j] / np.sqrt(total[i] * total[j]) * both[[0, 1, 1, 2]].reshape(2, 2)
            if i != j:
                matrix[i, :, j] -= weight
                matrix[i, :, i] += weight
        matrix[i, :, i] += anchor * np.eye(2)
    return matrix.reshape(2 * frames, 2 * frames)


def forces(position: NDArray, force: NDArray, curvature: NDArray, cut: int, **changed: NDArray) -> list:
    """Two tiles: the frames before and from `cut`."""
    none, ones = np.zeros_like(force), np.ones(len(force))
    noise, misfits = changed.get("noise", none), changed.get("misfits", ones)
    return [
        TileForces(position[part], force[part], noise[part], curvature[part], 1.0, 10, misfits[part])
        for part in (slice(0, cut), slice(cut, None))
    ]


def test_matrix_is_the_laplacian_of_the_graph() -> None:
    position, curvature = raster(), curvatures(25)
    pairs = overlapping_pairs(position.astype(int), FRAME)
    shared = np.array(
        [
            (
                np.abs(gaussian()[0][max(0, dy) : FRAME[0] + dy, max(0, dx) : FRAME[1] + dx]) ** 2
                * np.abs(gaussian()[0][max(0, -dy) : FRAME[0] - dy, max(0, -dx) : FRAME[1] - dx]) ** 2
            ).sum()
            for dy, dx in pairs.offset
        ]
    )
    weights = pair_weights(FrameGraph(pairs, shared, np.zeros(25, int)), curvature)
    found = laplacian(weights, pairs, 25, np.array([0.25, 0, 0.25])).toarray()
    np.testing.assert_allclose(found, dense_laplacian(position, curvature, 0.0, 0.25), rtol=1e-6, atol=1e-9)


def test_moves_solve_the_system_and_keep_the_mean() -> None:
    position, curvature = raster(), curvatures(25)
    ridge = 1e-2 * curvature[:, [0, 2]].mean()
    matrix = dense_laplacian(position, curvature, ridge, 1e-3 * ridge)
    wanted = np.stack([np.sin(position[:, 0] / 5), np.cos(position[:, 1] / 4)], axis=1) * 0.1
    force = (matrix @ wanted.ravel()).reshape(-1, 2)
    found = find_moves(forces(position, force, curvature, 10), gaussian(), FRAMES, MOVING, Freedom())
    np.testing.assert_allclose(found.offset, 2 * (wanted - wanted.mean(axis=0)), atol=2e-3)
    variance = 2.0 / (1000 - 2 * 20)
    assert found.significance == pytest.approx((force * wanted).sum() / (variance * 25), rel=1e-2)


def test_noise_is_taken_off_the_forces() -> None:
    position, curvature = raster(), curvatures(25)
    force = np.random.default_rng(1).normal(size=(25, 2))
    variance = 2.0 / (1000 - 2 * 20)
    of_noise = forces(position, force, curvature, 10, noise=force / variance)
    assert abs(find_moves(of_noise, gaussian(), FRAMES, MOVING, Freedom()).offset).max() < 1e-9


def test_a_frame_moves_by_a_pixel_at_most_against_its_neighbours() -> None:
    position, curvature = raster(), curvatures(25)
    force = np.zeros((25, 2))
    force[12] = 1e3
    moves = find_moves(forces(position, force, curvature, 10), gaussian(), FRAMES, MOVING, Freedom()).offset
    others = np.delete(moves, 12, axis=0)
    assert abs(others).max() < 400
    assert np.hypot(*moves[12]) < 1 + np.hypot(*abs(others).max(axis=0))


def test_forces_of_noise_move_nothing() -> None:
    position, curvature = raster(), curvatures(25)
    force = 0.005 * np.random.default_rng(1).normal(size=(25, 2))
    still = Pace(every=2, due_in=1, interval=2)
    found = find_moves(forces(position, force, curvature, 10), gaussian(), FRAMES, still, Freedom())
    assert 0 < found.significance < 3
    assert not found.offset.any()
    # The same forces move frames that move already.
    assert find_moves(
        forces(position, force, curvature, 10), gaussian(), FRAMES, MOVING, Freedom()
    ).offset.any()


def test_what_is_held_does_not_move() -> None:
    position, curvature = raster(), curvatures(25)
    force = np.random.default_rng(1).normal(size=(25, 2))
    moves = find_moves(
        forces(position, force, curvature, 10), gaussian(), FRAMES, MOVING, Freedom(hold="affine")
    )
    affine = np.column_stack([np.ones(25), position])
    assert abs(affine.T @ moves.offset).max() < 1e-9
    assert abs(moves.offset).max() > 1e-3


def test_frames_apart_from_their_neighbours_or_badly_fitting_are_looked_for() -> None:
    position, curvature = raster(), curvatures(25)
    position[7] += (6, 0)
    misfits = np.ones(25)
    misfits[20] = 2.5
    tiles = forces(position, np.zeros((25, 2)), curvature, 10, misfits=misfits)
    found = find_moves(tiles, gaussian(), FRAMES, MOVING, Freedom())
    assert np.flatnonzero(found.astray).tolist() == [7, 20]
    np.testing.assert_array_equal(found.expected[7], (-6, 0))


def test_frames_without_light_stay() -> None:
    dark = forces(raster(), np.zeros((25, 2)), np.zeros((25, 3)), 10)
    assert not find_moves(dark, gaussian(), FRAMES, MOVING, Freedom()).offset.any()


# Pace


def test_pace_opens_on_significance_and_closes_after_two_quiet_updates() -> None:
    pace = Pace.begin(start=3, every=2)
    due = []
    for sweep, significance in enumerate([9, 9, 1.0, 9, 9, 9, 50.0, 9, 0.1, 9, 0.1, 9, 9, 9, 9.0], start=1):
        tested = pace.due()
        due += [sweep] if tested else []
        pace = pace.after([1.0, 1.0], significance if tested else np.nan)
        if sweep == 3:
            assert not pace.moving
        if sweep == 7:
            assert pace.moving
        if sweep == 11:
            assert not pace.moving
    # Every second sweep while frames move, and half as often after each test that moves nothing.
    assert due == [3, 7, 9, 11, 15]


def test_step_halves_where_a_move_makes_the_misfit_rise() -> None:
    pace = Pace.begin(start=1, every=2).after([1.0], 50.0)
    assert pace.just_moved
    raised = pace.after([1.0, 1.02], np.nan)
    assert raised.scale == 0.5
    # Only the sweep after a move tells.
    assert raised.after([1.0, 2.0], np.nan).scale == 0.5
    assert pace.after([1.0, 1.001], np.nan).scale == 1.0
    grown = Pace(2, 1, 2, moving=True, scale=0.5, just_moved=True).after([1.0, 0.9], 50.0)
    assert grown.scale == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("tests", "residual", "opens"),
    [
        # An image that converges, with exact positions.
        ([40, 26, 15, 11, 8, 6], 1e-3, False),
        # Small errors, which remain.
        ([20, 13, 12, 11, 12, 12], 1e-3, True),
        # The same where there are few photons.
        ([20, 13, 12, 11, 12, 12], 0.02, False),
        ([100], 0.02, True),
    ],
    ids=["converging", "settled", "noise", "clear"],
)
def test_frames_move_once_tests_agree(tests: list[float], residual: float, opens: bool) -> None:
    pace = Pace.begin(start=1, every=1)
    for significance in tests:
        assert not pace.moving
        pace = pace.after([residual], significance)
    assert pace.moving == opens


def test_updates_become_rare_at_rest() -> None:
    pace = Pace.begin(start=1, every=1).after([1e-3], 100.0)
    intervals = []
    for significance in [10.0, 0.9, 0.8, 0.7, 2.0]:
        pace = pace.after([1e-3], significance)
        intervals.append(pace.due_in)
    assert intervals == [1, 2, 4, 4, 1]


@pytest.mark.parametrize("period", [None, (30, 30)])
def test_links_are_those_of_all_pairs_that_share_light(period: tuple[int, int] | None) -> None:
    position = np.random.default_rng(3).uniform(0, 30, (40, 2))
    position[39] = 50
    graph = link_frames(position, gaussian(), period)
    power = np.zeros((120, 120))
    power[: FRAME[0], : FRAME[1]] = abs(gaussian()[0].astype(complex)) ** 2
    itself = (power**2).sum()
    expected = {}
    for i, j in zip(*np.triu_indices(40), strict=True):
        by = (np.rint(position[j]) - np.rint(position[i])).astype(int)
        if period is not None:
            by = (by + 15) % 30 - 15
        shared = (power * np.roll(power, by, axis=(0, 1))).sum()
        if shared > 1e-3 * itself:
            expected[i, j] = shared
    found = dict(zip(zip(graph.pairs.first, graph.pairs.second, strict=True), graph.shared, strict=True))
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), [expected[pair] for pair in found], rtol=1e-6)
    assert all(graph.part[i] == graph.part[j] for i, j in expected)
    assert (np.bincount(graph.part)[graph.part[39]] == 1) == (period is None)
