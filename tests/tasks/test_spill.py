"""Runs whose images lie on disk: the same image, and nothing left behind, whatever happens to them."""

from __future__ import annotations

import gc
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from dask.sizeof import sizeof
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import daskptycho as dp
from daskptycho.cluster.workers import Workers
from daskptycho.model.amplitudes import prepare_amplitudes
from daskptycho.run.memory import estimate_needs
from daskptycho.run.options import Recipe
from daskptycho.scan.dataset import tile_chunks
from daskptycho.tasks.frames import PART_BYTES, release_as_read
from daskptycho.tasks.spill import PREFIX, StoredImage
from tests import plain
from tests.full_disk import full_disk
from tests.run.test_memory import HERE, four_tiles, recipe_of, tight
from tests.run.test_resumption import Stop, assert_equal, stop_at
from tests.test_cli import expect_refusal, read_facts, run
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = 5
IMAGE = np.arange(35, dtype=np.complex64).reshape(7, 5)


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    return four_tiles(tmp_path_factory.mktemp("scans"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this process puts images; one thread, for which the runs below are planned."""
    folder = tmp_path_factory.mktemp("images")
    with dask.config.set({"temporary-directory": str(folder), "num_workers": HERE.threads}):
        yield folder


def files(folder: Path) -> list[Path]:
    """All that lies there, once nobody holds on to it."""
    gc.collect()
    return list(folder.rglob("*"))


def bytes_in(folder: Path) -> int:
    return sum(found.stat().st_size for found in folder.rglob("*") if found.is_file())


def little(ds: xr.Dataset, workers: Workers = HERE, **recipe: Any) -> int:
    """Memory in which such a run fits with its images on disk, and not otherwise."""
    return tight(ds, Recipe(**recipe), workers, images_on_disk=True)


# One image


@given(st.tuples(*[st.integers(0, 7)] * 2), st.tuples(*[st.integers(0, 5)] * 2))
def test_any_part_of_a_stored_image_is_that_of_the_array(rows: Any, columns: Any) -> None:
    stored = StoredImage(IMAGE)
    part = (slice(*sorted(rows)), slice(*sorted(columns)))
    np.testing.assert_array_equal(stored[part], IMAGE[part])
    np.testing.assert_array_equal(stored[...], IMAGE)
    assert (stored.shape, stored.dtype, stored.nbytes) == (IMAGE.shape, IMAGE.dtype, IMAGE.nbytes)


def test_stored_image_weighs_nothing_and_travels_as_a_plain_array(folder: Path) -> None:
    stored = StoredImage(IMAGE)
    assert sizeof(stored) < 100
    assert [found.stat().st_size for found in files(folder) if found.is_file()] == [IMAGE.nbytes]
    sent = pickle.dumps(stored)
    del stored
    assert files(folder) == []
    np.testing.assert_array_equal(pickle.loads(sent), IMAGE)


@pytest.mark.parametrize("block", [3, 70])
def test_counts_go_as_they_are_passed(block: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (300, 64, 64)).astype(np.uint16)
    held = prepare_amplitudes(counts)
    passing = release_as_read(held)
    assert len(passing) == len(held)
    for start in range(0, len(counts), block):
        frames = slice(start, min(start + block, len(counts)))
        np.testing.assert_array_equal(passing[frames], held[frames])
        left = counts[start:].nbytes
        assert passing.counts.nbytes <= left + PART_BYTES


# Runs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"update_probe": False, "algorithm": "ap"},
        {"momentum": 0.5, "sync": dp.Sync(every=1)},
        {"momentum": 0, "sync": dp.Sync(every=1)},
        {"momentum": 0, "sync": dp.Sync(every=1), "update_probe": False},
        {"momentum": 0, "sync": dp.Sync(None)},
        {"sync": dp.Sync(every=2, inner=2)},
        {"start": "random", "opening": None},
    ],
    ids=str,
)
def test_image_is_that_of_a_run_that_holds_its_own(
    ds: xr.Dataset, folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dp.reconstruct(ds, sweeps=SWEEPS, **options)
    sync, update_probe = options.get("sync", dp.Sync()), options.get("update_probe", True)
    recipe = recipe_of(update_probe, method=sync.method, momentum=options.get("momentum") != 0)
    memory = tight(ds, recipe, images_on_disk=True)
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    needs = estimate_needs(ds, tiling, Workers(1, 1, memory), recipe)
    moved, lying, most = [0], [], []
    write, read = StoredImage.__init__, StoredImage.__getitem__

    def written(own: StoredImage, image: Any) -> None:
        moved[-1] += image.nbytes
        write(own, image)
        most.append(bytes_in(folder))

    def noted(own: StoredImage, part: Any) -> Any:
        rows = own.shape[0] if part is ... else part[0].stop - part[0].start
        moved[-1] += rows * own.shape[1] * own.dtype.itemsize
        return read(own, part)

    monkeypatch.setattr(StoredImage, "__init__", written)
    monkeypatch.setattr(StoredImage, "__getitem__", noted)

    def look(progress: dp.Progress) -> None:
        gc.collect()
        lying.append(bytes_in(folder))
        moved.append(0)

    found = dp.reconstruct(ds, sweeps=SWEEPS, memory=memory, callback=look, **options)
    xr.testing.assert_allclose(found.drop_vars("seconds"), expected.drop_vars("seconds"), rtol=1e-5)
    assert min(lying) > 0
    assert max(lying) <= needs.on_disk
    # With what the task at work is leaving.
    image = 8 * max(math.prod(tile.window.shape) for tile in tiling.tiles)
    assert 0.9 * needs.on_disk < max(most) <= needs.on_disk + image
    if sync.method is not None and sync.inner == 1:
        assert max(moved[2:-1]) == pytest.approx(needs.disk_traffic, rel=0.01)
    assert files(folder) == []


def test_preview_and_object_see_images_on_disk(ds: xr.Dataset, folder: Path) -> None:
    seen: list[Any] = []

    def look(progress: dp.Progress) -> None:
        seen.append((progress.object(), progress.preview(20).image))

    dp.reconstruct(ds, sweeps=2, callback=look)
    dp.reconstruct(ds, sweeps=2, callback=look, memory=little(ds))
    for held, stored in zip(seen[:2], seen[2:], strict=True):
        for image, same in zip(held, stored, strict=True):
            np.testing.assert_allclose(same, image, atol=1e-5)


def test_resumed_run_keeps_its_images_on_disk_too(ds: xr.Dataset, tmp_path: Path, folder: Path) -> None:
    options: dict[str, Any] = {"memory": little(ds)}
    expected = dp.reconstruct(ds, sweeps=SWEEPS, **options)
    lying: list[int] = []
    out = tmp_path / "r.zarr"
    with pytest.raises(Stop):
        dp.reconstruct(ds, out, sweeps=SWEEPS, callback=stop_at(3), **options)
    assert files(folder) == []
    found = dp.resume(out, callback=lambda _: lying.append(len(files(folder))), **options)
    assert_equal(found, expected)
    assert min(lying) > 0
    assert files(folder) == []
    # What lies in the checkpoint depends on no folder of this machine.
    assert_equal(dp.resume(out, sweeps=SWEEPS + 1), dp.reconstruct(ds, sweeps=SWEEPS + 1, **options))


def test_disk_that_is_full_is_told(ds: xr.Dataset, tmp_path: Path, folder: Path) -> None:
    said = r"an image of .* cannot be put on disk .*; expected room in .* temporary-directory"
    with full_disk(after=3) as callback, pytest.raises(dp.FaultError, match=said) as failed:
        dp.reconstruct(ds, tmp_path / "r.zarr", callback=callback, checkpoint_every=2, memory=little(ds))
    assert "Sweep 2 is kept" in failed.value.__notes__[0]
    del failed
    # Threads of the store may still hold on to what they could not write.
    wait_until(lambda: not files(folder))


def test_plan_tells_of_images_on_disk(ds: xr.Dataset) -> None:
    scan, memory = ds.encoding["source"], little(ds)
    told = read_facts(run("plan", scan, "--threads", 1, "--memory", memory).stdout)
    assert told["held"] == "nothing from sweep to sweep"
    assert told["on disk"] == "726.36 kiB of images and illumination; 1.80 MiB written and read"
    assert "in the process that started the run" in told["result"]
    said = expect_refusal("plan", scan, "--threads", 1, "--memory", memory - 100_000)
    assert "amplitudes streamed, 726.36 kiB of images on disk" in said


def test_lone_process_needs_room_for_the_result(ds: xr.Dataset) -> None:
    tiling = plain.tiling_of(ds, tile_chunks(ds))
    height, width = tiling.window.shape
    there = estimate_needs(ds, tiling, Workers(1, 1, little(ds)), Recipe())
    assert there.result == 12 * height * width
    large = replace(there, result=10**9)
    assert large.worker - there.worker > 9 * 10**8
    assert large.largest == "0.93 GiB in the result"
    # Elsewhere it is brought together in the client.
    several = replace(there, workers=Workers(2, 1, None))
    assert replace(several, result=10**9).worker == several.worker


# Processes


@pytest.mark.long
def test_worker_that_is_killed_takes_its_images_with_it(ds: xr.Dataset, tmp_path: Path) -> None:
    expected = dp.reconstruct(ds, sweeps=SWEEPS)
    lying: list[int] = []
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path / "workers"),
        ) as cluster,
        Client(cluster) as client,
    ):
        memory = little(ds, Workers(2, 1, None))

        def kill(progress: dp.Progress) -> None:
            lying.append(len(list((tmp_path / "workers").rglob("daskptycho-images-*/*"))))
            if len(lying) == 3:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        found = dp.reconstruct(ds, sweeps=SWEEPS, memory=memory, callback=kill)
    xr.testing.assert_allclose(found.drop_vars("seconds"), expected.drop_vars("seconds"), rtol=1e-5)
    assert min(lying) > 0
    assert list(tmp_path.rglob("daskptycho-images-*")) == []


def test_interrupted_command_leaves_no_image(ds: xr.Dataset, tmp_path: Path, folder: Path) -> None:
    given = ("reconstruct", ds.encoding["source"], tmp_path / "r.zarr", "--sweeps", 100_000, "--memory")
    process = subprocess.Popen(
        [sys.executable, "-m", "daskptycho", *map(str, (*given, little(ds)))],
        cwd=ROOT,
        env=os.environ | {"DASK_TEMPORARY_DIRECTORY": str(folder), "DASK_NUM_WORKERS": str(HERE.threads)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: list(folder.rglob("daskptycho-images-*/*")), process)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert files(folder) == []


def test_what_a_killed_process_left_goes_with_the_next_image(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    dead = folder / f"{PREFIX}{int(ended.stdout)}-x"
    alive, elsewhere = (
        folder / f"{PREFIX}{os.getppid()}-x",
        folder / f"{PREFIX}elsewhere-{int(ended.stdout)}-x",
    )
    for own in (dead, alive, elsewhere):
        own.mkdir()
        (own / "0").write_bytes(b"image")
    image = StoredImage(IMAGE)
    assert not dead.exists()
    assert (alive / "0").exists()
    assert (elsewhere / "0").exists()
    np.testing.assert_array_equal(image[...], IMAGE)
    for own in (alive, elsewhere):
        shutil.rmtree(own)
