"""What a run takes is told beforehand; what does not fit is streamed, or refused with what would fit."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from dask.base import compute
from daskptycho.tasks.plan import StoredAmplitudes, make_plan
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho import graph
from daskptycho.backend import GPU_BATCHES
from daskptycho.cluster.workers import Workers
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR
from daskptycho.model.operators import Amplitudes
from daskptycho.run.memory import (
    FULL,
    GPU_CONTEXT,
    INTERPRETER,
    Recipe,
    count_sweep_tasks,
    estimate_needs,
)
from daskptycho.run.start import uniform_start
from daskptycho.scan.dataset import tile_chunks
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.options import Sync
from daskptycho.tasks.spec import persisted, place
from tests import plain
from tests.test_cli import facts, refused, run

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


def tight(ds: xr.Dataset, recipe: Recipe, workers: Workers = HERE, *, images_on_disk: bool = False) -> int:
    """Memory in which a run fits if it streams, or with its images on disk alone, and not otherwise."""
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    held = estimate_needs(ds, tiling, workers, recipe)
    assert not held.streamed
    # From below, until it fits: first with the images on disk, then streamed.
    size = math.ceil(held.worker / FULL)
    for memory in range(math.floor(INTERPRETER / FULL), size, 20_000):
        try:
            found = estimate_needs(ds, tiling, replace(workers, memory=memory), recipe)
        except dp.OptionError:
            continue
        if found.images_on_disk != images_on_disk:
            continue
        assert found.streamed
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
    options: dict[str, Any] = {"sweeps": 5, "sync": sync, "update_probe": update_probe}
    held = dp.reconstruct(ds, **options)
    reads: list[int] = []
    read = StoredAmplitudes.read

    def noted(own: StoredAmplitudes) -> Any:
        reads.append(1)
        return read(own)

    monkeypatch.setattr(StoredAmplitudes, "read", noted)
    recipe = Recipe(1, sync.method, False, True, update_probe)
    with dask.config.set(num_workers=HERE.threads):
        streamed = dp.reconstruct(ds, memory=tight(ds, recipe), **options)
    # Once for the counts, then every sweep; twice in those that wait for the new probe of all tiles.
    assert len(reads) == 4 * (1 + 5 + (4 if update_probe else 0))
    xr.testing.assert_allclose(streamed.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)


@pytest.mark.parametrize("modes", [1, 2])
def test_waves_that_find_no_room_are_computed_twice(
    ds: xr.Dataset, modes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"sweeps": 5, "sync": Sync(every=1), "modes": modes}
    held = dp.reconstruct(ds, **options)
    tiling, recipe = plain.tiling_of(ds, tile_chunks(ds)), Recipe(modes)
    memory = math.ceil(estimate_needs(ds, tiling, HERE, recipe).worker / FULL) - 1
    needs = estimate_needs(ds, tiling, replace(HERE, memory=memory), recipe)
    assert (needs.waves_twice, needs.streamed, needs.waiting) == (True, False, 0)
    kept: list[bool] = []
    sweep_tile = graph.sweep_tile

    def noted(*given: Any, **of_sweep: Any) -> Any:
        kept.append(of_sweep.get("keep_waves", True))
        return sweep_tile(*given, **of_sweep)

    monkeypatch.setattr(graph, "sweep_tile", noted)
    with dask.config.set(num_workers=HERE.threads):
        twice = dp.reconstruct(ds, memory=memory, **options)
    # The first sweep leaves the probe as it is.
    assert (len(kept), kept.count(False)) == (4 * (1 + 2 * 4), 4 * 4)
    xr.testing.assert_allclose(twice.drop_vars("seconds"), held.drop_vars("seconds"), rtol=1e-5)


def test_random_start_streams_too(ds: xr.Dataset) -> None:
    options: dict[str, Any] = {"sweeps": 3, "start": "random", "opening": None, "update_probe": False}
    held = dp.reconstruct(ds, **options)
    memory = tight(ds, Recipe(update_probe=False))
    with dask.config.set(num_workers=HERE.threads):
        streamed = dp.reconstruct(ds, memory=memory, **options)
    np.testing.assert_allclose(streamed["object"], held["object"], rtol=0, atol=1e-5)


def size_of(values: list[Any]) -> int:
    total = 0
    for value in compute(*values):
        if isinstance(value, GramianBlock):
            total += value.pair.nbytes + value.offset.nbytes
        else:
            total += value.counts.nbytes if isinstance(value, Amplitudes) else value.nbytes
    return total


@pytest.mark.parametrize("update_probe", [False, True])
@pytest.mark.parametrize("algorithm", [AP(), RAAR()], ids=["ap", "raar"])
def test_what_is_held_was_told(ds: xr.Dataset, algorithm: Any, update_probe: bool) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    recipe = Recipe(1, "two-level", algorithm.has_stack, not algorithm.has_stack, update_probe)
    told = estimate_needs(ds, tiling, HERE, recipe)
    plan = persisted(make_plan(ds, tiling, "two-level"))
    state = persisted(uniform_start(plan, place(ds["probe"].values), None))
    for _ in range(2):
        before = state
        state, _ = persisted(
            sweep(
                plan,
                before,
                algorithm,
                counts=1.0,
                sync=Sync(every=1),
                normalisation="degree",
                momentum=0.5 if recipe.momentum else 0.0,
                update_probe=update_probe,
            )
        )
    kept = [*plan.amplitudes, *plan.pairs, *state.images, *state.illuminations, *(state.stacks or [])]
    kept += before.images
    if recipe.momentum:
        kept += before.previous_images or []
    if update_probe:
        kept += before.illuminations
    # Pairs are counted in the largest tile alone.
    assert 0.99 * told.held <= size_of(kept) <= 1.01 * told.held


def test_task_count_is_that_of_the_graph(ds: xr.Dataset) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    known = Recipe(update_probe=False)
    assert count_sweep_tasks(ds, tiling, known, waves_twice=True) == count_sweep_tasks(ds, tiling, known)
    # A second pass over the tiles.
    once = count_sweep_tasks(ds, tiling, Recipe())
    assert count_sweep_tasks(ds, tiling, Recipe(), waves_twice=True) == once + len(tiling.tiles)


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
    recipe = Recipe(1, method, has_stack, not has_stack, True)
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
    said = refused("reconstruct", scan, tmp_path / "out.zarr", "--memory", "100MB")
    assert "the run needs" in said
    assert "95.37 MiB" in said
    assert not (tmp_path / "out.zarr").exists()
    assert said.split(":", 1)[1] in refused(
        "plan", scan, "--memory", "100MB", "--threads", dask.system.CPU_COUNT
    )
    assert "memory is 'much'" in refused("plan", scan, "--memory", "much")


def test_plan_is_printed(ds: xr.Dataset) -> None:
    told = facts(run("plan", ds.encoding["source"], "--workers", 2, "--memory", "4GiB").stdout)
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
