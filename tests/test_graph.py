"""The Dask graph: the same sweep whatever the tiles, nothing but tasks in it; plan, phases and starts."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import compute
from dask.delayed import Delayed
from distributed import Client, LocalCluster

from daskptycho.graph import Report, State, illuminations, sweep
from daskptycho.model.algorithms import AP, RAAR, Algorithm, DifferenceMap, Weighted
from daskptycho.run.result import assemble
from daskptycho.run.start import random_start, uniform_start
from daskptycho.sync.eigensolvers import Eigenpair
from daskptycho.sync.gramian import assemble as assemble_matrix
from daskptycho.sync.phases import Sync, frame_phases, normalise, solve
from daskptycho.tasks import exact as phase_graph
from daskptycho.tasks.exact import _matrices, phases_of_tiles, synchronise
from daskptycho.tasks.plan import Plan, make_plan
from daskptycho.tasks.spec import Home, homes, persisted, place, task
from daskptycho.tasks.waiting import computed
from daskptycho.tiling import Window
from tests import plain

TILES = {1: (36,), 4: (9,) * 4, 9: (4,) * 9}
# Eigenvectors to the last digit, so that nothing depends on where a solver stopped.
SYNC = Sync("full", iterations=300, every=1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


def planned(ds: xr.Dataset, chunks: tuple[int, ...]) -> Plan:
    return persisted(make_plan(ds.chunk({"frame": chunks}), plain.tiling_of(ds, chunks), "full"))


def next_sweep(plan: Plan, state: State, algorithm: Algorithm, **options: Any) -> tuple[State, Delayed]:
    """The graph of one sweep; synchronised by degrees unless told otherwise."""
    counts = sum(amplitude.total() for amplitude in compute(plan.amplitudes)[0])
    given: dict[str, Any] = {"counts": counts, "sync": SYNC, "normalisation": "degree"}
    return sweep(plan, state, algorithm, **given | options)


@dataclass
class Swept:
    image: np.ndarray
    illumination: np.ndarray
    probe: np.ndarray
    reports: list[Report]
    phases: np.ndarray | None


def swept(
    ds: xr.Dataset,
    chunks: tuple[int, ...],
    sweeps: int = 2,
    algorithm: Algorithm = AP(),  # noqa: B008
    sync: Sync = SYNC,
    normalisation: Any = "degree",
    start: str = "ones",
    probe: np.ndarray | None = None,
    **options: Any,
) -> Swept:
    """Some sweeps over the tiles of a scan."""
    plan = planned(ds, chunks)
    first = place(ds["probe"].values if probe is None else probe)
    if start == "random":
        numbers = [np.arange(tile.frames.start, tile.frames.stop) for tile in plan.tiling.tiles]
        state, report = persisted(random_start(plan, first, numbers, 5, sync, normalisation or "degree"))
        reports = [compute(report)[0]]
    else:
        state, reports = persisted(uniform_start(plan, first, None)), []
    for _ in range(sweeps):
        state, report = persisted(
            next_sweep(plan, state, algorithm, sync=sync, normalisation=normalisation, **options)
        )
        reports.append(compute(report)[0])
    phases = None if state.phases is None else np.concatenate(compute(state.phases)[0])
    return Swept(
        assemble(plan.tiling, state.images),
        assemble(plan.tiling, state.illuminations),
        compute(state.probe)[0],
        reports,
        phases,
    )


RASTER: dict[str, Any] = {"frames": (6, 6)}
PERIODIC: dict[str, Any] = {"frames": (6, 6), "periodic": True}
HARD: dict[str, Any] = {"frames": (6, 6), "fractional": True, "modes": 2, "invalid": True}
SWEEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "raster": (RASTER, {}),
    "no-sync": (RASTER, {"normalisation": None}),
    "frame": (RASTER, {"normalisation": "frame"}),
    "momentum": (RASTER, {"momentum": 0.7}),
    "raar": (RASTER, {"algorithm": RAAR()}),
    "dm": (RASTER, {"algorithm": DifferenceMap()}),
    "power": (RASTER, {"sync": Sync("full", eigensolver="power", iterations=5, every=1)}),
    "update-probe": (RASTER, {"update_probe": True, "momentum": 0.5}),
    "periodic": (PERIODIC, {}),
    "periodic-raar-random": (PERIODIC, {"algorithm": RAAR(), "start": "random"}),
    "periodic-fractional": (PERIODIC | {"fractional": True}, {"update_probe": True}),
    "hard": (HARD, {}),
    "hard-update-probe": (HARD, {"update_probe": True, "momentum": 0.5}),
    "hard-raar-update-probe": (HARD, {"update_probe": True, "algorithm": RAAR()}),
}


# Tiles


@pytest.mark.parametrize(("scan", "options"), SWEEPS.values(), ids=SWEEPS.keys())
def test_tiles_change_nothing(scan: dict, options: dict) -> None:
    ds = plain.scan(**scan)
    one = swept(ds, TILES[1], **options)
    for count in (4, 9):
        tiles = swept(ds, TILES[count], **options)
        assert plain.relative(tiles.image, one.image) < 1e-5
        assert plain.relative(tiles.illumination, one.illumination) < 1e-5
        assert plain.relative(tiles.probe, one.probe) < 1e-5
        np.testing.assert_allclose(tiles.reports, one.reports, rtol=1e-4, atol=1e-6)
        assert (tiles.phases is None) == (one.phases is None)
        if one.phases is not None:
            np.testing.assert_allclose(tiles.phases, one.phases, atol=1e-5)


def test_tiles_of_any_size_change_nothing() -> None:
    ds = plain.scan(frames=(3, 4), fractional=True)
    one = swept(ds, (12,))
    for chunks in ((1,) * 12, (11, 1), (2, 3, 1, 6)):
        assert plain.relative(swept(ds, chunks).image, one.image) < 1e-5


# The textbook


@pytest.mark.parametrize("scan", [RASTER, PERIODIC, HARD, PERIODIC | {"fractional": True}], ids=str)
@pytest.mark.parametrize("synced", [False, True], ids=["no-sync", "sync"])
def test_a_sweep_over_tiles_is_the_formula(scan: dict, synced: bool) -> None:
    """Data projection, H on the whole canvas, its dense eigenvector, omega, overlap."""
    ds = plain.scan(**scan)
    tiling = plain.tiling_of(ds)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    on = plain.Projections(
        plain.shifted(ds["probe"].values, tiling.tiles[0].fraction),
        corner,
        plain.amplitudes_of(ds).astype(float),
        tiling.window.shape,
    )
    projected = on.data(on.split(np.ones(on.shape)))
    expected = on.image(projected)
    if synced:
        h = plain.gramian(plain.weigh(projected, on.probe), corner, plain.illumination_of(ds))
        degree = np.sqrt(abs(h).sum(axis=1))
        values, vectors = np.linalg.eigh(h / np.outer(degree, degree))
        omega = vectors[:, -1] / abs(vectors[:, -1])
        omega *= np.exp(-1j * np.angle((omega * (abs(projected) ** 2).sum(axis=(1, 2, 3))).sum()))
        expected = on.image(projected * omega[:, None, None, None])
    found = swept(ds, TILES[4], sweeps=1, normalisation="degree" if synced else None)
    assert plain.relative(found.image, expected) < 1e-4
    (report,) = found.reports
    assert report.misfit == pytest.approx(plain.misfit(on.split(np.ones(on.shape)), on.amplitude), rel=1e-4)
    if synced:
        assert report.consensus == pytest.approx(1 - values[-1], abs=1e-5)
    else:
        assert np.isnan(report[1:]).all()


def test_momentum_extrapolates_the_object_but_not_from_the_start() -> None:
    ds = plain.scan(**RASTER)
    plan = planned(ds, TILES[4])
    first = persisted(uniform_start(plan, place(ds["probe"].values), None))
    options: dict[str, Any] = {"normalisation": None}
    plainly, _ = persisted(next_sweep(plan, first, AP(), **options))
    with_momentum, _ = persisted(next_sweep(plan, first, AP(), momentum=0.7, **options))
    np.testing.assert_array_equal(
        assemble(plan.tiling, with_momentum.images), assemble(plan.tiling, plainly.images)
    )
    ahead = [
        place(now + np.float32(0.7) * (now - before))
        for now, before in zip(compute(plainly.images)[0], compute(first.images)[0], strict=True)
    ]
    expected, _ = next_sweep(plan, replace(plainly, images=ahead), AP(), **options)
    found, _ = next_sweep(plan, plainly, AP(), momentum=0.7, **options)
    np.testing.assert_allclose(
        assemble(plan.tiling, found.images), assemble(plan.tiling, expected.images), atol=1e-5
    )


@pytest.mark.parametrize("scan", [RASTER, HARD, PERIODIC | {"modes": 2}], ids=str)
def test_illuminations_are_those_of_the_canvas(scan: dict) -> None:
    ds = plain.scan(**scan)
    plan = planned(ds, TILES[9])
    found = assemble(plan.tiling, illuminations(plan, place(ds["probe"].values)))
    np.testing.assert_allclose(found, plain.illumination_of(ds), rtol=1e-4, atol=1e-4)


# Phases


def random_frames(tiles: int) -> tuple[Plan, list[Delayed], list[Delayed], Delayed, Any, np.ndarray]:
    """A plan, weighted frames of noise, illuminations and probe; H assembled, and the frames' power."""
    ds = plain.scan(**RASTER)
    plan = planned(ds, TILES[tiles])
    random = np.random.default_rng(0)
    probe = place(ds["probe"].values)
    lit = persisted(illuminations(plan, probe))
    weighted = [
        place(Weighted(plain.complex_noise(random, (len(tile), 12, 10)), random.uniform(0.5, 2, len(tile))))
        for tile in plan.tiling.tiles
    ]
    power = np.concatenate([tile.power for tile in compute(weighted)[0]])
    matrix = assemble_matrix(compute(plan.pairs)[0], compute(_matrices(plan, weighted, lit, probe))[0])
    return plan, weighted, lit, probe, matrix, power


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("tiles", [1, 9])
def test_blockwise_power_iteration_is_the_eager_one(normalisation: Any, iterations: int, tiles: int) -> None:
    plan, weighted, lit, probe, matrix, power = random_frames(tiles)
    sync = Sync("full", eigensolver="power", iterations=iterations)
    expected = frame_phases(solve(normalise(matrix, power, normalisation), sync), power)
    found = compute(synchronise(plan, weighted, lit, probe, sync, normalisation))[0]
    np.testing.assert_allclose(found.phase, expected.phase, atol=1e-6)
    for name in ("consensus", "spread", "localisation"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("tiles", [1, 9])
def test_blockwise_lobpcg_is_as_good_as_scipys(
    normalisation: Any, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phase_graph, "MOST_ASSEMBLED", 0)
    plan, weighted, lit, probe, matrix, power = random_frames(tiles)
    assert plan.overlaps > 0
    normalised = normalise(matrix, power, normalisation)
    for iterations in (2, 3, 6, 100):
        sync = Sync("full", eigensolver="lobpcg", iterations=iterations)
        found = compute(synchronise(plan, weighted, lit, probe, sync, normalisation))[0]
        stepped = frame_phases(
            solve(normalised, Sync("full", eigensolver="power", iterations=iterations)), power
        )
        assert found.consensus <= stepped.consensus + 1e-12
        # SciPy's steps are counted from another one.
        expected = frame_phases(
            solve(normalised, Sync("full", eigensolver="lobpcg", iterations=iterations - 1)), power
        )
        assert found.consensus <= expected.consensus + 1e-9
    values, vectors = np.linalg.eigh(normalised.matrix.toarray())
    exact = frame_phases(Eigenpair(values[-1], vectors[:, -1], 0.0), power)
    assert found.consensus == pytest.approx(exact.consensus, abs=1e-6)
    np.testing.assert_allclose(found.phase, exact.phase, atol=1e-3)


def test_matrix_that_no_worker_should_hold_is_not_assembled(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = plain.scan(**RASTER)
    expected = swept(ds, TILES[9])
    monkeypatch.setattr(phase_graph, "MOST_ASSEMBLED", 0)
    monkeypatch.setattr(phase_graph, "_solve_assembled", None)
    found = swept(ds, TILES[9], sync=Sync("full", iterations=60, every=1))
    assert plain.relative(found.image, expected.image) < 1e-5


def test_blockwise_power_iteration_goes_on_however_small_the_eigenvalue() -> None:
    """A random start's is 0.1 to 0.5, and hundreds of steps are asked for."""
    ds = plain.scan(frames=(3, 3))
    plan = planned(ds, (9,))
    probe = place(ds["probe"].values)
    lit = illuminations(plan, probe)
    random = np.random.default_rng(0)
    # Weak frames for a bright illumination, rather than as many steps.
    weighted = [place(Weighted(plain.complex_noise(random, (9, 12, 10)), np.full(9, 1e12)))]
    sync = Sync("full", eigensolver="power", iterations=40)
    found = compute(synchronise(plan, weighted, lit, probe, sync, "frame"))[0]
    assert np.isfinite(found.consensus)
    assert np.isfinite(found.localisation)


def test_phases_are_cut_into_tiles() -> None:
    ds = plain.scan(**RASTER)
    plan = planned(ds, TILES[4])
    random = np.random.default_rng(0)
    probe = place(ds["probe"].values)
    lit = illuminations(plan, probe)
    weighted = [place(Weighted(plain.complex_noise(random, (9, 12, 10)), np.ones(9))) for _ in range(4)]
    synced = persisted(synchronise(plan, weighted, lit, probe, SYNC, "degree"))
    parts = compute(phases_of_tiles(plan, synced))[0]
    assert [len(part) for part in parts] == [9] * 4
    np.testing.assert_array_equal(np.concatenate(parts), compute(synced)[0].phase)


# What a graph holds


def tasks_of(following: Any, inputs: set[str]) -> dict[str, Any]:
    """The tasks of a sweep that is not computed yet, without the values that were there before."""
    ends: list[Delayed] = []

    def collect(value: Any) -> None:
        if isinstance(value, Delayed):
            ends.append(value)
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)
        elif isinstance(value, State | Plan):
            for part in vars(value).values():
                collect(part)

    collect(following)
    graph: dict[str, Any] = {}
    for end in ends:
        graph.update(end.dask)
    return {key: task for key, task in graph.items() if key not in inputs}


def inputs_of(plan: Plan, state: State) -> set[str]:
    return set(tasks_of((plan, state), set()))


@pytest.mark.parametrize("eigensolver", ["lobpcg", "power"])
@pytest.mark.parametrize("algorithm", [AP(), RAAR()], ids=repr)
def test_no_array_is_baked_into_a_sweep(algorithm: Algorithm, eigensolver: Any) -> None:
    ds = plain.scan(frames=(6, 6), frame_shape=(32, 32), step=8)
    plan = planned(ds, TILES[4])
    state = persisted(uniform_start(plan, place(ds["probe"].values), None))
    sync = Sync("full", eigensolver=eigensolver, iterations=2, every=1)
    options: dict[str, Any] = {"sync": sync, "update_probe": True}
    state, _ = persisted(next_sweep(plan, state, algorithm, **options))
    tasks = tasks_of(next_sweep(plan, state, algorithm, **options), inputs_of(plan, state))
    assert len(tasks) > 20
    sizes = {key: len(cloudpickle.dumps(task)) for key, task in tasks.items()}
    one_frame = 32 * 32 * 4
    largest = max(sizes, key=sizes.__getitem__)
    assert sizes[largest] < one_frame, f"{largest} takes {sizes[largest]} bytes"


def test_starts_take_arrays_from_one_place() -> None:
    ds = plain.scan(frames=(6, 6), frame_shape=(32, 32), step=8)
    plan = planned(ds, TILES[9])
    canvas = np.ones(plan.tiling.window.shape, dtype=np.complex64)
    state = uniform_start(plan, place(ds["probe"].values), canvas)
    tasks = tasks_of(state, inputs_of(plan, State([], [], plan.tiles[0])))
    total = sum(len(cloudpickle.dumps(task)) for task in tasks.values())
    assert total < 2 * (canvas.nbytes + ds["probe"].nbytes)


@pytest.mark.parametrize("update_probe", [False, True])
def test_a_graph_spans_one_sweep(update_probe: bool) -> None:
    ds = plain.scan(**RASTER)
    plan = planned(ds, TILES[4])
    state = persisted(uniform_start(plan, place(ds["probe"].values), None))
    counts = []
    for _ in range(4):
        new = next_sweep(plan, state, RAAR(), momentum=0, update_probe=update_probe)
        counts.append(len(tasks_of(new, inputs_of(plan, state))))
        state, _ = persisted(new)
    assert counts[1] == counts[2] == counts[3]


def test_tasks_can_be_sent_to_another_process() -> None:
    ds = plain.scan(**RASTER)
    plan = make_plan(ds.chunk({"frame": 9}), plain.tiling_of(ds, TILES[4]), "full")
    state, report = random_start(plan, place(ds["probe"].values), [np.arange(9)] * 4, 0, SYNC, "frame")
    new = next_sweep(plan, state, RAAR(), update_probe=True)
    for key, node in tasks_of((new, report), set()).items():
        assert pickle.loads(cloudpickle.dumps(node)) is not None, key


# Plan


@pytest.mark.parametrize("chunks", [(36,), (10, 20, 6)])
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_plan_holds_amplitudes_tiles_and_blocks(lazy: bool, chunks: tuple[int, ...]) -> None:
    ds = plain.scan(**HARD)
    ds["background"] = (("qy", "qx"), np.full((12, 10), 0.5))
    tiling = plain.tiling_of(ds, chunks)
    plan = make_plan(ds.chunk({"frame": chunks}) if lazy else ds, tiling, "full")
    counts = ds.copy()
    counts["intensity"] = np.maximum(ds["intensity"] - 0.5, 0)
    found = np.concatenate([amplitude[:] for amplitude in compute(plan.amplitudes)[0]])
    np.testing.assert_allclose(found, plain.amplitudes_of(counts), rtol=1e-5, atol=1e-6)
    tiles = compute(plan.tiles)[0]
    assert [tile.frames for tile in tiles] == [tile.frames for tile in tiling.tiles]
    assert [(b.row, b.column, b.shape) for b in plan.outline] == [
        (b.row, b.column, b.shape) for b in compute(plan.pairs)[0]
    ]
    # What every sweep's graph carries along has no pairs in it.
    assert all(block.pair.size == block.offset.size == block.border.size == 0 for block in plan.outline)


def test_a_plan_without_sync_looks_for_no_pairs() -> None:
    ds = plain.scan(**RASTER)
    plan = make_plan(ds, plain.tiling_of(ds), None)
    assert plan.outline == plan.pairs == []


def test_frames_are_read_once_and_by_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read when the plan is made; then each tile once."""
    ds = plain.scan(**RASTER)
    reads = []

    def read(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        reads.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(ds["intensity"].values, chunks=(9, -1, -1))
    ds["intensity"] = (("frame", "qy", "qx"), lazy.map_blocks(read, meta=np.empty((0, 0, 0))))
    plan = make_plan(ds, plain.tiling_of(ds, TILES[4]), "full")
    assert reads == []
    plan = persisted(plan)
    state = persisted(uniform_start(plan, place(ds["probe"].values), None))
    for _ in range(2):
        state, _ = persisted(next_sweep(plan, state, AP()))
    assert sorted(reads) == [0, 1, 2, 3]


# Starts


def test_a_start_from_ones() -> None:
    ds = plain.scan(**RASTER)
    plan = planned(ds, TILES[4])
    state = uniform_start(plan, place(ds["probe"].values), None)
    image = assemble(plan.tiling, state.images)
    assert image.dtype == np.complex64
    assert (image[plain.illumination_of(ds) > 0] == 1).all()


@pytest.mark.parametrize("scan", [RASTER, PERIODIC | {"fractional": True}], ids=str)
@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, np.float64, np.int64])
def test_a_start_from_an_object_is_that_object(scan: dict, dtype: Any) -> None:
    ds = plain.scan(**scan)
    plan = planned(ds, TILES[9])
    canvas = np.arange(np.prod(plan.tiling.window.shape)).reshape(plan.tiling.window.shape).astype(dtype)
    state = uniform_start(plan, place(ds["probe"].values), canvas)
    found = assemble(plan.tiling, state.images)
    assert found.dtype == np.complex64
    covered = plain.illumination_of(ds) > 0
    np.testing.assert_array_equal(found[covered], canvas[covered].astype(np.complex64))
    for tile, image in zip(plan.tiling.tiles, compute(state.images)[0], strict=True):
        assert image.shape == tile.window.shape
        origin = plan.tiling.window if plan.tiling.period is None else Window(0, 0, 0, 0)
        at = ((tile.window.y - origin.y) % canvas.shape[0], (tile.window.x - origin.x) % canvas.shape[1])
        assert image[0, 0] == canvas[at]


@pytest.mark.parametrize("modes", [1, 3])
def test_random_frames_have_the_measured_amplitudes(modes: int) -> None:
    """One frame alone: its image times the probe is the wave that the start made."""
    ds = plain.scan(frames=(1, 1), modes=modes, invalid=modes == 1)
    amplitude = plain.amplitudes_of(ds)
    start = swept(ds, (1,), sweeps=0, start="random", sync=Sync(method=None))
    other = swept(ds, (1,), sweeps=0, start="random", sync=Sync(method=None))
    np.testing.assert_array_equal(start.image, other.image)
    assert np.isnan(start.reports[0][1:]).all()
    if modes == 1:
        wave = plain.transform(start.image * ds["probe"].values)
        np.testing.assert_allclose(abs(wave[0]), np.clip(amplitude[0], 0, None), rtol=1e-3, atol=1e-3)
    phases = np.angle(plain.transform(start.image * ds["probe"].values[0]))
    assert np.std(phases) > 1


def test_random_phases_follow_the_frames_number_and_the_seed() -> None:
    ds = plain.scan(**PERIODIC)
    plan = planned(ds, TILES[4])
    probe = place(ds["probe"].values)

    def start(numbers: np.ndarray, seed: int) -> np.ndarray:
        of_tiles = [numbers[tile.frames] for tile in plan.tiling.tiles]
        state, _ = random_start(plan, probe, of_tiles, seed, Sync(method=None), "frame")
        return assemble(plan.tiling, state.images)

    numbers = np.arange(36)
    np.testing.assert_array_equal(start(numbers, 0), start(numbers, 0))
    assert plain.relative(start(numbers, 1), start(numbers, 0)) > 0.5
    assert plain.relative(start(numbers[::-1], 0), start(numbers, 0)) > 0.5


def test_a_random_start_is_synchronised_once() -> None:
    ds = plain.scan(**PERIODIC)
    start = swept(ds, TILES[4], sweeps=0, start="random", normalisation="frame")
    (report,) = start.reports
    assert report.misfit == 0
    assert 0 < report.consensus < 1
    assert report.spread > 0.5
    assert report.localisation > 1
    plainly = swept(ds, TILES[4], sweeps=0, start="random", sync=Sync(method=None))
    # Frames that were turned to agree add up to more.
    assert np.linalg.norm(start.image) > 1.05 * np.linalg.norm(plainly.image)


def test_a_tile_is_computed_at_its_home_also_alone() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        for tile in (0, 7, 8, 15):
            value = persisted(task(int, tile, home=Home(tile, 16)))
            assert computed(value) == tile
            assert homes([value]) == [workers[tile // 8]]
