"""The Dask graph of a sweep: the same sweep whatever the tiles, few tasks, and nothing but tasks in it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest

from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, LBFGS, RAAR, Algorithm, DifferenceMap
from daskptycho.run.result import assemble_canvas
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.layout import Residency
from daskptycho.tasks.spec import count_tasks, place
from daskptycho.tasks.state import State, illuminate_tiles, merge_images, model_on_tiles
from daskptycho.tasks.waiting import compute, persist
from tests import plain
from tests.sweeping import (
    FULL,
    begin,
    begin_with_random_phases,
    choose_settings,
    images_on_canvas,
    lay_out_scan,
    new_tasks,
    place_first_values,
    sweep_scan,
)

TILES = {1: (36,), 4: (9,) * 4, 9: (4,) * 9}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


RASTER: dict[str, Any] = {"frames": (6, 6)}
PERIODIC: dict[str, Any] = {"frames": (6, 6), "periodic": True}
HARD: dict[str, Any] = {"frames": (6, 6), "fractional": True, "modes": 2, "invalid": True}
TWICE: dict[str, Any] = {"update_probe": True, "residency": Residency.WAVES_TWICE}
SWEEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "raster": (RASTER, {}),
    "no-sync": (RASTER, {"normalisation": None}),
    "frame": (RASTER, {"normalisation": "frame"}),
    "momentum": (RASTER, {"momentum": 0.7}),
    "raar": (RASTER, {"algorithm": RAAR()}),
    "dm": (RASTER, {"algorithm": DifferenceMap()}),
    "lbfgs": (RASTER, {"algorithm": LBFGS(), "sweeps": 4}),
    "lbfgs-no-sync": (RASTER, {"algorithm": LBFGS(2), "sweeps": 4, "normalisation": None}),
    "lbfgs-streamed": (HARD, {"algorithm": LBFGS(), "sweeps": 4, "residency": Residency.STREAMED}),
    "lbfgs-smooth": (RASTER, {"algorithm": LBFGS(), "sweeps": 3, "smoothing": 0.1, "normalisation": None}),
    "opening": (PERIODIC, {"algorithm": RAAR(), "smoothing": 0.1}),
    "power": (RASTER, {"sync": Sync("full", eigensolver="power", iterations=5, every=1)}),
    "update-probe": (RASTER, {"update_probe": True, "momentum": 0.5}),
    "update-probe-waves-twice": (RASTER, TWICE | {"momentum": 0.5}),
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
    one = sweep_scan(ds, TILES[1], **options)
    for count in (4, 9):
        tiles = sweep_scan(ds, TILES[count], **options)
        assert plain.relative(tiles.image, one.image) < 1e-5
        assert plain.relative(tiles.illumination, one.illumination) < 1e-5
        assert plain.relative(tiles.probe, one.probe) < 1e-5
        np.testing.assert_allclose(tiles.reports, one.reports, rtol=1e-4, atol=1e-6)
        # Merged images have their phases in them.
        none = options.get("normalisation", "") is None or "residency" in options
        assert (tiles.phases is None) == (one.phases is None) == none
        if one.phases is not None:
            np.testing.assert_allclose(tiles.phases, one.phases, atol=1e-5)


def test_tiles_of_any_size_change_nothing() -> None:
    ds = plain.scan(frames=(3, 4), fractional=True)
    one = sweep_scan(ds, (12,))
    for chunks in ((1,) * 12, (11, 1), (2, 3, 1, 6)):
        assert plain.relative(sweep_scan(ds, chunks).image, one.image) < 1e-5


@pytest.mark.parametrize("options", [{}, {"sync": Sync(every=1)}, {"normalisation": None}], ids=str)
def test_waves_computed_twice_are_those_that_waited(options: dict) -> None:
    ds = plain.scan(**HARD)
    held = sweep_scan(ds, TILES[4], update_probe=True, **options)
    twice = sweep_scan(ds, TILES[4], **TWICE, **options)
    assert plain.relative(twice.image, held.image) < 1e-5
    assert plain.relative(twice.probe, held.probe) < 1e-5
    np.testing.assert_allclose(twice.reports, held.reports, rtol=1e-4, atol=1e-6)


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
        plain.damping_of(ds),
    )
    projected = on.data(on.split(np.ones(on.shape)))
    expected = on.image(projected, 1.0)
    if synced:
        h = plain.gramian(plain.weigh(projected, on.probe), corner, plain.illumination_of(ds))
        degree = np.sqrt(abs(h).sum(axis=1))
        values, vectors = np.linalg.eigh(h / np.outer(degree, degree))
        omega = vectors[:, -1] / abs(vectors[:, -1])
        omega *= np.exp(-1j * np.angle((omega * (abs(projected) ** 2).sum(axis=(1, 2, 3))).sum()))
        expected = on.image(projected * omega[:, None, None, None], 1.0)
    found = sweep_scan(ds, TILES[4], sweeps=1, normalisation="degree" if synced else None)
    lit = plain.illumination_of(ds) > 0
    assert plain.relative(found.image[lit], expected[lit]) < 1e-4
    (report,) = found.reports
    assert report.misfit == pytest.approx(plain.misfit(on.split(np.ones(on.shape)), on.amplitude), rel=1e-4)
    if synced:
        assert report.disagreement == pytest.approx(1 - values[-1], abs=1e-5)
    else:
        assert np.isnan(report[1:]).all()


def phases_of(matrix: np.ndarray, power: np.ndarray) -> np.ndarray:
    """omega from the leading eigenvector of the matrix divided by its degrees; its weighted mean is real."""
    degree = np.sqrt(abs(matrix).sum(axis=1))
    vector = np.linalg.eigh(matrix / np.outer(degree, degree))[1][:, -1]
    omega = vector / abs(vector)
    return omega * np.exp(-1j * np.angle((omega * power).sum()))


def phases_on_two_levels(h: np.ndarray, power: np.ndarray, chunks: tuple[int, ...]) -> np.ndarray:
    """omega of each tile's own block of H, times a phase for each tile from V* H V."""
    ends = np.cumsum(chunks)
    tiles = [slice(end - size, end) for end, size in zip(ends, chunks, strict=True)]
    v = np.zeros((len(h), len(tiles)), dtype=complex)
    for column, frames in enumerate(tiles):
        v[frames, column] = phases_of(h[frames, frames], power[frames])
    of_tiles = phases_of(v.conj().T @ h @ v, np.array([power[frames].sum() for frames in tiles]))
    return v @ of_tiles


