"""Each algorithm, driven by hand on one tile, against its textbook formula on the stack of exit waves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

import daskptycho as dp
from daskptycho import backend
from daskptycho.errors import OptionError
from daskptycho.model.algorithms import (
    AP,
    RAAR,
    Algorithm,
    DifferenceMap,
    describe_algorithm,
    parse_algorithm,
    recall_algorithm,
)
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


def textbook(
    algorithm: Algorithm, x: np.ndarray, before: np.ndarray, on: Projections
) -> tuple[np.ndarray, np.ndarray]:
    """The next stack of exit waves and the next image, letter by letter."""

    def image_of(z: np.ndarray) -> np.ndarray:
        return on.image(z, before)

    if isinstance(algorithm, AP):
        return on.split(image_of(on.data(x))), image_of(on.data(x))
    if isinstance(algorithm, RAAR):
        beta = algorithm.beta

        def reflect_data(z: np.ndarray) -> np.ndarray:
            return 2 * on.data(z) - z

        def reflect_overlap(z: np.ndarray) -> np.ndarray:
            return 2 * on.split(image_of(z)) - z

        following = beta / 2 * (reflect_overlap(reflect_data(x)) + x) + (1 - beta) * on.data(x)
        return following, image_of(reflect_data(x))
    # P_Q x: the image before is that of x.
    agreed = on.split(before)
    following = x + on.data(2 * agreed - x) - agreed
    return following, image_of(following)


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
        image = merge(swept.left.image_sum, lit, at, image)
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
    x, expected = on.split(ones(ds)), ones(ds)
    for image, _, stack in by_hand(ds, algorithm, ones(ds), 5):
        x, expected = textbook(algorithm, x, expected, on)
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
    x, image = on.split(ones(ds)), ones(ds)
    for _, misfit, _ in by_hand(ds, AP(), ones(ds), 3):
        assert misfit == pytest.approx(plain.misfit(x, on.amplitude), rel=1e-4)
        x, image = textbook(AP(), x, image, on)


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


# Algorithms of the user's own


@dataclass(frozen=True)
class Relaxed:
    """A step of alternating projections part of the way."""

    share: float = 0.5

    name: ClassVar[str] = "relaxed"
    has_stack: ClassVar[bool] = False

    def before(self, waves: Any, stack: Any) -> Any:
        return waves

    def after(self, waves: Any, z: Any, projected: Any, stack: Any) -> tuple[Any, Any]:
        share = np.float32(self.share)
        return (1 - share) * waves + share * projected, None


class Averaged:
    """Averaged alternating reflections, which RAAR is with a beta of one; not a dataclass."""

    name = "averaged"
    has_stack = True

    def before(self, waves: Any, stack: Any) -> Any:
        return waves if stack is None else stack + waves

    def after(self, waves: Any, z: Any, projected: Any, stack: Any) -> tuple[Any, Any]:
        return 2 * projected - z, z - projected


@every_scan
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_own_algorithm_without_a_stack_follows_its_formula(share: float, options: dict) -> None:
    ds = plain.scan(frames=(3, 3), **options)
    on = plain.projections_of(ds, plain.tiling_of(ds).tiles[0])
    shone = plain.illumination_of(ds) > 0
    x, expected = on.split(ones(ds)), ones(ds)
    for image, misfit, stack in by_hand(ds, Relaxed(share), ones(ds), 4):
        assert misfit == pytest.approx(plain.misfit(x, on.amplitude), rel=1e-4)
        expected = on.image((1 - share) * x + share * on.data(x), expected)
        x = on.split(expected)
        assert plain.relative(image[shone], expected[shone]) < 1e-4
        assert stack is None


RUNS: dict[str, dict[str, Any]] = {
    "default": {},
    "known": {"update_probe": False, "sync": dp.Sync(every=1)},
    "full": {"sync": dp.Sync("full", every=2)},
    "inner": {"sync": dp.Sync(every=2, inner=2)},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize(
    ("own", "like"), [(Relaxed(1.0), AP()), (Averaged(), RAAR(beta=1.0))], ids=["no stack", "stack"]
)
def test_own_algorithm_runs_as_the_packages_own(own: Any, like: Algorithm, options: dict[str, Any]) -> None:
    """Two of the package's algorithms written anew: the same runs."""
    ds = plain.scan(frames=(6, 6), modes=2, fractional=True, tile=12)
    found, expected = (dp.reconstruct(ds, sweeps=6, algorithm=one, **options) for one in (own, like))
    assert plain.relative(found["object"].values, expected["object"].values) < 1e-4
    np.testing.assert_allclose(found["residual"], expected["residual"], rtol=1e-3)
    assert json.loads(found.attrs["options"])["algorithm"] == own.name


