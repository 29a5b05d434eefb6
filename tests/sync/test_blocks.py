"""Phases of the frames of a large tile in blocks, against those of all its frames at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from daskptycho.sync import blocks
from daskptycho.sync.blocks import synchronise_frames
from daskptycho.sync.options import Normalisation, Sync, Synchronisation
from daskptycho.tiling import Tile, make_tiling

SIDE, FRAME, STEP = 16, 16, 4


def raster() -> NDArray[np.float64]:
    return float(STEP) * np.stack(np.divmod(np.arange(SIDE**2), SIDE), axis=1)


def tile_at(position: NDArray[np.float64]) -> Tile:
    return make_tiling(position, (FRAME, FRAME), (len(position),)).tiles[0]


def h_of(tile: Tile, phase: NDArray[np.complex128]) -> sp.csr_array:
    """H of frames that differ in their phases alone; of each pair the share of pixels that overlap."""
    offset = abs(tile.corner[:, None] - tile.corner[None]) / FRAME
    share = np.prod(np.maximum(1 - offset, 0), axis=2)
    return sp.csr_array(share * np.outer(phase, phase.conj()))


def disagreement(found: NDArray[np.complex64], expected: NDArray[np.complex128]) -> float:
    """Root mean square of the angle between phases, up to a constant, in radians."""
    ratio = found * expected.conj()
    return float(np.sqrt((np.angle(ratio * np.conj(ratio.mean())) ** 2).mean()))


def smooth_phases(position: NDArray[np.float64]) -> NDArray[np.complex128]:
    y, x = (position / (STEP * SIDE)).T
    return np.exp(1j * (0.8 * np.sin(3 * y) + 0.5 * np.cos(5 * x) + 0.4 * x * y))


@pytest.mark.parametrize("normalisation", ["degree", "frame"])
def test_phases_found_in_blocks_are_those_of_all_frames(
    normalisation: Normalisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_FRAMES", 40)
    # In an order in which neighbours are far apart.
    position = np.random.default_rng(2).permutation(raster())
    tile, phase = tile_at(position), smooth_phases(position)
    power = np.ones(len(tile), dtype=np.float32)
    found = synchronise_frames(tile, h_of(tile, phase), power, Synchronisation(Sync(), normalisation))
    assert disagreement(found.phase, phase) < 1e-3
    mean = np.angle(phase * np.conj(phase.mean()))
    assert found.spread == pytest.approx(np.sqrt((mean**2).mean()), rel=0.1)
    assert found.part is None
    if normalisation == "degree":
        assert found.disagreement < 1e-4
        assert found.gain > 0
        assert found.localisation == pytest.approx(1, rel=0.2)


def test_blocks_that_are_linked_through_others_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A horseshoe: its two ends lie side by side, in one block, and meet at its other end only."""
    monkeypatch.setattr(blocks, "BLOCK_FRAMES", 60)
    position = raster()
    y, x = (position / STEP).T
    # A slit wider than a frame, open at the top.
    position = position[~((abs(x - 7.5) < 3) & (y < 12))]
    tile, phase = tile_at(position), smooth_phases(position)
    power = np.ones(len(tile), dtype=np.float32)
    found = synchronise_frames(tile, h_of(tile, phase), power, Synchronisation(Sync(), "degree"))
    assert disagreement(found.phase, phase) < 1e-2


def test_few_frames_are_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = tile_at(raster())
    h, power = h_of(tile, smooth_phases(raster())), np.ones(len(tile), dtype=np.float32)
    how = Synchronisation(Sync(), "degree")
    expected = synchronise_frames(tile, h, power, how)
    monkeypatch.setattr(blocks, "BLOCK_FRAMES", len(tile))
    np.testing.assert_array_equal(synchronise_frames(tile, h, power, how).phase, expected.phase)