@pytest.mark.parametrize("scan", [RASTER, HARD, PERIODIC | {"fractional": True}], ids=str)
@pytest.mark.parametrize("algorithm", [AP(), RAAR(), DifferenceMap()], ids=repr)
@pytest.mark.parametrize("method", ["full", "two-level"])
def test_sweeps_that_synchronise_are_the_formula(scan: dict, algorithm: Algorithm, method: Any) -> None:
    """Frames and stacks turned by the phases of both levels, or of H, sweep after sweep."""
    # Compact tiles: frames that hang together only through other tiles get no common phase from their own.
    ds, chunks = plain.scan(**scan), TILES[9]
    tiling = plain.tiling_of(ds)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    own_probe = plain.shifted(ds["probe"].values, tiling.tiles[0].fraction)
    shape, damping = tiling.window.shape, plain.damping_of(ds)
    on = plain.Projections(own_probe, corner, plain.amplitudes_of(ds).astype(float), shape, damping)
    layout = lay_out_scan(ds, chunks, method)
    settings = choose_settings(layout, algorithm, sync=Sync(method, every=1, iterations=300))
    # Where waves are zero at the detector, as those of a constant object, rounding chooses their phases.
    random = np.random.default_rng(6)
    image, stack = ds["truth_object"].values * np.exp(0.7j * plain.smooth(random, on.shape)), None
    state = persist(begin(layout, ds, image))
    for _ in range(3):
        state, report = persist(sweep(layout, state, settings))
        waves = on.split(image)
        z = algorithm.before(waves, stack)
        frames, stack = algorithm.after(waves, z, on.data(z), stack)
        h = plain.gramian(plain.weigh(frames, on.probe), corner, plain.illumination_of(ds))
        power = (abs(frames) ** 2).sum(axis=(1, 2, 3))
        omega = phases_of(h, power) if method == "full" else phases_on_two_levels(h, power, chunks)
        image = on.image(frames * omega[:, None, None, None], image)
        stack = None if stack is None else stack * omega[:, None, None, None]
        # Enough for a strip, or a stack, that is not turned to show.
        assert abs(np.angle(omega)).max() > 0.05
        assert compute(report).misfit == pytest.approx(plain.misfit(z, on.amplitude), rel=1e-3)
        lit = plain.illumination_of(ds) > 0
        assert plain.relative(images_on_canvas(layout, state)[lit], image[lit]) < 1e-3


