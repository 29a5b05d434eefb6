"""Each algorithm, driven by hand on one tile, against its textbook formula on the stack of exit waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from daskptycho import backend
from daskptycho.errors import OptionError
from daskptycho.model import operators
from daskptycho.model.algorithms import (
    AP,
    RAAR,
    Algorithm,
    DifferenceMap,
    extrapolate,
    merge,
    next_momentum,
    overlap_waves,
    parse_algorithm,
    sweep_tile,
    updated_probe,
    weigh_tile,
)
from tests import plain
from tests.plain import Projections, complex_noise

SCANS: dict[str, dict[str, Any]] = {
    "raster": {},
    "fractional": {"fractional": True},
    "modes": {"modes": 3, "fractional": True},
    "invalid": {"modes": 2, "invalid": True},
}
every_scan = pytest.mark.parametrize("options", SCANS.values(), ids=SCANS.keys())

ALGORITHMS: list[Algorithm] = [AP(), RAAR(), RAAR(beta=0.5), RAAR(beta=1.0), DifferenceMap()]
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)


def textbook(algorithm: Algorithm, x: np.ndarray, on: Projections) -> tuple[np.ndarray, np.ndarray]:
    """The next stack of exit waves and the next image, letter by letter."""
    if isinstance(algorithm, AP):
        return on.overlap(on.data(x)), on.image(on.data(x))
    if isinstance(algorithm, RAAR):
        beta = algorithm.beta

        def reflect_data(z: np.ndarray) -> np.ndarray:
            return 2 * on.data(z) - z

        def reflect_overlap(z: np.ndarray) -> np.ndarray:
            return 2 * on.overlap(z) - z

        following = beta / 2 * (reflect_overlap(reflect_data(x)) + x) + (1 - beta) * on.data(x)
        return following, on.image(reflect_data(x))
    following = x + on.data(2 * on.overlap(x) - x) - on.overlap(x)
    return following, on.image(following)


def by_hand(
    ds: xr.Dataset, algorithm: Algorithm, image: np.ndarray, sweeps: int, **options: Any
) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
    """Image, misfit and stack after each sweep over one tile."""
    tile = plain.tiling_of(ds).tiles[0]
    amplitude, probe = plain.amplitudes_of(ds), ds["probe"].values
    lit = plain.illumination_of(ds).astype(np.float32)
    stack = None
    after = []
    for _ in range(sweeps):
        swept = sweep_tile(algorithm, tile, amplitude, image, probe, stack=stack, **options)
        image, stack = merge(swept.image_sum, lit, probe), swept.stack
        after.append((image, swept.misfit, stack))
    return after


def ones(ds: xr.Dataset) -> np.ndarray:
    return np.ones(plain.tiling_of(ds).window.shape, dtype=np.complex64)


# The formulas


@every_scan
@every_algorithm
def test_sweeps_follow_the_textbook(algorithm: Algorithm, options: dict) -> None:
    ds = plain.scan(frames=(3, 3), **options)
    on = plain.projections_of(ds, plain.tiling_of(ds).tiles[0])
    shone = plain.illumination_of(ds) > 0
    x = on.split(ones(ds))
    for image, _, stack in by_hand(ds, algorithm, ones(ds), 5):
        x, expected = textbook(algorithm, x, on)
        assert plain.relative(image[shone], expected[shone]) < 1e-4
        if isinstance(algorithm, RAAR):
            # The stack is the part of the next iterate that does not wait for the overlap.
            stack = stack + algorithm.beta * on.split(image)
        if stack is not None:
            assert plain.relative(stack, x) < 1e-4


@every_scan
def test_misfit_is_that_of_the_waves_that_are_projected(options: dict) -> None:
    ds = plain.scan(frames=(3, 3), **options)
    on = plain.projections_of(ds, plain.tiling_of(ds).tiles[0])
    x = on.split(ones(ds))
    for _, misfit, _ in by_hand(ds, AP(), ones(ds), 3):
        assert misfit == pytest.approx(plain.misfit(x, on.amplitude), rel=1e-4)
        x, _ = textbook(AP(), x, on)


@every_scan
@every_algorithm
def test_the_true_object_is_a_fixed_point(algorithm: Algorithm, options: dict) -> None:
    ds = plain.scan(**options)
    truth = ds["truth_object"].values
    shone = plain.illumination_of(ds) > 0
    counts = float((np.clip(plain.amplitudes_of(ds), 0, None) ** 2).sum())
    for image, misfit, _ in by_hand(ds, algorithm, truth, 4):
        assert misfit / counts < 1e-9
        assert plain.relative(image[shone], truth[shone]) < 1e-4


@every_scan
def test_alternating_projections_never_lose_ground(options: dict) -> None:
    misfits = [
        misfit for _, misfit, _ in by_hand(plain.scan(**options), AP(), ones(plain.scan(**options)), 12)
    ]
    assert (np.diff(misfits) <= 1e-4 * misfits[0]).all()
    assert misfits[-1] < 0.5 * misfits[0]


@every_algorithm
def test_small_blocks_of_frames_change_nothing(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = plain.scan(modes=2, fractional=True)
    whole = by_hand(ds, algorithm, ones(ds), 2)
    monkeypatch.setattr(backend, "CPU_PIXELS", 1000)
    for (image, misfit, _), (expected, expected_misfit, _) in zip(
        by_hand(ds, algorithm, ones(ds), 2), whole, strict=True
    ):
        np.testing.assert_allclose(image, expected, atol=1e-4)
        assert misfit == pytest.approx(expected_misfit, rel=1e-5)


@pytest.mark.parametrize("algorithm", [RAAR(), DifferenceMap()], ids=repr)
def test_phases_turn_a_stack_that_has_not_seen_them(algorithm: Algorithm) -> None:
    ds = plain.scan(frames=(3, 3), modes=2)
    tile = plain.tiling_of(ds).tiles[0]
    random = np.random.default_rng(3)
    stack = complex_noise(random, (len(tile), *ds["probe"].shape))
    phase = np.exp(1j * random.uniform(-3, 3, len(tile))).astype(np.complex64)
    turned = (stack * phase[:, None, None, None]).astype(np.complex64)
    given = (algorithm, tile, plain.amplitudes_of(ds), ones(ds), ds["probe"].values)
    kept = stack.copy()
    one = sweep_tile(*given, stack=stack, phase=phase)
    np.testing.assert_array_equal(stack, kept)
    other = sweep_tile(*given, stack=turned)
    np.testing.assert_allclose(one.stack, other.stack, atol=1e-4)
    np.testing.assert_allclose(one.image_sum, other.image_sum, atol=1e-3)


# What a sweep leaves


@every_algorithm
@pytest.mark.parametrize("keep_frames", [False, True])
@pytest.mark.parametrize("update_probe", [False, True])
def test_frames_reach_the_overlap_on_each_way(
    algorithm: Algorithm, keep_frames: bool, update_probe: bool
) -> None:
    """Overlap sums at once, weighted frames for a synchronisation, waves for a new probe: one result."""
    ds = plain.scan(modes=2, fractional=True)
    tile = plain.tiling_of(ds).tiles[0]
    probe, shape = ds["probe"].values, tile.window.shape
    given = (algorithm, tile, plain.amplitudes_of(ds), ones(ds), probe)
    expected = sweep_tile(*given)
    swept = sweep_tile(*given, keep_frames=keep_frames, update_probe=update_probe)
    assert swept.misfit == expected.misfit
    assert (swept.probe_sums is not None) == update_probe
    assert sum(part is not None for part in (swept.waves, swept.weighted, swept.image_sum)) == 1
    weighted, image_sum = swept.weighted, swept.image_sum
    if swept.waves is not None:
        image_sum = overlap_waves(tile, swept.waves, probe)
        weighted = weigh_tile(tile, swept.waves, probe)
        power = (abs(swept.waves) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(weighted.power, power, rtol=1e-5)
    if weighted is not None:
        collected = operators.overlap(weighted.frames, tile.corner, shape)
        np.testing.assert_allclose(collected, expected.image_sum, atol=1e-3)
    if image_sum is not None:
        np.testing.assert_allclose(image_sum, expected.image_sum, atol=1e-3)


def test_a_sweep_changes_nothing_that_it_was_given() -> None:
    ds = plain.scan(modes=2, fractional=True, invalid=True)
    tile = plain.tiling_of(ds).tiles[0]
    given = [
        plain.amplitudes_of(ds),
        ones(ds),
        ds["probe"].values,
        complex_noise(np.random.default_rng(0), (len(tile), *ds["probe"].shape)),
    ]
    kept = [array.copy() for array in given]
    for algorithm in ALGORITHMS:
        stack = given[3] if algorithm.has_stack else None
        sweep_tile(algorithm, tile, *given[:3], stack=stack, update_probe=True)
    for array, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(array, before)


# Merge


def test_merge_divides_by_the_illumination_and_leaves_the_dark_at_zero() -> None:
    probe = np.array([[[1, 0.5j], [1.5j, 0.1]]], dtype=np.complex64)
    lit = np.array([[4.0, 1.0, 1e-9, 0.0]], dtype=np.float32)
    total = np.array([[8.0, 1j, 1e-9, 0.0]], dtype=np.complex64)
    image = merge(total, lit, probe)
    assert image.dtype == np.complex64
    np.testing.assert_allclose(image, [[2, 1j, 0, 0]], rtol=1e-6)


@given(st.integers(0, 2**32))
def test_merge_undoes_the_illumination(seed: int) -> None:
    random = np.random.default_rng(seed)
    probe = complex_noise(random, (2, 4, 4))
    lit = random.uniform(1e-2, 5, (5, 6)).astype(np.float32)
    image = complex_noise(random, (5, 6))
    np.testing.assert_allclose(merge(image * lit, lit, probe), image, rtol=1e-5)


# Probe


def probe_formula(ds: xr.Dataset, image: np.ndarray, waves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P = sum conj(psi_i) z_i / sum |psi_i|^2 for whole-pixel positions, and the denominator."""
    patches = plain.windows(image, plain.tiling_of(ds).corner, ds["probe"].shape[1:])
    denominator = (abs(patches) ** 2).sum(axis=0)
    return (patches.conj()[:, None] * waves).sum(axis=0) / denominator, denominator


