"""What a run keeps on the workers: amplitudes, tiles and pairs; frames are read once, and by tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from daskptycho.errors import FaultError
from daskptycho.graph import sweep
from daskptycho.sync.gramian import GramianBlock
from daskptycho.sync.options import Sync
from daskptycho.tasks.frames import total_counts
from daskptycho.tasks.layout import PairsToFind, Residency, confirm_layout, find_pairs, lay_out
from daskptycho.tasks.spec import task
from daskptycho.tasks.waiting import compute, persist
from tests import plain
from tests.sweeping import begin, choose, choose_settings, lay_out_scan

RASTER: dict[str, Any] = {"frames": (6, 6)}
HARD: dict[str, Any] = {"frames": (6, 6), "fractional": True, "modes": 2, "invalid": True}
FOUR = (9,) * 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("chunks", [(36,), (10, 20, 6)])
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_layout_holds_amplitudes_tiles_and_blocks(lazy: bool, chunks: tuple[int, ...]) -> None:
    ds = plain.scan(**HARD)
    # It is added to the modelled intensity, not subtracted.
    ds["background"] = (("qy", "qx"), np.full((12, 10), 0.5))
    tiling = plain.tiling_of(ds, chunks)
    layout = lay_out(ds.chunk({"frame": chunks}) if lazy else ds, tiling, choose(ds).model, "full")
    found = np.concatenate([amplitude[:] for amplitude in compute(layout.amplitudes)])
    np.testing.assert_allclose(found, plain.amplitudes_of(ds), rtol=1e-5, atol=1e-6)
    tiles = compute(layout.tiles)
    assert [data.tile.frames for data in tiles] == [tile.frames for tile in tiling.tiles]
    for data, tile in zip(tiles, tiling.tiles, strict=True):
        assert data.strips == tiling.strips_into(tile.index)
        np.testing.assert_array_equal(data.amplitudes[:], found[tile.frames])
        # One H of all tiles has blocks of its own.
        assert data.pairs is None
    assert [(b.row, b.column, b.shape, b.pairs) for b in layout.outline] == [
        (b.row, b.column, b.shape, len(b.pair)) for b in compute(layout.blocks)
    ]
    # What every sweep's graph carries along has no pairs in it.
    assert all(block.pair.size == block.offset.size == block.border.size == 0 for block in layout.outline)


def test_a_layout_without_sync_looks_for_no_pairs() -> None:
    layout = lay_out_scan(plain.scan(**RASTER), (36,), None)
    assert layout.outline == layout.blocks == []
    assert [data.pairs for data in compute(layout.tiles)] == [None]


def test_tiles_know_their_own_pairs_or_how_to_find_them() -> None:
    ds = plain.scan(**RASTER)
    held = lay_out_scan(ds, FOUR, "two-level")
    streamed = lay_out_scan(ds, FOUR, "two-level", residency=Residency.STREAMED)
    assert held.outline == streamed.outline == held.blocks == streamed.blocks == []
    for one, other in zip(compute(held.tiles), compute(streamed.tiles), strict=True):
        assert isinstance(one.pairs, GramianBlock)
        assert isinstance(other.pairs, PairsToFind)
        kept, found = find_pairs(one.pairs, one.tile), find_pairs(other.pairs, other.tile)
        assert (kept.row, kept.column, kept.pairs) == (found.row, found.column, found.pairs)
        assert kept.pairs > len(one.tile)
        for name in ("pair", "offset", "border"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(found, name))


def test_frames_are_read_once_and_by_the_tasks() -> None:
    """Nothing is read when the layout is made; then each tile once."""
    ds = plain.scan(**RASTER)
    reads = []

    def read(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        reads.append(block_info[0]["chunk-location"][0])
        return block

    lazy = da.from_array(ds["intensity"].values, chunks=(9, -1, -1))
    ds["intensity"] = (("frame", "qy", "qx"), lazy.map_blocks(read, meta=np.empty((0, 0, 0))))
    layout = lay_out(ds, plain.tiling_of(ds, FOUR), choose(ds).model, "full")
    assert reads == []
    layout = persist(layout)
    state, settings = persist(begin(layout, ds)), choose_settings(layout)
    for _ in range(2):
        state, _ = persist(sweep(layout, state, settings))
    assert sorted(reads) == [0, 1, 2, 3]


@pytest.mark.parametrize("residency", [Residency.HELD, Residency.STREAMED])
def test_frames_that_are_read_again_have_to_have_the_counts_of_the_first_time(residency: Residency) -> None:
    ds = plain.scan(**RASTER)
    layout = lay_out_scan(ds, FOUR, None, residency=residency)
    counts = compute([task(total_counts, amplitudes) for amplitudes in layout.amplitudes])
    assert sum(counts) == pytest.approx(float(ds["intensity"].sum()))
    settings = choose_settings(layout, sync=Sync(None))

    def find_misfit() -> float:
        return compute(sweep(confirm_layout(layout, counts), begin(layout, ds), settings)[1]).misfit

    assert find_misfit() > 0
    counts[2] *= 1.001
    said = "9 frames of the scan have .* counts where they had .*: parts of its store are gone"
    with pytest.raises(FaultError, match=said):
        find_misfit()
