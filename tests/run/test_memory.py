"""What a run needs is estimated before it; what does not fit is streamed, or refused with what would fit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from dask.callbacks import Callback
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho import graph
from daskptycho.backend import GPU_BATCHES
from daskptycho.cluster.workers import Workers
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, LBFGS, RAAR
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.fitting import describe_method, fit_options
from daskptycho.run.guard import drop_anchor
from daskptycho.run.memory import FULL, GPU_CONTEXT, INTERPRETER, count_sweep_tasks, estimate_needs
from daskptycho.run.options import Recipe, check_options
from daskptycho.run.start import begin_uniform, place_values
from daskptycho.scan.dataset import tile_chunks
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.frames import StoredAmplitudes
from daskptycho.tasks.layout import Residency, lay_out
from daskptycho.tasks.state import SweepSettings
from daskptycho.tasks.waiting import compute, persist
from tests import plain
from tests.test_cli import expect_refusal, read_facts, run

HERE = Workers(1, 1, None)
ON_GPU = Workers(1, 1, 2**33, "gpu")


def four_tiles(folder: Path) -> xr.Dataset:
    """A scan of four tiles."""
    return dp.simulate_scan(
        folder / "scan.zarr", frames=(8, 8), frame_size=32, step=8, jitter=1, photons=1e5, tile_frames=16
    )


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return four_tiles(tmp_path_factory.mktemp("resources"))


def recipe_of(update_probe: bool = True, **others: Any) -> Recipe:
    """A recipe in which the probe is recovered, or held."""
    return Recipe(parameters=(Probe(recovered=update_probe),), **others)


def tight(ds: xr.Dataset, recipe: Recipe, workers: Workers = HERE, *, images_on_disk: bool = False) -> int:
    """Memory in which a run fits if it streams, or with its images on disk only, and not otherwise."""
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    held = estimate_needs(ds, tiling, workers, recipe)
    assert not held.residency.streamed
    # From below, until it fits: first with the images on disk, then streamed.
    size = math.ceil(held.worker / FULL)
    for memory in range(math.floor(INTERPRETER / FULL), size, 20_000):
        try:
            found = estimate_needs(ds, tiling, replace(workers, memory=memory), recipe)
        except dp.OptionError:
            continue
        if found.residency.images_on_disk != images_on_disk:
            continue
        assert found.residency.streamed
        assert found.worker < held.worker
        return memory
    raise AssertionError("a streamed run takes no less than one that holds its amplitudes")


@pytest.mark.parametrize("update_probe", [False, True], ids=["known", "recovered"])
@pytest.mark.parametrize(
    "sync", [Sync(every=1), Sync(every=2, inner=2), Sync(None)], ids=["each", "inner", "none"]
)
def test_streamed_run_gives_the_image_of_one_that_holds_its_amplitudes(
    ds: xr.Dataset, sync: Sync, update_probe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"sweeps": 5, "algorithm": "ap", "sync": sync, "update_probe": update_probe}
    held = dp.reconstruct(ds, **options)
    reads: list[int] = []
    read = StoredAmplitudes.read

    def noted(own: StoredAmplitudes) -> Any:
        reads.append(1)
        return read(own)

    monkeypatch.setattr(StoredAmplitudes, "read", noted)
    recipe = recipe_of(update_probe, method=sync.method)
    with dask.config.set(num_workers=HERE.threads):
        streamed = dp.reconstruct(ds, memory=tight(ds, recipe), **options)
    # Once for the counts, then every sweep; twice in those that wait for the new probe of all tiles; and
    # once to measure each frame at the end.
    assert len(reads) == 4 * (1 + 5 + (4 if update_probe else 0) + 1)
    xr.testing.assert_allclose(streamed.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)


@pytest.mark.parametrize("modes", [1, 2])
def test_waves_that_find_no_room_are_computed_twice(
    ds: xr.Dataset, modes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"sweeps": 5, "sync": Sync(every=1), "modes": modes}
    held = dp.reconstruct(ds, **options)
    tiling, recipe = plain.tiling_of(ds, tile_chunks(ds)), recipe_of(modes=modes)
    memory = math.ceil(estimate_needs(ds, tiling, HERE, recipe).worker / FULL) - 1
    needs = estimate_needs(ds, tiling, replace(HERE, memory=memory), recipe)
    # Only the sums of the four tiles wait for each other.
    sums = 4 * Probe().sum_bytes(math.prod(tiling.frame_shape), modes)
    assert (needs.residency, needs.waiting) == (Residency.WAVES_TWICE, sums)
    kept: list[bool] = []
    sweep_tile = graph.sweep_tile

    def noted(*given: Any, **of_sweep: Any) -> Any:
        kept.append(of_sweep["leave"] != "sums only")
        return sweep_tile(*given, **of_sweep)

    monkeypatch.setattr(graph, "sweep_tile", noted)
    with dask.config.set(num_workers=HERE.threads):
        twice = dp.reconstruct(ds, memory=memory, **options)
    # The first sweep leaves the probe as it is.
    assert (len(kept), kept.count(False)) == (4 * (1 + 2 * 4), 4 * 4)
    xr.testing.assert_allclose(twice.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)


def test_random_start_streams_too(ds: xr.Dataset) -> None:
    options: dict[str, Any] = {"sweeps": 3, "start": "random", "opening": None}
    options |= {"algorithm": "ap", "update_probe": False}
    held = dp.reconstruct(ds, **options)
    memory = tight(ds, recipe_of(update_probe=False))
    with dask.config.set(num_workers=HERE.threads):
        streamed = dp.reconstruct(ds, memory=memory, **options)
    np.testing.assert_allclose(streamed["object"], held["object"], rtol=0, atol=1e-5)


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """All arrays among tuples, lists, dictionaries and dataclasses."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays_in(part)
    elif isinstance(value, dict):
        yield from arrays_in(list(value.values()))
    elif is_dataclass(value):
        yield from arrays_in([getattr(value, field.name) for field in fields(value)])