def images_of_tiles(state: State, images: list[np.ndarray]) -> State:
    """The state with other images."""
    tiles = [own._replace(image=place(image)) for own, image in zip(state.tiles, images, strict=True)]
    return replace(state, tiles=tiles)


def test_momentum_extrapolates_the_object_but_not_from_the_start() -> None:
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, TILES[4])
    first = persist(begin(layout, ds))
    settings = choose_settings(layout, normalisation=None, keeps_image=True)
    ahead = choose_settings(layout, normalisation=None, momentum=0.7)
    plainly, _ = persist(sweep(layout, first, settings))
    with_momentum, _ = persist(sweep(layout, first, ahead))
    np.testing.assert_array_equal(images_on_canvas(layout, with_momentum), images_on_canvas(layout, plainly))
    now, before = (compute(merge_images(layout, state)) for state in (plainly, first))
    extrapolated = images_of_tiles(
        first, [own + np.float32(0.7) * (own - old) for own, old in zip(now, before, strict=True)]
    )
    expected, _ = sweep(layout, extrapolated, settings)
    found, _ = sweep(layout, plainly, ahead)
    np.testing.assert_allclose(images_on_canvas(layout, found), images_on_canvas(layout, expected), atol=1e-5)


def textbook_lbfgs(
    on: plain.Projections, image: np.ndarray, sweeps: int, most: int, smoothing: float
) -> np.ndarray:
    """Images after each sweep, on the canvas: two loops on vectors, in the inner product of the damped N."""
    lit = plain.illuminate(on.probe, on.corner, on.shape)
    damped = lit + on.damping + 4 * smoothing

    def dot(a: np.ndarray, b: np.ndarray) -> float:
        return float((damped * (a.conj() * b).real).sum())

    def differences(psi: np.ndarray) -> np.ndarray:
        covered, total = lit > 0, np.zeros_like(psi)
        for axis in (0, 1):
            for step in (1, -1):
                both = covered & np.roll(covered, step, axis)
                edge = [slice(None)] * 2
                edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
                both[tuple(edge)] = False
                total += both * (np.roll(psi, step, axis) - psi)
        return total

    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    before = change = None
    for _ in range(sweeps):
        total = plain.overlap(plain.weigh(on.data(on.split(image)), on.probe), on.corner, on.shape)
        now = (lit * image - total - smoothing * differences(image)) / damped
        if before is not None and change is not None:
            pairs = [*pairs, (image - before, now - change)][-most:]
        before, change = image, now
        d, alphas = now.copy(), []
        for s, q in reversed(pairs):
            alphas.append(dot(s, d) / dot(s, q))
            d -= alphas[-1] * q
        if pairs:
            d *= dot(*pairs[-1]) / dot(pairs[-1][1], pairs[-1][1])
        for (s, q), alpha in zip(pairs, reversed(alphas), strict=True):
            d += s * (alpha - dot(q, d) / dot(s, q))
        image = image - d
    return image