@every_algorithm
@pytest.mark.parametrize("modes", [1, 2])
def test_probe_update_is_the_formula_over_projected_waves(algorithm: Algorithm, modes: int) -> None:
    ds = plain.scan(modes=modes)
    tile = plain.tiling_of(ds).tiles[0]
    probe = (ds["probe"].values * 1.2).astype(np.complex64)
    image = (ds["truth_object"].values * 0.9).astype(np.complex64)
    swept = sweep_tile(algorithm, tile, plain.amplitudes_of(ds), image, probe, update_probe=True)
    found = updated_probe(probe, [swept.probe_sums])
    assert found.dtype == np.complex64
    waves = plain.project(
        plain.split(image, np.array([probe] * len(tile)), tile.corner), plain.amplitudes_of(ds)
    )
    expected, _ = probe_formula(ds, image, waves)
    # Well lit here, so next to nothing of the old probe is kept.
    assert plain.relative(found, expected) < 5e-3


def test_probe_sums_of_tiles_add_up() -> None:
    ds = plain.scan(modes=2, fractional=True)
    amplitude, truth, probe = plain.amplitudes_of(ds), ones(ds), ds["probe"].values
    sums = []
    for chunks in ((16,), (4, 7, 5)):
        sums.append([])
        for tile in plain.tiling_of(ds, chunks).tiles:
            window = truth[: tile.window.height, : tile.window.width]
            swept = sweep_tile(AP(), tile, amplitude[tile.frames], window, probe, update_probe=True)
            sums[-1].append(swept.probe_sums)
    assert plain.relative(updated_probe(probe, sums[1]), updated_probe(probe, sums[0])) < 1e-5


