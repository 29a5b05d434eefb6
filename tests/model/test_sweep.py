"""One sweep over one tile: what it leaves of the frames, and the merge that makes an image of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskptycho.model import operators
from daskptycho.model.algorithms import Algorithm
from daskptycho.model.forward import FarField
from daskptycho.model.light import illuminate_tile
from daskptycho.model.model import Model, TileModel
from daskptycho.model.probe import Probe
from daskptycho.model.sweep import (
    OverlapSum,
    Stack,
    Waves,
    Weighted,
    merge,
    overlap_waves,
    sweep_tile,
    weigh_waves,
)
from tests import plain
from tests.plain import complex_noise
from tests.sweeping import ALGORITHMS, PROBE, on_tile

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)


def ones(shape: tuple[int, int]) -> np.ndarray:
    return np.ones(shape, dtype=np.complex64)


# What a sweep leaves


@every_algorithm
@pytest.mark.parametrize("leave", ["overlap sum", "weighted frames", "waves", "sums only"])
@pytest.mark.parametrize("due", [frozenset(), PROBE], ids=["known", "recovered"])
def test_frames_reach_the_overlap_on_each_way(algorithm: Algorithm, leave: Any, due: frozenset[str]) -> None:
    """Overlap sums at once, weighted frames for a synchronisation, waves for a new probe: one result."""
    ds = plain.scan(modes=2, fractional=True)
    tile = plain.tiling_of(ds).tiles[0]
    shape, amplitude = tile.window.shape, plain.amplitudes_of(ds)
    at = on_tile(ds, tile)
    expected = sweep_tile(algorithm, at, tile, amplitude, ones(shape))
    assert isinstance(expected.left, OverlapSum)
    swept = sweep_tile(algorithm, on_tile(ds, tile, due=due), tile, amplitude, ones(shape), leave=leave)
    assert swept.misfit == expected.misfit
    assert set(swept.sums) == set(due)
    kinds = {"overlap sum": OverlapSum, "weighted frames": Weighted, "waves": Waves, "sums only": type(None)}
    assert type(swept.left) is kinds[leave]
    left = [swept.left]
    if isinstance(swept.left, Waves):
        left = [weigh_waves(tile, swept.left.waves, at), overlap_waves(tile, swept.left.waves, at)]
        power = (abs(swept.left.waves) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(left[0].power, power, rtol=1e-5)
    for own in left:
        if isinstance(own, Weighted):
            collected = operators.overlap(own.frames, tile.corner, shape)
            np.testing.assert_allclose(collected, expected.left.image_sum, atol=1e-3)
        elif isinstance(own, OverlapSum):
            np.testing.assert_allclose(own.image_sum, expected.left.image_sum, atol=1e-3)
            assert own.phase is None


@every_algorithm
def test_frames_can_be_weighed_with_another_model_than_they_were_swept_with(algorithm: Algorithm) -> None:
    ds = plain.scan(modes=2, fractional=True)
    tile = plain.tiling_of(ds).tiles[0]
    following = on_tile(ds, tile, probe=complex_noise(np.random.default_rng(0), ds["probe"].shape))
    given = (algorithm, on_tile(ds, tile), tile, plain.amplitudes_of(ds), ones(tile.window.shape))
    waves = sweep_tile(*given, leave="waves").left.waves
    expected = overlap_waves(tile, waves, following).image_sum
    found = sweep_tile(*given, following=following)
    np.testing.assert_allclose(found.left.image_sum, expected, atol=1e-3)
    assert plain.relative(sweep_tile(*given).left.image_sum, expected) > 0.1


def test_a_sweep_changes_nothing_that_it_was_given() -> None:
    ds = plain.scan(modes=2, fractional=True, invalid=True)
    tile = plain.tiling_of(ds).tiles[0]
    at = on_tile(ds, tile, due=PROBE)
    given = [
        plain.amplitudes_of(ds),
        ones(tile.window.shape),
        at.probe,
        complex_noise(np.random.default_rng(0), (len(tile), *ds["probe"].shape)),
    ]
    kept = [array.copy() for array in given]
    for algorithm in ALGORITHMS:
        stack = Stack(given[3]) if algorithm.has_stack else None
        sweep_tile(algorithm, at, tile, *given[:2], stack=stack)
    for array, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("options", [{}, {"fractional": True, "modes": 2}], ids=str)
def test_illumination_of_a_tile_is_that_of_its_frames(options: dict) -> None:
    ds = plain.scan(**options)
    for tile in plain.tiling_of(ds, (4, 7, 5)).tiles:
        own_probe = plain.shifted(ds["probe"].values, tile.fraction)
        expected = plain.illuminate(own_probe, tile.corner, tile.window.shape)
        np.testing.assert_allclose(illuminate_tile(tile, on_tile(ds, tile)), expected, rtol=1e-4, atol=1e-4)


# Merge


def with_probe(probe: np.ndarray, recovered: bool = False) -> TileModel:
    return TileModel(Model((Probe(recovered=recovered),), FarField()), {"probe": probe}, {})


@pytest.mark.parametrize(("recovered", "share"), [(False, 1e-3), (True, 1e-2)])
def test_merge_divides_by_the_illumination_and_leaves_the_dark_as_it_was(
    recovered: bool, share: float
) -> None:
    probe = np.array([[[1, 0.5j], [2j, 0.1]]], dtype=np.complex64)
    damping = 4 * share
    lit = np.array([[4.0, 1.0, damping, 0.0]], dtype=np.float32)
    total = np.array([[8.0, 1j, 5 * damping, 0.0]], dtype=np.complex64)
    before = np.array([[1.0, 1.0, 3.0, 7j]], dtype=np.complex64)
    image = merge(total.copy(), lit, with_probe(probe, recovered), before)
    assert image.dtype == np.complex64
    expected = [[(8 + damping) / (4 + damping), (1j + damping) / (1 + damping), 4, 7j]]
    np.testing.assert_allclose(image, expected, rtol=1e-6)
    # Without an image before there is no damping, and the dark is zero.
    dark = lit * np.float32([1, 1, 1e-3, 1])
    np.testing.assert_allclose(merge(total, dark, with_probe(probe)), [[2, 1j, 0, 0]], rtol=1e-6)


@given(st.integers(0, 2**32))
def test_merge_undoes_the_illumination(seed: int) -> None:
    random = np.random.default_rng(seed)
    probe = complex_noise(random, (2, 4, 4))
    lit = random.uniform(0, 5, (5, 6)).astype(np.float32)
    image = complex_noise(random, (5, 6))
    np.testing.assert_allclose(merge(image * lit, lit, with_probe(probe), image), image, rtol=1e-5)