@pytest.mark.parametrize("scan", [RASTER, HARD], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_sweeps_of_lbfgs_are_the_formula(scan: dict, smoothing: float) -> None:
    ds = plain.scan(**scan)
    tiling = plain.tiling_of(ds)
    corner = tiling.corner - (tiling.window.y, tiling.window.x)
    own_probe = plain.shifted(ds["probe"].values, tiling.tiles[0].fraction)
    amplitude, shape = plain.amplitudes_of(ds).astype(float), tiling.window.shape
    on = plain.Projections(own_probe, corner, amplitude, shape, plain.damping_of(ds))
    random = np.random.default_rng(6)
    image = ds["truth_object"].values * np.exp(0.3j * plain.smooth(random, shape))
    expected = textbook_lbfgs(on, image, 5, 2, smoothing * 1e3 * plain.damping_of(ds))
    layout = lay_out_scan(ds, TILES[9], None)
    settings = choose_settings(layout, LBFGS(2), normalisation=None, smoothing=smoothing)
    state, misfits = persist(begin(layout, ds, image)), []
    for _ in range(5):
        state, report = persist(sweep(layout, state, settings))
        misfits.append(compute(report).misfit)
    assert all(np.diff(misfits) < 0)
    lit = plain.illumination_of(ds) > 0
    assert plain.relative(images_on_canvas(layout, state)[lit], expected[lit]) < 1e-3


@pytest.mark.parametrize("method", ["full", "two-level"])
def test_phases_are_added_to_the_step_of_lbfgs(method: Any) -> None:
    """The first step is that of AP, phases included."""
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, TILES[9], method)
    random = np.random.default_rng(6)
    turn = np.exp(0.7j * plain.smooth(random, layout.tiling.window.shape))
    first = persist(begin(layout, ds, ds["truth_object"].values * turn))
    sync = Sync(method, every=1, iterations=300)
    of_ap, of_lbfgs = (choose_settings(layout, own, sync=sync) for own in (AP(), LBFGS()))
    plainly, report = persist(sweep(layout, first, of_ap))
    stepped, other = persist(sweep(layout, first, of_lbfgs))
    np.testing.assert_allclose(compute(other)[:4], compute(report)[:4], rtol=1e-5)
    assert compute(report).spread > 0.05
    found, expected = images_on_canvas(layout, stepped), images_on_canvas(layout, plainly)
    assert plain.relative(found, expected) < 1e-5
    none = choose_settings(layout, LBFGS(), normalisation=None)
    without, _ = persist(sweep(layout, first, none))
    assert plain.relative(images_on_canvas(layout, without), expected) > 1e-2
    again, _ = persist(sweep(layout, stepped, of_lbfgs))
    assert plain.relative(images_on_canvas(layout, again), found) > 1e-3


@pytest.mark.parametrize("scan", [RASTER, HARD, PERIODIC | {"modes": 2}], ids=str)
def test_illuminations_are_those_of_the_canvas(scan: dict) -> None:
    ds = plain.scan(**scan)
    layout = lay_out_scan(ds, TILES[9])
    lit = illuminate_tiles(layout, model_on_tiles(layout, *place_first_values(layout, ds)))
    found = assemble_canvas(layout.tiling, lit)
    np.testing.assert_allclose(found, plain.illumination_of(ds), rtol=1e-4, atol=1e-4)


# What a graph holds