def size_of(*values: Any) -> int:
    """Bytes of the arrays, each once."""
    return sum(array.nbytes for array in {id(array): array for array in arrays_in(values)}.values())


@pytest.mark.parametrize("update_probe", [False, True])
@pytest.mark.parametrize(
    ("algorithm", "momentum"), [(AP(), 0.5), (AP(), 0.0), (RAAR(), 0.0)], ids=["ap", "ap-no-momentum", "raar"]
)
def test_what_is_held_was_estimated(
    ds: xr.Dataset, algorithm: Any, momentum: float, update_probe: bool
) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    recipe = recipe_of(update_probe, has_stack=algorithm.has_stack, momentum=momentum > 0)
    needs = estimate_needs(ds, tiling, HERE, recipe)
    model = Model(recipe.parameters)
    layout = persist(lay_out(ds, tiling, model, "two-level"))
    state = persist(begin_uniform(layout, *place_values(layout, {"probe": ds["probe"].values}), None))
    settings = SweepSettings(
        algorithm=algorithm,
        how=Synchronisation(Sync(every=1), "degree"),
        momentum=momentum,
        keeps_image=recipe.momentum,
        due=model.due(2),
    )
    anchor = drop_anchor(layout, state, 0)
    # The first sweep has no momentum yet.
    for _ in range(3):
        before = state
        state, _ = persist(sweep(layout, before, settings))
    # A sweep needs the state before it until its last tile is done.
    tiles, after, before = compute([layout.tiles, state.tiles, before.tiles])
    small = [(own.tile, own.pairs.border, own.amplitudes.invalid) for own in tiles]
    phases = [(own.image.phases, own.image.swept.left.found) for own in (*after, *before)]
    kept = size_of(tiles, after, before, compute(anchor.images)) - size_of(small, phases)
    # Pairs are counted in the largest tile only.
    assert 0.99 * needs.held <= kept <= 1.01 * needs.held


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("synchronises", [False, True])
def test_what_lbfgs_holds_was_estimated(ds: xr.Dataset, pairs: int, synchronises: bool) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    recipe = replace(recipe_of(False, momentum=False), pairs=pairs)
    needs = estimate_needs(ds, tiling, HERE, recipe)
    layout = persist(lay_out(ds, tiling, Model(recipe.parameters), "two-level"))
    state = persist(begin_uniform(layout, *place_values(layout, {"probe": ds["probe"].values}), None))
    anchor = drop_anchor(layout, state, 0)
    how = Synchronisation(Sync(every=1), "degree" if synchronises else None)
    for _ in range(pairs + 3):
        before = state
        state, _ = persist(sweep(layout, before, SweepSettings(LBFGS(pairs), how)))
    tiles, after, before, anchored = compute([layout.tiles, state.tiles, before.tiles, anchor.images])
    small = [(own.tile, own.pairs.border, own.amplitudes.invalid) for own in tiles]
    others = [
        (own.image.measured.products, own.image.measured.row, own.image.joined) for own in after + before
    ]
    if synchronises:
        others += [own.image.turned.swept.left.found for own in after + before]
    kept = size_of(tiles, after, before, anchored) - size_of(small, others)
    # A sweep that synchronises holds all that was estimated, another one the sums of one kind only.
    assert (0.99 if synchronises else 0.65) * needs.held <= kept <= 1.01 * needs.held