def test_own_algorithm_can_open_a_random_start() -> None:
    ds = plain.scan(frames=(6, 6), periodic=True, tile=9)
    options: dict[str, Any] = {"sweeps": 5, "start": "random", "update_probe": False}
    found, expected = (
        dp.reconstruct(ds, opening=opening, **options) for opening in (Averaged(), RAAR(beta=1.0))
    )
    assert plain.relative(found["object"].values, expected["object"].values) < 1e-4


@pytest.mark.parametrize("algorithm", [Relaxed(0.7), Averaged()], ids=["no stack", "stack"])
def test_run_with_an_own_algorithm_is_resumed(algorithm: Any, tmp_path: Path) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", frames=(4, 4), frame_size=16, step=4, jitter=1, tile_frames=8)
    expected = dp.reconstruct(ds, sweeps=6, algorithm=algorithm)
    dp.reconstruct(ds, tmp_path / "r.zarr", sweeps=4, algorithm=algorithm)
    found = dp.resume(tmp_path / "r.zarr", sweeps=6)
    xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


def test_run_whose_algorithm_is_gone_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = dp.simulate_scan(tmp_path / "s.zarr", frames=(4, 4), frame_size=16, step=4)
    dp.reconstruct(ds, tmp_path / "r.zarr", sweeps=2, algorithm=Relaxed())
    monkeypatch.delattr(sys.modules[Relaxed.__module__], "Relaxed")
    said = (
        r"the run's algorithm relaxed is .*test_algorithms:Relaxed, which cannot be created again \(Attribute"
    )
    with pytest.raises(OptionError, match=said):
        dp.resume(tmp_path / "r.zarr", sweeps=3)
    # Its result stays.
    assert dp.open_result(tmp_path / "r.zarr").sizes["sweep"] == 2


# What is no algorithm


def changed(**own: Any) -> Any:
    """An algorithm in which some of what it has to offer is something else."""
    return type("Changed", (Averaged,), own)()


def fail(self: Any, *waves: Any) -> Any:
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (
            changed(name=None),
            r"expected ap, lbfgs, raar, dm, or an object with a name, has_stack, before and after",
        ),
        (changed(name=3), "or an object with a name"),
        (changed(has_stack=1), "or an object with a name, has_stack"),
        (changed(before=None), "algorithm averaged fails on two frames of four pixels: TypeError"),
        (changed(after=fail), r"algorithm averaged fails on two frames of four pixels: ZeroDivisionError"),
        (
            changed(before=lambda self, waves, stack: waves[:, 0]),
            r"algorithm averaged: before returns ndarray of shape \(2, 2, 2\) and type complex64; "
            r"expected waves of shape \(2, 1, 2, 2\) and type complex64",
        ),
        (
            changed(before=lambda self, waves, stack: waves.astype(complex)),
            "before returns ndarray of shape .* and type complex128; expected",
        ),
        (changed(before=lambda self, waves, stack: None), "before returns NoneType of shape None"),
        (changed(after=lambda self, waves, z, p, stack: (p.real, p)), "after returns .* type float32"),
        (changed(after=lambda self, waves, z, p, stack: (p[1:], p)), r"after returns .* \(1, 1, 2, 2\)"),
        (changed(after=lambda self, waves, z, p, stack: (p, None)), "after, as the next stack, returns None"),
        (changed(after=lambda self, waves, z, p, stack: (p, p[0])), "after, as the next stack, returns nd"),
        (changed(after=lambda self, waves, z, p, stack: 1), "fails on two frames .*: TypeError"),
        (changed(before=lambda self, waves: waves), "fails on two frames .*: TypeError"),
        (Relaxed(np.float32(0.5)), "relaxed has parameters that cannot be written with a result .*float32"),
    ],
)
def test_objects_that_do_not_do_what_an_algorithm_does_are_refused(algorithm: Any, said: str) -> None:
    for option in ("algorithm", "opening"):
        with pytest.raises(OptionError, match=said):
            dp.reconstruct(plain.scan(), **{option: algorithm})


