"""The Gramian H: its formula on a brute-force canvas, its symmetries, its blocks, the phases it undoes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from daskptycho.model import operators
from daskptycho.sync.eigensolvers import lobpcg
from daskptycho.sync.gramian import (
    Border,
    GramianBlock,
    assemble_gramian,
    block_matrix,
    block_values,
    block_within,
    gramian_blocks,
)
from daskptycho.sync.phases import extract_phases, normalise
from daskptycho.tiling import Tiling, make_tiling
from tests import plain

SCANS = {
    "raster": {},
    "fractional": {"fractional": True},
    "modes": {"modes": 3},
    "periodic": {"periodic": True, "frames": (6, 5)},
    "periodic-fractional": {"periodic": True, "frames": (6, 5), "fractional": True},
    "apart": {"step": 14},
}

every_scan = pytest.mark.parametrize("options", SCANS.values(), ids=SCANS.keys())


def waves_of(ds: xr.Dataset) -> np.ndarray:
    """Exit waves of the true object on the canvas, (frame, mode, y, x)."""
    tiling = plain.tiling_of(ds)
    fraction = np.concatenate([tile.fraction for tile in tiling.tiles])
    truth = ds["truth_object"].values
    return plain.split(truth, plain.shifted(ds["probe"].values, fraction), tiling.corner).astype(np.complex64)


def matrix_of(ds: xr.Dataset, waves: np.ndarray, chunks: tuple[int, ...] | None = None) -> sp.csr_array:
    """H through `gramian`, its tiles fed with the illumination of the whole canvas."""
    tiling = plain.tiling_of(ds, chunks)
    lit = plain.illumination_of(ds)
    matrices = []
    blocks = gramian_blocks(tiling)
    for block in blocks:
        row, column = tiling.tiles[block.row], tiling.tiles[block.column]
        first, second = (
            weighted_of(ds, waves, tiling, block.row),
            weighted_of(ds, waves, tiling, block.column),
        )
        assert len(second) == len(column)
        y = (np.arange(row.window.height) + row.window.y) % lit.shape[0]
        x = (np.arange(row.window.width) + row.window.x) % lit.shape[1]
        weight = operators.inverse_illumination(lit[np.ix_(y, x)].astype(np.float32), ds["probe"].values)
        values = block_values(block, first, Border(second, block.border), row.corner, weight)
        matrices.append(block_matrix(block, values))
    return assemble_gramian(blocks, matrices)


def weighted_of(ds: xr.Dataset, waves: np.ndarray, tiling: Tiling, index: int) -> np.ndarray:
    tile = tiling.tiles[index]
    probe = operators.shift_probe(ds["probe"].values, tile.fraction)
    return operators.weigh(waves[tile.frames], probe)[0]


def turned(waves: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The waves with a random phase on each frame, and those phases."""
    theta = np.random.default_rng(seed).uniform(-np.pi, np.pi, len(waves))
    return (waves * np.exp(1j * theta)[:, None, None, None]).astype(np.complex64), theta


# Values


@every_scan
def test_values_are_those_of_the_formula(options: dict) -> None:
    ds = plain.scan(**options)
    waves = plain.complex_noise(np.random.default_rng(1), (ds.sizes["frame"], *ds["probe"].shape))
    tiling = plain.tiling_of(ds)
    weighted = plain.weigh(waves, plain.shifted(ds["probe"].values, tiling.tiles[0].fraction))
    expected = plain.gramian(
        weighted, tiling.corner - (tiling.window.y, tiling.window.x), plain.illumination_of(ds)
    )
    np.testing.assert_allclose(matrix_of(ds, waves).toarray(), expected, atol=1e-4 * abs(expected).max())


@every_scan
def test_hermitian_with_a_real_diagonal(options: dict) -> None:
    ds = plain.scan(**options)
    h = matrix_of(ds, turned(waves_of(ds))[0])
    assert abs(h - h.conj().T).max() == 0
    assert (h.diagonal().imag == 0).all()
    assert (h.diagonal().real > 0).all()


@every_scan
@pytest.mark.parametrize("tiles", [(4,), (1,), (7, 3)])
def test_blocks_of_tiles_are_parts_of_one_block(options: dict, tiles: tuple[int, ...]) -> None:
    ds = plain.scan(**options)
    waves, _ = turned(waves_of(ds))
    count = ds.sizes["frame"]
    chunks = (tiles * count)[: int(np.searchsorted(np.cumsum(tiles * count), count)) + 1]
    chunks = (*chunks[:-1], count - sum(chunks[:-1]))
    whole = matrix_of(ds, waves)
    np.testing.assert_allclose(
        matrix_of(ds, waves, chunks).toarray(), whole.toarray(), atol=1e-5 * abs(whole).max()
    )


def test_each_pair_stands_in_one_block_and_only_the_border_travels() -> None:
    ds = plain.scan(frames=(6, 6), step=6)
    tiling = plain.tiling_of(ds, (4,) * 9)
    blocks = gramian_blocks(tiling)
    assert len({(block.row, block.column) for block in blocks}) == len(blocks)
    seen = set()
    for block in blocks:
        assert block.row <= block.column
        assert block.shape == (4, 4)
        assert block.pairs == len(block.pair) == len(block.offset) == block.outline().pairs
        assert block.outline().pair.size == block.outline().border.size == 0
        assert set(block.pair[:, 1]) == set(range(len(block.border)))
        first = tiling.tiles[block.row].frames.start + block.pair[:, 0]
        second = tiling.tiles[block.column].frames.start + block.border[block.pair[:, 1]]
        for i, j, offset in zip(first, second, block.offset, strict=True):
            assert i <= j
            assert (i, j) not in seen
            seen.add((i, j))
            np.testing.assert_array_equal(tiling.corner[j] - tiling.corner[i], offset)
    assert min(len(block.border) for block in blocks) < 4
    # Far tiles share nothing and have no block.
    assert len(blocks) < 9 * 10 / 2