@pytest.mark.parametrize("modes", [1, 3])
def test_the_true_probe_is_a_fixed_point(modes: int) -> None:
    ds = plain.scan(modes=modes)
    tile = plain.tiling_of(ds).tiles[0]
    probe = ds["probe"].values
    truth = ds["truth_object"].values
    swept = sweep_tile(AP(), tile, plain.amplitudes_of(ds), truth, probe, update_probe=True)
    assert plain.relative(updated_probe(probe, [swept.probe_sums]), probe) < 1e-4


def test_the_true_probe_is_a_fixed_point_at_fractional_positions() -> None:
    ds = plain.scan(fractional=True)
    tile = plain.tiling_of(ds).tiles[0]
    probe, truth = ds["probe"].values, ds["truth_object"].values
    swept = sweep_tile(AP(), tile, plain.amplitudes_of(ds), truth, probe, update_probe=True)
    assert plain.relative(updated_probe(probe, [swept.probe_sums]), probe) < 1e-4


def test_probe_stays_where_the_object_let_nothing_through() -> None:
    probe = complex_noise(np.random.default_rng(0), (2, 4, 5))
    denominator = np.ones((4, 5), dtype=np.float32)
    denominator[1, 2] = 0
    found = updated_probe(probe, [(np.where(denominator > 0, 2 * probe, 0), denominator)])
    np.testing.assert_allclose(found[:, 1, 2], probe[:, 1, 2], rtol=1e-5)
    assert plain.relative(found[:, 0], 3 * probe[:, 0]) < 1e-2