def test_pairs_and_opening_shrink_with_the_memory(ds: xr.Dataset) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    asked = check_options(update_probe=False)
    known = (Probe(recovered=False),)
    assert fit_options(ds, tiling, HERE, asked, known, 1)[0] == asked
    words: list[str] = []
    for memory in range(10 * 10**8, 4 * 10**8, -500_000):
        try:
            fitted, needs = fit_options(ds, tiling, replace(HERE, memory=memory), asked, known, 1)
        except dp.OptionError:
            break
        assert needs.fits
        method = f"{describe_method(fitted, asked)} | {needs.residency.streamed}"
        if not words or words[-1] != method:
            words.append(method)
    assert words[0] == "L-BFGS with 5 pairs, after 15 sweeps of raar at most | False"
    assert words[1] == "L-BFGS with 5 pairs; no room for an opening | False"
    assert words[2] == "L-BFGS with 4 pairs; no room for an opening and 5 pairs of L-BFGS | False"
    momentum = "ap with momentum; no room for an opening and 5 pairs of L-BFGS"
    assert f"{momentum} | False" in words
    assert words[-1] == f"{momentum} | True"


@contextmanager
def noting_tasks() -> Iterator[set[Any]]:
    """Keys of all tasks that the local scheduler is given in the block."""
    keys: set[Any] = set()
    with Callback(start=keys.update):
        yield keys


def tasks_of_third_sweep(ds: xr.Dataset, keys: set[Any], **options: Any) -> int:
    known: list[int] = []
    options |= {"sweeps": 3, "algorithm": "ap", "sync": Sync(every=1)}
    dp.reconstruct(ds, callback=lambda _: known.append(len(keys)), **options)
    return known[2] - known[1]


@pytest.mark.parametrize(
    ("update_probe", "of_a_tile", "others"),
    [(False, 2, 3), (True, 5, 5)],
    ids=["probe known", "probe recovered"],
)
def test_task_count_is_that_of_a_run(ds: xr.Dataset, update_probe: bool, of_a_tile: int, others: int) -> None:
    tiling, recipe = plain.tiling_of(ds, tile_chunks(ds)), recipe_of(update_probe)
    counted = count_sweep_tasks(ds, tiling, recipe)
    assert counted == of_a_tile * len(tiling.tiles) + others
    with noting_tasks() as keys:
        assert tasks_of_third_sweep(ds, keys, update_probe=update_probe) == counted
    # A second pass over the tiles takes the place of weighing waves that waited; images are merged apart.
    streamed = count_sweep_tasks(ds, tiling, recipe, residency=Residency.STREAMED)
    assert streamed == counted + len(tiling.tiles)
    memory = tight(ds, recipe)
    with noting_tasks() as keys, dask.config.set(num_workers=HERE.threads):
        assert tasks_of_third_sweep(ds, keys, update_probe=update_probe, memory=memory) == streamed


class NotedTasks(SchedulerPlugin):
    """Keys of all tasks that a scheduler is given."""

    def __init__(self) -> None:
        self.keys: set[Any] = set()

    def update_graph(self, scheduler: Any, *, tasks: list[Any], **_: Any) -> None:
        self.keys.update(tasks)


