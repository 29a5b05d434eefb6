"""Parameters of the model: when they are updated, and one that the package does not know of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import daskptycho as dp
from daskptycho.cluster.workers import Workers
from daskptycho.graph import sweep
from daskptycho.model import model
from daskptycho.model.gain import Gain
from daskptycho.model.operators import split
from daskptycho.model.parameter import Parameter, Schedule, Sums, Variable, View
from daskptycho.model.probe import Probe
from daskptycho.run.history import open_checkpoint_store
from daskptycho.run.memory import estimate_needs
from daskptycho.run.options import Recipe
from daskptycho.scan.tiles import lay_out_tiles
from daskptycho.storage.store import parse_location
from daskptycho.sync.options import Sync
from daskptycho.tasks.layout import Residency
from daskptycho.tasks.waiting import compute, persist
from tests import plain
from tests.stopping import Stop, stop_at
from tests.sweeping import begin, choose_settings, images_on_canvas, lay_out_scan, on_tile


@given(
    start=st.integers(1, 20),
    stop=st.none() | st.integers(1, 60),
    every=st.integers(1, 9),
)
def test_schedule_is_due_from_its_start_before_its_stop_in_each_so_many_sweeps(
    start: int, stop: int | None, every: int
) -> None:
    schedule = Schedule(start, stop, every)
    due = [number for number in range(1, 100) if schedule.due(number)]
    assert due == list(range(start, 100 if stop is None else stop, every))


def test_schedule_is_due_in_every_sweep_unless_told_otherwise() -> None:
    assert all(Schedule().due(number) for number in range(1, 50))


# A parameter of the tests' own: the strength of the beam, recovered


@dataclass(frozen=True)
class Strength(Parameter):
    """Frame i sees the probe ``s_i P``: the s that fit best are ``s_i Re<m_i, p_i> / |m_i|^2``."""

    start: int = 1
    every: int = 1

    @property
    def schedule(self) -> Schedule | None:
        return Schedule(self.start, every=self.every)

    @classmethod
    def choose(cls, scan: Any, options: Mapping[str, Any]) -> tuple[Strength, NDArray] | None:
        if cls.name not in scan.attrs:
            return None
        count = scan.sizes["frame"] if cls.per_frame else 1
        return cls(**scan.attrs[cls.name]), np.ones(count, dtype=np.float32)

    def see(self, value: Any, view: View) -> View:
        own = np.broadcast_to(value, len(view.corner)).astype(np.float32)
        return view._replace(factor=own if view.factor is None else view.factor * own)

    def new_sums(self, value: Any, image: Any) -> Sums:
        return np.zeros(len(value)), np.zeros(len(value))

    def accumulate(self, sums: Sums, frames: slice, image: Any, change: Any, view: View) -> None:
        waves = split(image, view.probe, view.corner)
        along = (waves.conj() * change).real.sum(axis=(1, 2, 3), dtype=float)
        power = (abs(waves) ** 2).sum(axis=(1, 2, 3), dtype=float)
        if self.per_frame:
            sums[0][frames] += along
            sums[1][frames] += power
        else:
            sums[0][:] += along.sum()
            sums[1][:] += power.sum()

    def update(self, value: Any, sums: Sums) -> Any:
        return (value * (1 + sums[0] / sums[1])).astype(np.float32)

    def describe(self, shape: Sequence[int]) -> str:
        return f"{self.name} (recovered)"

    def nbytes(self, frames: int) -> int:
        return 4 * frames

    @classmethod
    def result(cls, value: NDArray) -> dict[str, Variable]:
        return {cls.name: (("frame",) if cls.per_frame else ("one",), value, {"units": "1"})}


class OfFrames(Strength):
    """One strength for each frame."""

    name: ClassVar[str] = "strength"
    per_frame: ClassVar[bool] = True


class OfScan(Strength):
    """One strength for all frames, which momentum carries along."""

    name: ClassVar[str] = "flux"
    has_momentum: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def _own_parameters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(model, "PARAMETERS", (Gain, OfFrames, OfScan, Probe))
    with dask.config.set(scheduler="synchronous"):
        yield


def recovering(ds: xr.Dataset, *kinds: type[Strength], **options: Any) -> xr.Dataset:
    """The scan, in which these parameters are to be recovered, and no others."""
    asked = ds.copy()
    asked.attrs = {kind.name: options for kind in kinds}
    return asked


def drift(frames: int) -> NDArray[np.float64]:
    return 1 + 0.25 * np.sin(np.arange(frames) / 3)


def drifted(ds: xr.Dataset) -> xr.Dataset:
    """The scan with each frame recorded with another strength of the beam."""
    return ds.assign(intensity=ds["intensity"] * (drift(ds.sizes["frame"]) ** 2)[:, None, None])


def fit(on: plain.Projections, image: NDArray, strength: NDArray) -> tuple[NDArray, NDArray]:
    """Re<m_i, p_i> and |m_i|^2 of each frame in double precision, with these strengths."""
    own = plain.Projections(strength[:, None, None, None] * on.probe, on.corner, on.amplitude, on.shape)
    waves = own.split(image)
    return (waves.conj() * own.data(waves)).real.sum(axis=(1, 2, 3)), (abs(waves) ** 2).sum(axis=(1, 2, 3))


# In the graph


@pytest.mark.parametrize("options", [{}, {"fractional": True, "modes": 2, "invalid": True}], ids=str)
@pytest.mark.parametrize("chunks", [(36,), (9,) * 4, (20, 16)], ids=len)
@pytest.mark.parametrize("residency", [Residency.HELD, Residency.WAVES_TWICE])
def test_own_parameters_go_through_sweeps(
    options: dict, chunks: tuple[int, ...], residency: Residency
) -> None:
    """Two sweeps over any tiles: the closed form, and the image with what it gave."""
    ds = recovering(drifted(plain.scan(frames=(6, 6), **options)), OfFrames)
    on = plain.projections_of(ds, plain.tiling_of(ds).tiles[0])
    layout = lay_out_scan(ds, chunks, None, residency=residency)
    assert [own.name for own in layout.model.per_frame] == ["strength"]
    settings = choose_settings(layout, sync=Sync(None), due=frozenset({"strength"}))
    # Where waves are zero at the detector, as those of a constant object, rounding chooses their phases.
    turn = np.exp(0.5j * plain.smooth(np.random.default_rng(4), on.shape))
    image, strength = ds["truth_object"].values * turn, np.ones(36)
    state = persist(begin(layout, ds, image))
    for _ in range(2):
        state, _ = persist(sweep(layout, state, settings))
        along, power = fit(on, image, strength)
        own = replace(on, probe=strength[:, None, None, None] * on.probe)
        waves = own.data(own.split(image))
        strength = strength * along / power
        after = replace(on, probe=strength[:, None, None, None] * on.probe)
        image = after.image(waves, image)
        found = compute([tile.own for tile in state.tiles])
        assert [len(values["strength"]) for values in found] == list(chunks)
        np.testing.assert_allclose(np.concatenate([v["strength"] for v in found]), strength, rtol=1e-4)
        lit = plain.illuminate(after.probe, on.corner, on.shape)
        bright = lit > 1e-2 * lit.max()
        assert plain.relative(images_on_canvas(layout, state)[bright], image[bright]) < 1e-4


@pytest.mark.parametrize("chunks", [(36,), (9,) * 4], ids=len)
def test_own_parameter_of_all_frames_is_summed_over_tiles_and_has_momentum(chunks: tuple[int, ...]) -> None:
    ds = recovering(drifted(plain.scan(frames=(6, 6))), OfScan)
    on = plain.projections_of(ds, plain.tiling_of(ds).tiles[0])
    layout = lay_out_scan(ds, chunks, None)
    state = persist(begin(layout, ds, ds["truth_object"].values))
    due = frozenset({"flux"})
    settings = choose_settings(layout, sync=Sync(None), due=due, keeps_image=True)
    first, _ = persist(sweep(layout, state, settings))
    along, power = fit(on, ds["truth_object"].values, np.ones(36))
    flux = along.sum() / power.sum()
    assert abs(flux - 1) > 1e-2
    assert compute(first.shared)["flux"] == pytest.approx(flux, rel=1e-5)
    ahead = choose_settings(layout, sync=Sync(None), due=due, momentum=0.5)
    second, report = persist(sweep(layout, first, ahead))
    now, before = compute([second.previous_shared, first.previous_shared])
    assert (now["flux"], before["flux"]) == (compute(first.shared)["flux"], 1)
    # The sweep began further along the way from the first value to the second, as its misfit shows.
    images = [images_on_canvas(layout, own) for own in (first, state)]
    image = images[0] + 0.5 * (images[0] - images[1])
    begun = flux + 0.5 * (flux - 1)
    found = [plain.misfit(own * on.split(image), on.amplitude) for own in (begun, flux)]
    assert compute(report).misfit == pytest.approx(found[0], rel=1e-4)
    assert found[1] != pytest.approx(found[0], rel=1e-2)
    along, power = fit(on, image, np.full(36, begun))
    assert compute(second.shared)["flux"] == pytest.approx(begun * along.sum() / power.sum(), rel=1e-4)


def test_parameters_that_are_not_due_stay_as_they_are() -> None:
    ds = recovering(drifted(plain.scan(frames=(6, 6))), OfFrames, OfScan)
    layout = lay_out_scan(ds, (18, 18), None, update_probe=True)
    state = persist(begin(layout, ds))
    settings = choose_settings(layout, sync=Sync(None), due=frozenset({"strength"}))
    after, _ = persist(sweep(layout, state, settings))
    shared = compute(after.shared)
    np.testing.assert_array_equal(shared["probe"], ds["probe"].values)
    assert shared["flux"] == 1
    assert all((values["strength"] != 1).all() for values in compute([tile.own for tile in after.tiles]))


def test_each_parameter_in_turn_changes_the_view() -> None:
    ds = recovering(plain.scan(fractional=True), OfFrames, OfScan).assign(gain=("frame", drift(16)))
    tile = plain.tiling_of(ds, (9, 7)).tiles[1]
    at = on_tile(ds, tile)
    assert [own.name for own in at.model.parameters] == ["gain", "strength", "flux", "probe"]
    at.own["strength"][:] = np.arange(1, 8)
    at.shared["flux"][:] = 0.5
    view = at.view(tile, slice(2, 5))
    np.testing.assert_array_equal(view.corner, tile.corner[2:5])
    gain = (drift(16) / np.exp(np.log(drift(16)).mean()))[9 + 2 : 9 + 5]
    factor = gain * [3, 4, 5] * 0.5
    np.testing.assert_allclose(view.factor, factor, rtol=1e-6)
    expected = factor[:, None, None, None] * plain.shifted(ds["probe"].values, tile.fraction[2:5])
    assert plain.relative(view.probe, expected) < 1e-5


# In a run


@pytest.fixture
def recorded() -> xr.Dataset:
    """A scan that drifted, in three tiles."""
    ds = plain.scan(frames=(8, 8), frame_shape=(16, 16), fractional=True, tile=24)
    return recovering(drifted(ds), OfFrames)


def strengths(found: xr.Dataset) -> NDArray[np.float64]:
    """With a mean of one: a factor may be the object's or the beam's."""
    return found["strength"].values / found["strength"].values.astype(float).mean()


def test_own_parameter_is_recovered_in_a_run(recorded: xr.Dataset, tmp_path: Path) -> None:
    held = dp.reconstruct(recovering(recorded), sweeps=60, update_probe=False)
    found = dp.reconstruct(recorded, tmp_path / "r.zarr", sweeps=60, update_probe=False)
    assert found["residual"][-1] < 1e-2 * held["residual"][-1]
    assert found["strength"].attrs == {"units": "1"}
    np.testing.assert_allclose(strengths(found), drift(64) / drift(64).mean(), rtol=0.05)
    xr.testing.assert_identical(dp.open_result(tmp_path / "r.zarr"), found)
    assert "strength" not in held


def test_schedule_of_an_own_parameter_is_kept(recorded: xr.Dataset) -> None:
    """From the third sweep on, in each second one."""
    seen = []

    def look(progress: dp.Progress) -> None:
        own = compute([tile.own for tile in progress._state.tiles])
        seen.append(np.concatenate([values["strength"] for values in own]))

    ds = recovering(recorded, OfFrames, start=3, every=2)
    dp.reconstruct(ds, sweeps=7, update_probe=False, callback=look)
    assert (seen[1] == 1).all()
    changed = [bool((now != before).any()) for before, now in pairwise(seen)]
    assert changed == [False, True, False, True, False, True]


@pytest.mark.parametrize("kinds", [(OfFrames,), (OfScan,), (OfFrames, OfScan)], ids=str)
@pytest.mark.parametrize("options", [{}, {"algorithm": "raar"}, {"sync": Sync("full", every=2)}], ids=str)
def test_own_parameters_are_kept_in_checkpoints(
    recorded: xr.Dataset, tmp_path: Path, kinds: tuple[type[Strength], ...], options: dict
) -> None:
    recorded = recovering(recorded, *kinds)

    whole = dp.reconstruct(recorded, tmp_path / "whole.zarr", sweeps=8, **options)
    short = dp.reconstruct(recorded, sweeps=5, **options)
    with pytest.raises(Stop):
        dp.reconstruct(recorded, tmp_path / "r.zarr", sweeps=8, callback=stop_at(5), **options)
    store = open_checkpoint_store(parse_location(tmp_path / "r.zarr"))
    names = store.read_attributes(store.list_snapshots()[-1].id)["parts"]
    before = {f"previous_{kind.name}" for kind in kinds if not kind.per_frame}
    assert {kind.name for kind in kinds} | before | {"probe", "previous_probe"} <= set(names)
    kept = dp.open_checkpoint(tmp_path / "r.zarr")
    for kind in kinds:
        assert (short[kind.name] != 1).all()
        xr.testing.assert_equal(kept[kind.name], short[kind.name])
        assert (whole[kind.name] != short[kind.name]).any()
    found = dp.resume(tmp_path / "r.zarr", scan=recorded)
    xr.testing.assert_equal(found.drop_vars("seconds"), whole.drop_vars("seconds"))


def test_own_parameter_has_its_share_of_the_memory_that_is_estimated(recorded: xr.Dataset) -> None:
    tiling, workers = lay_out_tiles(recorded), Workers(1, 1, None)
    known = Recipe(parameters=(Probe(recovered=False),))
    own = Recipe(parameters=(OfFrames(), Probe(recovered=False)))
    assert not known.recovers
    assert own.recovers
    needs, without = (estimate_needs(recorded, tiling, workers, recipe) for recipe in (own, known))
    recovered = estimate_needs(recorded, tiling, workers, Recipe(parameters=(Probe(),)))
    assert needs.held == recovered.held + 4 * 64
    # Waves wait for it as they do for a probe.
    assert recovered.waiting >= needs.waiting > without.waiting