@pytest.mark.parametrize("eigensolver", ["lobpcg", "power"])
@pytest.mark.parametrize("algorithm", [AP(), RAAR()], ids=repr)
def test_no_array_is_baked_into_a_sweep(algorithm: Algorithm, eigensolver: Any) -> None:
    ds = plain.scan(frames=(6, 6), frame_shape=(32, 32), step=8)
    layout = lay_out_scan(ds, TILES[4], update_probe=True)
    sync = Sync("full", eigensolver=eigensolver, iterations=2, every=1)
    settings = choose_settings(layout, algorithm, sync=sync, update_probe=True)
    state, _ = persist(sweep(layout, persist(begin(layout, ds)), settings))
    tasks = new_tasks(sweep(layout, state, settings), given=[layout, state])
    assert len(tasks) > 20
    sizes = {key: len(cloudpickle.dumps(task)) for key, task in tasks.items()}
    one_frame = 32 * 32 * 4
    largest = max(sizes, key=sizes.__getitem__)
    assert sizes[largest] < one_frame, f"{largest} takes {sizes[largest]} bytes"


def test_starts_take_arrays_from_one_place() -> None:
    ds = plain.scan(frames=(6, 6), frame_shape=(32, 32), step=8)
    layout = lay_out_scan(ds, TILES[9])
    canvas = np.ones(layout.tiling.window.shape, dtype=np.complex64)
    tasks = new_tasks(begin(layout, ds, canvas), given=layout)
    total = sum(len(cloudpickle.dumps(task)) for task in tasks.values())
    assert total < 2 * (canvas.nbytes + ds["probe"].nbytes)


@pytest.mark.parametrize("update_probe", [False, True])
def test_a_graph_spans_one_sweep(update_probe: bool) -> None:
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, TILES[4], update_probe=update_probe)
    settings = choose_settings(layout, RAAR(), update_probe=update_probe)
    state = persist(begin(layout, ds))
    counts = []
    for _ in range(4):
        new = sweep(layout, state, settings)
        counts.append(len(new_tasks(new, given=[layout, state])))
        state, _ = persist(new)
    assert counts[1] == counts[2] == counts[3]


@pytest.mark.parametrize(
    ("algorithm", "update_probe", "residency", "most"),
    [
        (LBFGS(), False, Residency.HELD, 2.1),
        (AP(), False, Residency.HELD, 2.1),
        (AP(), True, Residency.HELD, 5.1),
        (AP(), True, Residency.WAVES_TWICE, 6.1),
    ],
    ids=["L-BFGS", "probe known", "probe recovered, waves held", "probe recovered, waves twice"],
)
def test_a_sweep_has_few_tasks_for_each_tile(
    algorithm: Algorithm,
    update_probe: bool,
    residency: Residency,
    most: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one process, synchronised on two levels. What breaks first in a large run is the scheduler."""
    ds = plain.scan(frames=(16, 16), frame_shape=(8, 8), step=3)
    layout = lay_out_scan(ds, (4,) * 64, "two-level", residency=residency, update_probe=update_probe)
    momentum = 0.0 if isinstance(algorithm, LBFGS) else 0.5
    settings = choose_settings(
        layout, algorithm, sync=Sync(every=1), update_probe=update_probe, momentum=momentum
    )
    state, _ = persist(sweep(layout, persist(begin(layout, ds)), settings))
    following, report = sweep(layout, state, settings)
    for_each = count_tasks([following, report], given=[layout, state]) / len(layout.tiles)
    with capsys.disabled():
        print(f"\n{for_each:.2f} tasks a tile and sweep", end=" ")
    assert for_each <= most
    # The change of the object is only measured for a run that ends at rest.
    assert np.isfinite(compute(report)[:4]).all()


def test_tasks_can_be_sent_to_another_process() -> None:
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, TILES[4], update_probe=True)
    state, report = begin_with_random_phases(layout, ds, Synchronisation(FULL, "frame"), seed=0)
    new = sweep(layout, state, choose_settings(layout, RAAR(), update_probe=True))
    tasks = new_tasks([new, report], given=layout)
    assert len(tasks) > 40
    for key, node in tasks.items():
        assert pickle.loads(cloudpickle.dumps(node)) is not None, key
