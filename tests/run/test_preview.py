"""Thinned images are block means of the canvas, whatever the tiles, the period and the part asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from daskptycho.run.preview import make_preview
from daskptycho.tasks.spec import Value, place
from daskptycho.tasks.waiting import compute
from daskptycho.tiling import Tiling, Window, compact_order, make_tiling

FRAME = (8, 6)


def tiled(canvas: NDArray, tiling: Tiling) -> list[Value]:
    """What each tile has of a canvas."""
    parts = []
    for tile in tiling.tiles:
        rows = tile.window.y - tiling.window.y + np.arange(tile.window.height)
        columns = tile.window.x - tiling.window.x + np.arange(tile.window.width)
        if tiling.period is not None:
            rows, columns = rows % tiling.period[0], columns % tiling.period[1]
        parts.append(place(canvas[np.ix_(rows, columns)]))
    return parts


def block_means(values: NDArray, covered: NDArray, step: int) -> NDArray:
    """The plainest way: one block after the other."""
    height, width = (-(-size // step) for size in values.shape)
    means = np.zeros((height, width), values.dtype)
    for y in range(height):
        for x in range(width):
            block = np.s_[y * step : (y + 1) * step, x * step : (x + 1) * step]
            if covered[block].any():
                means[y, x] = values[block][covered[block]].mean()
    return means


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    tile_frames=st.integers(1, 12),
    most=st.integers(2, 60),
    period=st.sampled_from([None, (20, 24)]),
)
def test_preview_is_the_mean_of_blocks(
    seed: int, tile_frames: int, most: int, period: tuple[int, int] | None
) -> None:
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, 20, (12, 2))
    order = compact_order(position, tile_frames)
    chunks = tuple(min(tile_frames, 12 - first) for first in range(0, 12, tile_frames))
    tiling = make_tiling(position[order], FRAME, chunks, period=period, whole_pixel=True)
    shape = tiling.window.shape
    # Constant over each block, so that pixels that two tiles share may be counted as often as they like.
    step = -(-max(shape) // most)
    coarse = rng.normal(size=[-(-size // step) for size in shape]) * (1 + 2j)
    canvas = np.kron(coarse, np.ones((step, step)))[: shape[0], : shape[1]].astype(np.complex64)
    covered = np.zeros(shape, dtype=bool)
    for part, tile in zip(tiled(np.arange(canvas.size).reshape(shape), tiling), tiling.tiles, strict=True):
        assert len(tile)
        covered.ravel()[compute(part).ravel()] = True
    found = make_preview(tiling, tiled(canvas, tiling), tiled(np.abs(canvas), tiling), most)
    assert max(found.image.shape) <= most
    assert found.step == step
    np.testing.assert_allclose(found.image, block_means(canvas, covered, step), atol=1e-5)
    np.testing.assert_allclose(found.illumination, np.abs(found.image), atol=1e-5)


@pytest.mark.parametrize("period", [None, (20, 24)])
def test_part_of_the_canvas_is_shown_pixel_by_pixel(period: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(5)
    tiling = make_tiling(rng.uniform(0, 20, (40, 2)), FRAME, (10,) * 4, period=period, whole_pixel=True)
    canvas = (rng.normal(size=(2, *tiling.window.shape)) + 1).astype(np.float32)
    window = Window(tiling.window.y + 5, tiling.window.x + 7, 9, 4)
    found = make_preview(tiling, tiled(canvas[0], tiling), tiled(canvas[1], tiling), 9, window)
    assert (found.step, found.window) == (1, window)
    np.testing.assert_allclose(found.image.real, canvas[0, 5:14, 7:11], rtol=1e-6)
    np.testing.assert_allclose(found.illumination, canvas[1, 5:14, 7:11], rtol=1e-6)