@pytest.mark.parametrize("method", ["two-level", "full", None])
@pytest.mark.parametrize("how", ["known", "recovered", "lbfgs"])
def test_task_count_is_that_of_a_run_on_two_workers(ds: xr.Dataset, method: Any, how: str) -> None:
    update_probe, accelerated = how == "recovered", how == "lbfgs"
    recipe = recipe_of(update_probe, method=method)
    if accelerated:
        recipe = replace(recipe, momentum=False, pairs=5)
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    options: dict[str, Any] = {"update_probe": update_probe, "sync": Sync(method, every=1)}
    options |= {"algorithm": "lbfgs" if accelerated else "ap", "opening": None, "polish": False}
    noted, known = NotedTasks(), []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        cluster.scheduler.add_plugin(noted)

        def note(_: dp.Progress) -> None:
            known.append(len(noted.keys))

        dp.reconstruct(ds, sweeps=3, callback=note, **options)
        within = count_sweep_tasks(ds, tiling, recipe, workers=2)
    assert known[2] - known[1] == within == count_sweep_tasks(ds, tiling, recipe, workers=2)


@given(
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(2 * 10**8, 10**10),
    st.sampled_from(["two-level", "full", None]),
    st.booleans(),
)
def test_refusal_says_what_would_fit(
    ds: xr.Dataset, count: int, threads: int, memory: int, method: Any, has_stack: bool
) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    recipe = recipe_of(method=method, has_stack=has_stack, momentum=not has_stack)
    try:
        found = estimate_needs(ds, tiling, Workers(count, threads, memory), recipe)
    except dp.OptionError as refusal:
        said = str(refusal)
    else:
        assert INTERPRETER < found.worker <= FULL * memory
        return
    wanted = re.search(r"expected (\d+) workers or more", said)
    if wanted is None:
        assert "expected smaller tiles" in said
    else:
        assert estimate_needs(ds, tiling, Workers(int(wanted[1]), threads, memory), recipe).fits


def test_memory_that_is_no_number_of_bytes_is_refused(ds: xr.Dataset) -> None:
    for memory in ("much", 0, -5, "0 GiB"):
        with pytest.raises(dp.OptionError, match="memory is"):
            dp.reconstruct(ds, sweeps=1, memory=memory)


def test_run_that_does_not_fit_is_refused_before_it_begins(ds: xr.Dataset, tmp_path: Path) -> None:
    scan = ds.encoding["source"]
    said = expect_refusal("reconstruct", scan, tmp_path / "out.zarr", "--memory", "100MB")
    assert "the run needs" in said
    assert "95.37 MiB" in said
    assert not (tmp_path / "out.zarr").exists()
    assert said.split(":", 1)[1] in expect_refusal(
        "plan", scan, "--memory", "100MB", "--threads", dask.system.CPU_COUNT
    )
    assert "memory is 'much'" in expect_refusal("plan", scan, "--memory", "much")


def test_plan_is_printed(ds: xr.Dataset) -> None:
    told = read_facts(run("plan", ds.encoding["source"], "--workers", 2, "--memory", "4GiB").stdout)
    assert told["workers"] == "2 with 1 thread each"
    assert told["tiles"].startswith("4 with 64 frames")
    assert told["amplitudes"] == "256.00 kiB as float32; read once, then held"
    assert "4.00 GiB" in told["each worker"]
    recipe = Recipe()
    tasks = count_sweep_tasks(ds, plain.tiling_of(ds, tile_chunks(ds)), recipe, workers=2)
    assert told["tasks"].startswith(f"{tasks} per sweep")


def test_a_gpu_needs_room_for_its_batches_and_pairs(ds: xr.Dataset) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    recipe = Recipe()
    there, here = estimate_needs(ds, tiling, ON_GPU, recipe), estimate_needs(ds, tiling, HERE, recipe)
    assert (there.held, there.waiting) == (here.held, here.waiting)
    # A whole tile of 16 frames is at work at once, with its temporaries.
    assert there.task == here.task + GPU_BATCHES * 16 * 32**2 * 8
    assert there.worker > GPU_CONTEXT


def test_frames_that_are_left_out_are_left_out_of_streams_too(ds: xr.Dataset) -> None:
    options: dict[str, Any] = {"sweeps": 4, "update_probe": False, "leave_out": [0, 3, 4], "algorithm": "ap"}
    held = dp.reconstruct(ds, **options)
    with dask.config.set(num_workers=HERE.threads):
        streamed = dp.reconstruct(ds, memory=tight(ds, recipe_of(False)), **options)
    xr.testing.assert_allclose(streamed.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)
    assert int(streamed["frame_used"].sum()) == ds.sizes["frame"] - 3
