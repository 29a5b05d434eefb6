"""Each algorithm, driven by hand on one tile, against its textbook formula on the stack of exit waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from daskptycho import backend
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import AP, RAAR, Algorithm, DifferenceMap, parse_algorithm
from daskptycho.model.sweep import Stack, merge, sweep_tile
from tests import plain
from tests.plain import Projections, complex_noise
from tests.sweeping import ALGORITHMS, on_tile

SCANS: dict[str, dict[str, Any]] = {
    "raster": {},
    "fractional": {"fractional": True},
    "modes": {"modes": 3, "fractional": True},
    "invalid": {"modes": 2, "invalid": True},
}
every_scan = pytest.mark.parametrize("options", SCANS.values(), ids=SCANS.keys())

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
    ds: xr.Dataset, algorithm: Algorithm, image: np.ndarray, sweeps: int
) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
    """Image, misfit and stack after each sweep over one tile."""
    tile = plain.tiling_of(ds).tiles[0]
    at, amplitude = on_tile(ds, tile), plain.amplitudes_of(ds)
    lit = plain.illumination_of(ds).astype(np.float32)
    stack = None
    after = []
    for _ in range(sweeps):
        swept = sweep_tile(algorithm, at, tile, amplitude, image, stack=stack)
        image = merge(swept.left.image_sum, lit, at)
        stack = None if swept.carried is None else Stack(swept.carried)
        after.append((image, swept.misfit, swept.carried))
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
    given = (algorithm, on_tile(ds, tile), tile, plain.amplitudes_of(ds), ones(ds))
    kept = stack.copy()
    one = sweep_tile(*given, stack=Stack(stack, phase))
    np.testing.assert_array_equal(stack, kept)
    other = sweep_tile(*given, stack=Stack(turned))
    np.testing.assert_allclose(one.carried, other.carried, atol=1e-4)
    np.testing.assert_allclose(one.left.image_sum, other.left.image_sum, atol=1e-3)


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