# Momentum


def test_extrapolation() -> None:
    random = np.random.default_rng(0)
    now, before = complex_noise(random, (3, 4)), complex_noise(random, (3, 4))
    np.testing.assert_allclose(extrapolate(now, before, 0.7), now + 0.7 * (now - before), rtol=1e-5)
    assert extrapolate(now, before, 0.7).dtype == np.complex64
    assert extrapolate(now, None, 0.7) is now
    assert extrapolate(now, before, 0.0) is now


FALLING = (0.3, 0.2, 0.1)


def test_momentum_follows_nesterov() -> None:
    t, momentum = next_momentum(None, FALLING[:1])
    found = [momentum]
    for _ in range(50):
        expected = (1 + np.sqrt(1 + 4 * t * t)) / 2
        following, momentum = next_momentum(t, FALLING)
        assert following == pytest.approx(expected)
        assert momentum == pytest.approx((t - 1) / expected)
        t = following
        found.append(momentum)
    assert (np.diff(found) > 0).all()
    assert 0 <= found[0] < found[-1] < 1


def after_sweeps(count: int) -> float:
    t = None
    for _ in range(count):
        t, _ = next_momentum(t, FALLING)
    return t


def test_momentum_begins_anew_where_the_residual_rises() -> None:
    assert next_momentum(after_sweeps(20), (0.3, 0.1, 0.2)) == next_momentum(None, FALLING[:1])


@pytest.mark.parametrize("residuals", [(0.1, 0.1, 0.1), (0.1, 0.099999, 0.099998), (0.1, 0.099999, 0.1)])
def test_momentum_pauses_where_the_residual_is_at_rest(residuals: tuple[float, ...]) -> None:
    t, momentum = next_momentum(after_sweeps(20), residuals)
    assert momentum == 0
    assert next_momentum(t, FALLING) == next_momentum(None, FALLING[:1])


@pytest.mark.parametrize("residuals", [(0.1, 0.1), (0.2, 0.1, 0.1), (0.1, 0.1, 0.099)])
def test_a_residual_that_stands_still_for_one_sweep_is_not_at_rest(residuals: tuple[float, ...]) -> None:
    assert next_momentum(after_sweeps(20), residuals)[1] > 0


# Names


@pytest.mark.parametrize("name", ["ap", "raar", "dm"])
def test_algorithms_by_name(name: str) -> None:
    algorithm = parse_algorithm(name)
    assert algorithm.name == name
    assert parse_algorithm(algorithm) is algorithm


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: parse_algorithm("epie"), "algorithm is 'epie'; expected one of ap, raar, dm"),
        (lambda: parse_algorithm("AP"), "algorithm is 'AP'"),
        (lambda: RAAR(beta=0), "beta is 0; expected above 0 and at most 1"),
        (lambda: RAAR(beta=1.2), "beta is 1.2"),
        (lambda: RAAR(beta=float("nan")), "beta is nan"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(OptionError) as refused:
        make()
    assert said in str(refused.value)


@pytest.mark.parametrize("algorithm", [42, None, AP])
def test_what_is_no_algorithm_is_refused(algorithm: Any) -> None:
    with pytest.raises(OptionError):
        parse_algorithm(algorithm)
