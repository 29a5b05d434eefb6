"""Every tile's tasks run where the tile lives, in every sweep, whatever a sweep does."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
import xarray as xr
from dask.utils import key_split
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin

import daskptycho as dp
from daskptycho.graph import sweep
from daskptycho.model.algorithms import AP, RAAR
from daskptycho.model.model import Model
from daskptycho.model.probe import Probe
from daskptycho.run.start import begin_uniform, place_values
from daskptycho.sync.options import Sync, Synchronisation
from daskptycho.tasks.layout import Residency, lay_out
from daskptycho.tasks.spec import Value, values_in
from daskptycho.tasks.state import SweepSettings
from daskptycho.tasks.waiting import persist
from tests import plain

TILES = 4
OF_A_TILE = ("sweep", "weigh", "row", "illuminate", "add-strips", "frames", "ground", "power", "turn")


@pytest.fixture
def ds() -> xr.Dataset:
    return plain.scan(frames=(4, 4), tile=4)


def tasks_of(*content: Any) -> list[Value]:
    """All values that are still to be computed."""
    found: dict[Any, Value] = {}
    pending = list(values_in(content))
    while pending:
        value = pending.pop()
        if value.node is not None and value.key not in found:
            found[value.key] = value
            pending.extend(value.needs)
    return list(found.values())


@pytest.mark.parametrize("algorithm", [AP(), RAAR()], ids=["ap", "raar"])
@pytest.mark.parametrize("recovered", [False, True], ids=["known", "recovered"])
@pytest.mark.parametrize(
    ("method", "residency"),
    [(None, Residency.HELD), ("full", Residency.HELD), *(("two-level", own) for own in Residency)],
    ids=str,
)
def test_tasks_of_a_tile_are_at_home_with_it(
    ds: xr.Dataset, method: Any, residency: Residency, recovered: bool, algorithm: Any
) -> None:
    model = Model((Probe(recovered=recovered),))
    layout = persist(lay_out(ds, plain.tiling_of(ds, (4,) * TILES), model, method, residency=residency))
    state = persist(begin_uniform(layout, *place_values(layout, {"probe": ds["probe"].values}), None))
    settings = SweepSettings(
        algorithm=algorithm,
        how=Synchronisation(Sync(method), None if method is None else "degree"),
        momentum=0.0 if algorithm.has_stack else 0.5,
        keeps_image=not algorithm.has_stack,
        due=model.due(2),
    )
    for _ in range(3):
        swept = sweep(layout, state, settings)
        homes: dict[str, Counter[Any]] = defaultdict(Counter)
        for task in tasks_of(swept):
            name = task.key if isinstance(task.key, str) else task.key[0]
            homes[key_split(name)][None if task.home is None else task.home.tile] += 1
        for name in homes.keys() & set(OF_A_TILE):
            passes = homes[name].total() // TILES
            assert homes[name] == dict.fromkeys(range(TILES), passes), name
        assert {"sweep"} <= homes.keys()
        state, _ = persist(swept)


class WhoSwept(SchedulerPlugin):
    """How many sweeps over tiles each worker has made."""

    def __init__(self) -> None:
        self.sweeps: Counter[str] = Counter()

    def transition(self, key: Any, start: str, finish: str, *_: Any, **more: Any) -> None:
        if (start, finish) == ("processing", "memory") and key_split(key) == "sweep":
            self.sweeps[more["worker"]] += 1


def test_workers_sweep_as_many_tiles_each(ds: xr.Dataset) -> None:
    swept = WhoSwept()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        cluster.scheduler.add_plugin(swept)
        dp.reconstruct(ds, sweeps=5, sync=dp.Sync(every=1))
    assert list(swept.sweeps.values()) == [5 * TILES // 2] * 2
