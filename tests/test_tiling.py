"""Geometry tested by its properties: compact tiles, every pair once, strips that complete each tile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daskptycho.tiling import Window, compact_order, make_tiling, overlapping_pairs, split_position


@st.composite
def scans(draw: st.DrawFn) -> dict:
    """A scan of small frames, whole or fractional positions, periodic or not, in tiles of any size."""
    frame_shape = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    count = draw(st.integers(1, 30))
    period = None
    extent = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    if draw(st.booleans()):
        period = tuple(2 * n + draw(st.integers(0, 12)) for n in frame_shape)
        extent = period
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    position = random.uniform(0, extent, (count, 2))
    if draw(st.booleans()):
        position = np.floor(position)
    tile_frames = draw(st.integers(1, 12))
    position = position[compact_order(position, tile_frames)]
    chunks = tuple(min(tile_frames, count - start) for start in range(0, count, tile_frames))
    return {"position": position, "frame_shape": frame_shape, "chunks": chunks, "period": period}


# Order


@settings(deadline=None)
@given(
    count=st.integers(0, 60), tile_frames=st.integers(1, 70), seed=st.integers(0, 99), coarse=st.booleans()
)
def test_compact_order_is_an_idempotent_permutation(
    count: int, tile_frames: int, seed: int, coarse: bool
) -> None:
    position = np.random.default_rng(seed).uniform(0, 4, (count, 2))
    # Coarse positions coincide, and ties must not break the order.
    position = np.floor(position) if coarse else position
    order = compact_order(position, tile_frames)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(compact_order(position[order], tile_frames), np.arange(count))
    for start in range(0, count, tile_frames):
        assert (np.diff(order[start : start + tile_frames]) > 0).all()


@pytest.mark.parametrize("tile_frames", [1, 4, 16, 64])
def test_tiles_of_a_raster_are_compact(tile_frames: int) -> None:
    position = np.stack(np.mgrid[:16, :16], axis=-1).reshape(-1, 2)
    order = compact_order(position, tile_frames)
    for tile in position[order].reshape(-1, tile_frames, 2):
        assert np.prod(np.ptp(tile, axis=0) + 1) == tile_frames
        assert np.ptp(np.ptp(tile, axis=0)) == 0


def test_empty_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="tile_frames is 0"):
        compact_order(np.zeros((3, 2)), 0)


# Positions


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=9))
def test_position_is_whole_pixel_and_fraction(positions: list) -> None:
    position = np.array(positions)
    corner, fraction = split_position(position)
    np.testing.assert_allclose(corner + fraction, position, atol=1.001e-3)
    assert (abs(fraction) <= 0.5).all()
    assert not ((fraction != 0) & (abs(fraction) < 1e-3)).any()


# Windows


windows = st.builds(Window, *([st.integers(-9, 9)] * 2), *([st.integers(1, 9)] * 2))


def pixels(window: Window) -> set:
    return {(window.y + i, window.x + j) for i in range(window.height) for j in range(window.width)}


@settings(deadline=None)
@given(windows, windows)
def test_intersection_holds_the_shared_pixels(a: Window, b: Window) -> None:
    shared = a.intersection(b)
    assert (pixels(shared) if shared else set()) == pixels(a) & pixels(b)
    if shared is not None:
        image = np.zeros(a.shape)
        image[a.slices_of(shared)] = 1
        marked = {(a.y + int(i), a.x + int(j)) for i, j in np.argwhere(image)}
        assert marked == pixels(shared)


# Tiles and strips


@settings(deadline=None)
@given(scans())
def test_tiles_hold_all_frames_inside_their_windows(scan: dict) -> None:
    tiling = make_tiling(**scan)
    assert [len(tile) for tile in tiling.tiles] == list(scan["chunks"])
    for tile in tiling.tiles:
        np.testing.assert_array_equal(
            tile.corner + np.array([tile.window.y, tile.window.x]), tiling.corner[tile.frames]
        )
        assert (tile.corner >= 0).all()
        assert (tile.corner + scan["frame_shape"] <= tile.window.shape).all()
        np.testing.assert_allclose(
            tiling.corner[tile.frames] + tile.fraction, scan["position"][tile.frames], atol=1e-3
        )
    flat = make_tiling(**scan, whole_pixel=True)
    assert all(tile.is_whole_pixel for tile in flat.tiles)


def on_canvas(window: Window, canvas: Window, period: tuple | None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a window's pixels in an image of the canvas."""
    rows = np.arange(window.y, window.y + window.height) - canvas.y
    columns = np.arange(window.x, window.x + window.width) - canvas.x
    if period is not None:
        rows, columns = rows % period[0], columns % period[1]
    return np.ix_(rows, columns)


@settings(deadline=None)
@given(scans())
def test_strips_complete_each_tile_image(scan: dict) -> None:
    tiling = make_tiling(**scan)
    height, width = scan["frame_shape"]
    values = np.random.default_rng(0).integers(1, 9, (len(tiling.corner), height, width))

    whole = np.zeros(tiling.window.shape, dtype=int)
    for (y, x), frame in zip(tiling.corner, values, strict=True):
        np.add.at(whole, on_canvas(Window(y, x, height, width), tiling.window, scan["period"]), frame)

    images = []
    for tile in tiling.tiles:
        image = np.zeros(tile.window.shape, dtype=int)
        for (y, x), frame in zip(tile.corner, values[tile.frames], strict=True):
            image[y : y + height, x : x + width] += frame
        images.append(image)
    for tile, own in zip(tiling.tiles, images, strict=True):
        merged = own.copy()
        for strip in tiling.strips_into(tile.index):
            merged[strip.to_target] += images[strip.source][strip.from_source]
        np.testing.assert_array_equal(merged, whole[on_canvas(tile.window, tiling.window, scan["period"])])


# Pairs


@settings(deadline=None)
@given(scans())
def test_pairs_equal_those_of_brute_force(scan: dict) -> None:
    corner, _ = split_position(scan["position"])
    size, period = np.array(scan["frame_shape"]), scan["period"]
    expected = {}
    for i in range(len(corner)):
        for j in range(i, len(corner)):
            offset = corner[j] - corner[i]
            if period is not None:
                half = np.array(period) // 2
                offset = (offset + half) % period - half
            if (abs(offset) < size).all():
                expected[i, j] = tuple(offset.tolist())
    pairs = overlapping_pairs(corner, scan["frame_shape"], period)
    found = zip(pairs.first.tolist(), pairs.second.tolist(), map(tuple, pairs.offset.tolist()), strict=True)
    assert len(pairs) == len(expected)
    assert {(i, j): offset for i, j, offset in found} == expected
    assert (np.diff(pairs.first) >= 0).all()


def test_period_below_twice_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"period is \(8, 7\) pixels; expected at least twice the frame"):
        overlapping_pairs(np.zeros((2, 2)), (4, 4), (8, 7))
