"""H on the blocks of a graph: solvers that leave it there, and phases by which tiles turn their frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import pytest

from daskptycho.model.sweep import OverlapSum, TileSweep, Weighted
from daskptycho.sync.eigensolvers import Eigenpair
from daskptycho.sync.gramian import Border, assemble_gramian, block_matrix, block_values
from daskptycho.sync.options import Sync
from daskptycho.sync.phases import Phases, extract_phases, normalise, solve
from daskptycho.tasks import blockwise
from daskptycho.tasks.exact import find_all_phases, turn_frames
from daskptycho.tasks.layout import Layout
from daskptycho.tasks.spec import Value, place
from daskptycho.tasks.state import State, TileState, illuminate_tiles, model_on_tiles
from daskptycho.tasks.waiting import compute, persist
from tests import plain
from tests.sweeping import FULL, choose_settings, lay_out_scan, on_tile, place_first_values, sweep_scan

RASTER: dict[str, Any] = {"frames": (6, 6)}
TILES = {1: (36,), 4: (9,) * 4, 9: (4,) * 9}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@dataclass
class Noise:
    """A sweep that left frames of noise."""

    layout: Layout
    after: State
    swept: list[Value]
    power: np.ndarray
    """(frame,) that the frames say of themselves."""

    def find(self, sync: Sync, normalisation: Any) -> Phases:
        """The phases, found in the graph."""
        settings = choose_settings(self.layout, sync=sync, normalisation=normalisation)
        return compute(find_all_phases(self.layout, self.swept, self.after, settings))


def frames_of_noise(ds: Any, chunks: tuple[int, ...], power: float | None = None) -> Noise:
    """Weighted frames of noise on the tiles of a scan; their powers are noise too unless given."""
    layout = lay_out_scan(ds, chunks)
    random = np.random.default_rng(0)
    shared, own = place_first_values(layout, ds)
    lit = illuminate_tiles(layout, model_on_tiles(layout, shared, own))
    swept, powers = [], []
    for tile in layout.tiling.tiles:
        frames = plain.complex_noise(random, (len(tile), *layout.tiling.frame_shape))
        powers.append(random.uniform(0.5, 2, len(tile)) if power is None else np.full(len(tile), power))
        swept.append(place(TileSweep(0.0, Weighted(frames, powers[-1]), {})))
    after = State(shared, [TileState(None, *of_tile) for of_tile in zip(lit, own, strict=True)])
    return Noise(layout, persist(after), swept, np.concatenate(powers))


def assemble_eagerly(ds: Any, noise: Noise) -> Any:
    """H over all frames, block by block without Dask."""
    tiles, blocks = noise.layout.tiling.tiles, compute(noise.layout.blocks)
    frames = [own.left.frames for own in compute(noise.swept)]
    lit = compute([tile.illumination for tile in noise.after.tiles])
    weights = [on_tile(ds, tile).inverse_illumination(own) for tile, own in zip(tiles, lit, strict=True)]
    values = [
        block_values(
            block,
            frames[block.row],
            Border(frames[block.column], block.border),
            tiles[block.row].corner,
            weights[block.row],
        )
        for block in blocks
    ]
    return assemble_gramian(
        blocks, [block_matrix(block, own) for block, own in zip(blocks, values, strict=True)]
    )


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("iterations", [1, 2, 7])
@pytest.mark.parametrize("tiles", [1, 9])
def test_blockwise_power_iteration_is_the_eager_one(normalisation: Any, iterations: int, tiles: int) -> None:
    ds = plain.scan(**RASTER)
    noise = frames_of_noise(ds, TILES[tiles])
    sync = Sync("full", eigensolver="power", iterations=iterations)
    normalised = normalise(assemble_eagerly(ds, noise), noise.power, normalisation)
    expected = extract_phases(solve(normalised, sync), noise.power)
    found = noise.find(sync, normalisation)
    np.testing.assert_allclose(found.phase, expected.phase, atol=1e-6)
    for name in ("disagreement", "spread", "localisation"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("tiles", [1, 9])
def test_blockwise_lobpcg_is_as_good_as_scipys(
    normalisation: Any, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "MOST_ASSEMBLED", 0)
    ds = plain.scan(**RASTER)
    noise = frames_of_noise(ds, TILES[tiles])
    assert sum(block.pairs for block in noise.layout.outline) > 0
    normalised, power = normalise(assemble_eagerly(ds, noise), noise.power, normalisation), noise.power
    for iterations in (2, 3, 6, 100):
        found = noise.find(Sync("full", eigensolver="lobpcg", iterations=iterations), normalisation)
        stepped = extract_phases(
            solve(normalised, Sync("full", eigensolver="power", iterations=iterations)), power
        )
        assert found.disagreement <= stepped.disagreement + 1e-12
        # SciPy's steps are counted from another one.
        expected = extract_phases(
            solve(normalised, Sync("full", eigensolver="lobpcg", iterations=iterations - 1)), power
        )
        assert found.disagreement <= expected.disagreement + 1e-9
    values, vectors = np.linalg.eigh(normalised.matrix.toarray())
    exact = extract_phases(Eigenpair(values[-1], vectors[:, -1], 0.0), power)
    assert found.disagreement == pytest.approx(exact.disagreement, abs=1e-6)
    # Where the eigenvector of the noise is as small as rounding, its phase is not determined, and neither is
    # the mean phase to which these frames contribute.
    modulus = np.abs(vectors[:, -1])
    turn = np.vdot(modulus**2 * found.phase, exact.phase)
    aligned = modulus * found.phase * turn / abs(turn)
    np.testing.assert_allclose(aligned, modulus * exact.phase, atol=1e-4)


def test_matrix_that_no_worker_should_hold_is_not_assembled(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = plain.scan(**RASTER)
    expected = sweep_scan(ds, TILES[9])
    monkeypatch.setattr(blockwise, "MOST_ASSEMBLED", 0)
    for name in ("_solve", "_assemble", "assemble_gramian"):
        monkeypatch.setattr(blockwise, name, None)
    found = sweep_scan(ds, TILES[9], sync=Sync("full", iterations=60, every=1))
    assert plain.relative(found.image, expected.image) < 1e-5


def test_blockwise_power_iteration_goes_on_however_small_the_eigenvalue() -> None:
    """A random start's is 0.1 to 0.5, and hundreds of steps are asked for."""
    ds = plain.scan(frames=(3, 3))
    # Weak frames for a bright illumination, rather than as many steps.
    found = frames_of_noise(ds, (9,), 1e12).find(Sync("full", eigensolver="power", iterations=40), "frame")
    assert np.isfinite(found.disagreement)
    assert np.isfinite(found.localisation)


