"""Two-level synchronisation: G against the dense H, exact cases, and what a user gets from it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import xarray as xr
from dask.utils import key_split
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR
from daskptycho.model.operators import inverse_illumination, shift_probe, split, weigh
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import Weighted, sweep_tile
from daskptycho.run.memory import count_sweep_tasks
from daskptycho.run.options import Recipe
from daskptycho.sync.gramian import block_within
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.sync.two_level import (
    Surroundings,
    TileSum,
    find_tile_phases,
    galerkin_row,
    sweep_inside,
    synchronise_tile,
)
from daskptycho.tasks.spec import count_tasks, values_in
from daskptycho.tasks.waiting import persist
from daskptycho.tiling import Tiling
from tests import plain
from tests.sweeping import begin, choose_settings, lay_out_scan, new_tasks, on_tile

EVERY = Sync(every=1, iterations=300)
SCANS: dict[str, dict[str, Any]] = {
    "raster": {"frames": (6, 6)},
    "periodic": {"frames": (6, 6), "periodic": True},
    "fractional": {"frames": (6, 6), "fractional": True},
}
# The compact tiles of `plain.scan`.
CHUNKS = (4,) * 9


def illumination_on(tiling: Tiling, canvas: np.ndarray, index: int) -> np.ndarray:
    """A tile's part of an array on the whole canvas."""
    tile = tiling.tiles[index]
    rows = np.arange(tile.window.height) + tile.window.y - tiling.window.y
    columns = np.arange(tile.window.width) + tile.window.x - tiling.window.x
    if tiling.period is not None:
        rows, columns = rows % tiling.period[0], columns % tiling.period[1]
    return canvas[np.ix_(rows, columns)].astype(np.float32)


def synchronised(
    ds: xr.Dataset, tiling: Tiling, waves: np.ndarray, normalisation: Any = "degree"
) -> tuple[list[TileSum], list[np.ndarray]]:
    """Each tile synchronised in itself, and 1 / N on its window."""
    probe, lit = ds["probe"].values, plain.illumination_of(ds)
    how = Synchronisation(EVERY, normalisation)
    sums, weights = [], []
    for tile in tiling.tiles:
        weighted = Weighted(*weigh(waves[tile.frames], shift_probe(probe, tile.fraction)))
        weight = inverse_illumination(illumination_on(tiling, lit, tile.index), probe)
        block = block_within(tile, tiling.frame_shape, tiling.period)
        sums.append(synchronise_tile(tile, weighted, block, weight, how, 0.0))
        weights.append(weight)
    return sums, weights


def rows_of(tiling: Tiling, sums: list[TileSum], weights: list[np.ndarray]) -> list[Any]:
    rows = []
    for index, own in enumerate(sums):
        strips = list(tiling.strips_into(index))
        pieces = [sums[strip.source].image_sum[strip.from_source] for strip in strips]
        rows.append(galerkin_row(index, own, pieces, strips, weights[index]))
    return rows


def exact_waves(ds: xr.Dataset, tiling: Tiling) -> np.ndarray:
    """Exit waves of the true object."""
    truth, probe = ds["truth_object"].values, ds["probe"].values
    return np.concatenate(
        [
            split(
                np.ascontiguousarray(illumination_on(tiling, truth.real, tile.index)).astype(np.complex64)
                + 1j * illumination_on(tiling, truth.imag, tile.index),
                shift_probe(probe, tile.fraction),
                tile.corner,
            )
            for tile in tiling.tiles
        ]
    )


# The Galerkin matrix


@settings(max_examples=12)
@given(scan=st.sampled_from(sorted(SCANS)), seed=st.integers(0, 99))
def test_g_is_the_galerkin_matrix_of_h(scan: str, seed: int) -> None:
    """From strips alone: V* H V with the dense H of all frames."""
    ds = plain.scan(**SCANS[scan])
    tiling = plain.tiling_of(ds, CHUNKS)
    waves = plain.complex_noise(np.random.default_rng(seed), (36, 1, *tiling.frame_shape))
    sums, weights = synchronised(ds, tiling, waves)
    g = np.zeros((9, 9), dtype=complex)
    for index, row in enumerate(rows_of(tiling, sums, weights)):
        np.add.at(g, (index, row.tiles), row.values)
    one = plain.tiling_of(ds)
    own_probe = plain.shifted(ds["probe"].values, np.concatenate([t.fraction for t in tiling.tiles]))
    h = plain.gramian(
        plain.weigh(waves, own_probe), one.corner - (one.window.y, one.window.x), plain.illumination_of(ds)
    )
    v = np.zeros((36, 9), dtype=complex)
    for tile, own in zip(tiling.tiles, sums, strict=True):
        v[tile.frames, tile.index] = own.found.phase
    assert plain.relative(g, v.conj().T @ h @ v) < 1e-4


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("scan", SCANS)
def test_scrambled_phases_of_true_frames_are_found(scan: str, normalisation: Any) -> None:
    """A random phase for each frame, found by both levels up to one global phase."""
    ds = plain.scan(**SCANS[scan])
    tiling = plain.tiling_of(ds, CHUNKS)
    scrambled = np.exp(2j * np.pi * np.random.default_rng(1).random(36))
    waves = (exact_waves(ds, tiling) * scrambled[:, None, None, None]).astype(np.complex64)
    sums, weights = synchronised(ds, tiling, waves, normalisation)
    found = find_tile_phases(rows_of(tiling, sums, weights), Synchronisation(EVERY, normalisation), 0.0)
    phase = np.concatenate([own.found.phase * c for own, c in zip(sums, found.phase, strict=True)])
    left = phase * scrambled
    assert abs(np.angle(left / left[0])).max() < 2e-3
    assert found.disagreement == pytest.approx(0, abs=1e-4)