def test_dark_pixels_weigh_nothing() -> None:
    ds = plain.scan(frames=(1, 2))
    tiling = plain.tiling_of(ds)
    (block,) = gramian_blocks(tiling)
    weighted = weighted_of(ds, waves_of(ds), tiling, 0)
    lit = np.zeros(tiling.window.shape, dtype=np.float32)
    lit[tuple(tiling.tiles[0].corner[0])] = 4
    weight = operators.inverse_illumination(lit, ds["probe"].values)
    values = block_values(block, weighted, Border(weighted, block.border), tiling.tiles[0].corner, weight)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(abs(weighted[0, 0, 0]) ** 2 / 4, rel=1e-5)


# Phases


@every_scan
@pytest.mark.parametrize("normalisation", ["frame", "degree"])
def test_frames_of_one_object_have_eigenvalue_one_and_their_phases_as_eigenvector(
    options: dict, normalisation: str
) -> None:
    """v_i = c_i exp(-i theta_i), c the consensus vector: |z_i| for K, sqrt(d_i) for L."""
    ds = plain.scan(**options)
    waves, theta = turned(waves_of(ds))
    power = (abs(waves) ** 2).sum(axis=(1, 2, 3)).astype(float)
    k = normalise(matrix_of(ds, waves), power, normalisation)
    # All frames are of one object up to the rounding of float32.
    assert np.linalg.eigvalsh(k.matrix.toarray())[-1] == pytest.approx(1, abs=1e-5)
    consensus = np.sqrt(power) if normalisation == "frame" else k.consensus
    np.testing.assert_allclose(k.consensus, consensus)
    expected = consensus * np.exp(-1j * theta)
    np.testing.assert_allclose(k.matrix @ expected, expected, atol=1e-5 * consensus.max())


@pytest.mark.parametrize("normalisation", ["frame", "degree"])
@pytest.mark.parametrize("name", ["raster", "fractional", "modes", "periodic"])
def test_phases_of_the_eigenvector_bring_the_object_back(name: str, normalisation: str) -> None:
    """omega itself is applied, not its conjugate."""
    ds = plain.scan(**SCANS[name])
    waves, theta = turned(waves_of(ds))
    power = (abs(waves) ** 2).sum(axis=(1, 2, 3)).astype(float)
    k = normalise(matrix_of(ds, waves), power, normalisation)
    found = extract_phases(lobpcg(k.matrix, k.consensus.astype(complex), 200), power)
    assert found.disagreement == pytest.approx(0, abs=1e-5)
    remaining = found.phase * np.exp(1j * theta)
    np.testing.assert_allclose(remaining, remaining[0], atol=1e-3)

    tiling = plain.tiling_of(ds)
    lit = plain.illumination_of(ds)
    shone = lit > 0
    truth = ds["truth_object"].values[shone]

    def image_of(total: np.ndarray) -> np.ndarray:
        return total / np.where(shone, lit, 1)

    weighted = weighted_of(ds, waves, tiling, 0)
    before = image_of(plain.overlap(weighted, tiling.corner, lit.shape))[shone]
    assert plain.relative_up_to_a_factor(before, truth) > 0.3
    weighted *= found.phase[:, None, None]
    image = image_of(plain.overlap(weighted, tiling.corner, lit.shape))[shone]
    assert plain.relative_up_to_a_factor(image, truth) < 1e-3


# Near neighbours


def parts_of(block: GramianBlock) -> int:
    frames = block.shape[0]
    links = sp.coo_array((np.ones(len(block.pair)), tuple(block.pair.T)), shape=(frames, frames))
    return int(sp.csgraph.connected_components(links, directed=False)[0])


@given(
    corner=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=60),
    frame=st.integers(4, 24),
)
def test_near_neighbours_hold_together_what_all_pairs_hold(corner: list[tuple[int, int]], frame: int) -> None:
    tiling = make_tiling(np.array(corner, dtype=float), (frame, frame), (len(corner),))
    block = block_within(tiling.tiles[0], (frame, frame), None)
    if block.near is None:
        return
    near, every = ({tuple(pair) for pair in found.pair.tolist()} for found in (block.near, block))
    assert near < every
    assert {(number, number) for number in range(len(corner))} <= near
    assert parts_of(block.near) == parts_of(block)
    # The nearest of all.
    distance = np.abs(block.offset).max(axis=1)
    left_out = np.array([tuple(pair) not in near for pair in block.pair.tolist()])
    assert distance[~left_out].max() < distance[left_out].min()


def test_few_near_neighbours_of_a_raster_are_kept() -> None:
    corner = np.array([(y, x) for y in range(20) for x in range(20)]) * 8.0
    block = block_within(make_tiling(corner, (32, 32), (400,)).tiles[0], (32, 32), None)
    assert block.near is not None
    assert np.abs(block.near.offset).max() == 8
    assert block.near.pairs == len(block.near.pair) < block.pairs / 4
    sparse = block_within(make_tiling(2 * corner, (32, 32), (400,)).tiles[0], (32, 32), None)
    assert sparse.near is None