def test_each_tile_turns_its_frames_by_their_own_phases() -> None:
    ds = plain.scan(**RASTER)
    noise = frames_of_noise(ds, TILES[4], 1.0)
    settings = choose_settings(noise.layout)
    found = persist(find_all_phases(noise.layout, noise.swept, noise.after, settings))
    turned, phases = turn_frames(noise.layout, noise.swept, noise.after, found, noise.swept, settings)
    left = [own.left for own in compute(turned)]
    assert all(isinstance(own, OverlapSum) for own in left)
    assert [len(own.phase) for own in left] == [9] * 4
    phase = np.concatenate([own.phase for own in left])
    np.testing.assert_array_equal(phase, compute(found).phase)
    np.testing.assert_array_equal(phase, compute(phases).phase)
    for tile, own, swept in zip(noise.layout.tiling.tiles, left, compute(noise.swept), strict=True):
        frames = swept.left.frames * own.phase[:, None, None]
        expected = plain.overlap(frames, tile.corner, tile.window.shape)
        np.testing.assert_allclose(own.image_sum, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("misfit", "kept"), [(0.0, True), (1e9, False)])
def test_phases_that_the_misfit_does_not_bear_out_are_left_alone(misfit: float, kept: bool) -> None:
    ds = plain.scan(**RASTER)
    noise = frames_of_noise(ds, TILES[4], 1.0)
    settings = choose_settings(noise.layout, sync=Sync("full", iterations=300))
    swept = [place(own._replace(misfit=misfit)) for own in compute(noise.swept)]
    found = persist(find_all_phases(noise.layout, swept, noise.after, settings))
    phases = compute(turn_frames(noise.layout, swept, noise.after, found, swept, settings)[1])
    assert abs(np.angle(compute(found).phase)).max() > 0.1
    assert (phases.phase == 1).all() == (not kept)
    assert phases.spread == compute(found).spread
    # With a fixed cadence they are applied in any case.
    fixed = compute(
        turn_frames(noise.layout, swept, noise.after, found, swept, choose_settings(noise.layout, sync=FULL))[
            1
        ]
    )
    np.testing.assert_array_equal(fixed.phase, compute(found).phase)