def test_phases_that_the_misfit_does_not_bear_out_are_left_alone() -> None:
    ds = plain.scan(**SCANS["raster"])
    tiling = plain.tiling_of(ds, CHUNKS)
    waves = exact_waves(ds, tiling)
    turned = waves * np.exp(0.1j * np.arange(36))[:, None, None, None]
    sums, weights = synchronised(ds, tiling, turned.astype(np.complex64))
    rows = rows_of(tiling, sums, weights)
    auto = Synchronisation(Sync(iterations=300), "degree")
    moved, kept = find_tile_phases(rows, auto, 0.0), find_tile_phases(rows, auto, 100.0)
    assert abs(np.angle(moved.phase)).max() > 0.1
    assert np.all(kept.phase == 1)
    # What the cadence goes by is reported all the same.
    assert kept.spread == moved.spread > 0.1


# Inner sweeps


@pytest.mark.parametrize("algorithm", [AP(), RAAR()], ids=["ap", "raar"])
def test_inner_sweeps_of_a_lone_tile_are_sweeps(algorithm: Any) -> None:
    """A tile without neighbours: two inner sweeps are two sweeps of the whole scan."""
    ds = plain.scan(**SCANS["raster"])
    options: dict[str, Any] = {"algorithm": algorithm, "start": ds["truth_object"].values * (1 + 0.2j)}
    options |= {"update_probe": False, "momentum": 0.0}
    twice = dp.reconstruct(ds, sweeps=4, sync=Sync(every=1, iterations=300), **options)
    inner = dp.reconstruct(ds, sweeps=2, sync=Sync(every=1, iterations=300, inner=2), **options)
    assert plain.relative(inner["object"], twice["object"]) < 1e-5
    np.testing.assert_allclose(inner["residual"], twice["residual"][::2], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("normalisation", [None, "degree"])
def test_the_truth_stays_through_inner_sweeps(normalisation: Any) -> None:
    """The neighbours' part is held: a tile's own sweeps do not pull its rim away."""
    ds = plain.scan(**SCANS["raster"])
    tiling = plain.tiling_of(ds, CHUNKS)
    truth, lit, amplitude = ds["truth_object"].values, plain.illumination_of(ds), plain.amplitudes_of(ds)
    how = Synchronisation(Sync(inner=3), normalisation)
    for tile in tiling.tiles:
        image = illumination_on(tiling, truth.real, tile.index) + 1j * illumination_on(
            tiling, truth.imag, tile.index
        )
        n = illumination_on(tiling, lit, tile.index)
        block = None if normalisation is None else block_within(tile, tiling.frame_shape, None)
        given = (AP(), on_tile(ds, tile), tile, amplitude[tile.frames])
        start = image.astype(np.complex64)
        inner = sweep_inside(*given, start, None, Surroundings(n, block), how)
        alone = sweep_tile(*given, start)
        found = sweep_tile(*given, inner.image)
        assert inner.stack is None
        assert plain.relative(found.left.image_sum, alone.left.image_sum) < 1e-3
        assert inner.misfit == pytest.approx(alone.misfit, abs=1e-6)


# Runs


def test_one_tile_is_the_full_method() -> None:
    ds = plain.scan(frames=(6, 6))
    options: dict[str, Any] = {"sweeps": 6, "start": "random", "update_probe": False}
    full = dp.reconstruct(ds, sync=Sync("full", every=1, iterations=300), **options)
    both = dp.reconstruct(ds, sync=Sync("two-level", every=1, iterations=300), **options)
    assert plain.relative(both["object"], full["object"]) < 1e-4
    np.testing.assert_allclose(both["spread"], full["spread"], rtol=1e-3)


@pytest.mark.parametrize(("inner", "rounds"), [(1, 30), (2, 20)])
def test_a_random_start_in_tiles_reaches_the_truth(tmp_path: Any, inner: int, rounds: int) -> None:
    ds = dp.simulate_scan(
        tmp_path / "s.zarr", frames=(16, 16), frame_size=16, step=4, periodic=True, tile_frames=16
    )
    assert len(ds.chunksizes["frame"]) == 16
    result = dp.reconstruct(ds, sweeps=rounds, start="random", update_probe=False, sync=Sync(inner=inner))
    assert dp.relative_error(result["object"].values, ds["truth_object"].values) < 1e-2


def test_frames_that_differ_within_their_tile_do_not_agree() -> None:
    ds = plain.scan(frames=(6, 6))
    found = {
        method: dp.reconstruct(ds, sweeps=1, update_probe=False, sync=Sync(method, every=1, iterations=60))
        for method in ("two-level", "full")
    }
    disagreement = found["two-level"]["disagreement"].values
    assert disagreement > 1e-3
    np.testing.assert_allclose(disagreement, found["full"]["disagreement"].values, rtol=1e-3)


@pytest.mark.parametrize("algorithm", ["ap", "raar", dp.DifferenceMap()], ids=["ap", "raar", "dm"])
@pytest.mark.parametrize("modes", [1, 2])
def test_every_algorithm_with_the_probe_recovered(algorithm: Any, modes: int) -> None:
    ds = plain.scan(frames=(6, 6), modes=modes, fractional=True, invalid=True, tile=4)
    result = dp.reconstruct(ds, sweeps=6, algorithm=algorithm, sync=Sync(every=2, inner=2))
    assert np.isfinite(result["object"]).all()
    # The difference map explores: it need not get better in so few sweeps, but it must not blow up.
    assert (
        result["residual"].values[-1]
        < (1.5 if algorithm == dp.DifferenceMap() else 0.9) * (result["residual"].values[0])
    )
    assert np.isfinite(result["disagreement"]).sum() >= 2


def test_only_strips_and_scalars_leave_a_worker() -> None:
    """Whatever a tile's tasks take from a tile on another worker is a strip that was cut for it."""
    ds = plain.scan(frames=(6, 6), tile=4)
    tiling = plain.tiling_of(ds, CHUNKS)
    tiles = len(tiling.tiles)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        layout = lay_out_scan(ds, CHUNKS, "two-level")
        settings = choose_settings(layout, sync=EVERY)
        first = persist(begin(layout, ds))
        state, _ = sweep(layout, first, settings)
        # The second sweep: it merges what the first one has left.
        following, report = sweep(layout, state, settings)
        graph = new_tasks([following, report], given=[layout, first])
        counted = count_tasks([following, report], given=[layout, state])
        recipe = Recipe(momentum=False, parameters=(Probe(recovered=False),))
        tasks = count_sweep_tasks(ds, tiling, recipe, workers=2)
    worker = [tile * 2 // tiles for tile in range(tiles)]
    cut = [key for key in graph if key_split(key) == "cut-strips"]
    travelling = [own for own in tiling.strips if worker[own.source] != worker[own.target]]
    # In each of the two sweeps one task for either way, with all strips that go there.
    assert len(cut) == 2 * 2
    sent = [[strip for _, strip in graph[key].args[2]()] for key in cut]
    assert sum(map(len, sent)) == 2 * len(travelling)
    for strips in sent:
        assert len({(worker[own.source], worker[own.target]) for own in strips}) == 1
        assert all(own in travelling for own in strips)
    assert tiling.strips_between_workers(2) == travelling
    assert counted == tasks
    # Without its strips no tile's graph touches what the tasks of a tile on the other worker read.
    rows = following.tiles[0].image.phases.needs[:tiles]
    assert {key_split(row.key) for row in rows} == {"row"}
    per_tile = [
        reached(graph, [tile.image, row], stop={"cut-strips", "find-phases"})
        for tile, row in zip(following.tiles, rows, strict=True)
    ]
    assert {key_split(key) for key in per_tile[0]} >= {"sweep", "row", "cut-strips", "find-phases"}
    for one, two in combinations(range(tiles), 2):
        if worker[one] != worker[two]:
            shared = {key_split(key) for key in per_tile[one] & per_tile[two]}
            assert shared <= {"find-phases", "place"}, shared


def test_nothing_is_cut_for_a_tile_in_the_same_process() -> None:
    ds = plain.scan(frames=(6, 6), tile=4)
    layout = lay_out_scan(ds, CHUNKS, "two-level")
    settings = choose_settings(layout, sync=EVERY)
    tasks = new_tasks(sweep(layout, begin(layout, ds), settings), given=layout)
    assert {key_split(key) for key in tasks} >= {"sweep", "row", "find-phases"}
    assert "cut-strips" not in {key_split(key) for key in tasks}


def reached(graph: dict, content: Any, stop: set[str]) -> set:
    """Keys of a graph that values need, not looking behind tasks of the names in `stop`."""
    found, pending = set(), [value.key for value in values_in(content)]
    while pending:
        at = pending.pop()
        if at in graph and at not in found:
            found.add(at)
            if key_split(at) not in stop:
                pending.extend(graph[at].dependencies)
    return found