# Descriptions


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, Relaxed(0.25)], ids=repr)
def test_description_makes_the_same_algorithm_again(algorithm: Algorithm) -> None:
    described = describe_algorithm(algorithm)
    assert json.loads(json.dumps(described)) == described
    assert described["name"] == algorithm.name
    found = recall_algorithm(described)
    assert type(found) is type(algorithm)
    assert found == algorithm


def test_only_algorithms_of_the_user_have_their_class_described() -> None:
    assert describe_algorithm(RAAR(0.5)) == {"name": "raar", "beta": 0.5}
    assert describe_algorithm(Relaxed(0.5)) == {
        "name": "relaxed",
        "class": f"{Relaxed.__module__}:Relaxed",
        "share": 0.5,
    }
    assert type(recall_algorithm(describe_algorithm(Averaged()))) is Averaged


class Namesake(Averaged):
    """An own algorithm under a name of the package's."""

    name = "raar"


def test_own_algorithm_is_not_taken_for_one_of_the_same_name() -> None:
    assert type(recall_algorithm(describe_algorithm(Namesake()))) is Namesake


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("no_such_module:Relaxed", "ModuleNotFoundError"),
        ("json:Relaxed", "AttributeError"),
        (f"{__name__}:changed.<locals>.Changed", "AttributeError"),
        (f"{__name__}:Averaged", "TypeError"),
    ],
)
def test_class_that_cannot_be_imported_is_told(place: str, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        recall_algorithm({"name": "relaxed", "class": place, "share": 0.5})
    assert str(refused.value).startswith(
        f"the run's algorithm relaxed is {place}, which cannot be created again ({said}"
    )
    assert str(refused.value).endswith("; expected it in a module that can be imported")


# Names


@pytest.mark.parametrize("name", ["ap", "raar", "dm"])
def test_algorithms_by_name(name: str) -> None:
    algorithm = parse_algorithm(name)
    assert algorithm.name == name
    assert parse_algorithm(algorithm) is algorithm


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: parse_algorithm("epie"), "algorithm is 'epie'; expected one of ap, lbfgs, raar, dm"),
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


def test_an_algorithm_with_attributes_that_a_result_cannot_name_is_refused() -> None:
    class Stateful:
        name, has_stack = "stateful", False

        def __init__(self, b: float) -> None:
            self.b = b

        def before(self, waves: Any, stack: Any) -> Any:
            return waves

        def after(self, waves: Any, z: Any, projected: Any, stack: Any) -> Any:
            return projected, None

    with pytest.raises(OptionError, match=r"attributes of its own \(b\) and is not a dataclass"):
        parse_algorithm(Stateful(0.5))


@dataclass(frozen=True)
class Given:
    """Alternating projections by an `after` that returns one of its arguments."""

    copies: bool = False
    name: ClassVar[str] = "given"
    has_stack: ClassVar[bool] = False

    def before(self, waves: Any, stack: Any) -> Any:
        assert stack is None
        return waves

    def after(self, waves: Any, z: Any, projected: Any, stack: Any) -> Any:
        return (z.copy() if self.copies else z), None


@pytest.mark.parametrize("start", ["ones", "random"])
def test_an_algorithm_may_return_an_argument_and_sees_no_other_stack(start: Any) -> None:
    scan = plain.scan(frames=(4, 4), tile=(8, 8))
    options: dict[str, Any] = {"sweeps": 4, "start": start, "momentum": 0}
    found = dp.reconstruct(scan, algorithm=Given(), **options)
    expected = dp.reconstruct(scan, algorithm=Given(copies=True), **options)
    np.testing.assert_array_equal(found["object"], expected["object"])


def test_a_parameter_may_not_have_the_name_of_an_option() -> None:
    @dataclass(frozen=True)
    class Clashing(Given):
        sweeps: int = 3

    with pytest.raises(OptionError, match="has a parameter called sweeps, as an option of the run is"):
        dp.reconstruct(plain.scan(frames=(3, 3)), algorithm=Clashing(), sweeps=2)


def test_checkpoints_of_a_class_that_cannot_be_imported_open(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Local(Given):
        b: float = 0.5

    scan = plain.scan(frames=(3, 3))
    result = dp.reconstruct(scan, tmp_path / "r.zarr", algorithm=Local(), sweeps=2, checkpoint_every=1)
    opened = dp.open_checkpoint(tmp_path / "r.zarr", 2)
    np.testing.assert_array_equal(opened["object"], result["object"])
    assert opened.attrs["options"] == result.attrs["options"]
