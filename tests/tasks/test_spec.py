"""Values and their tasks: where they are computed."""

from __future__ import annotations

import pytest
from distributed import Client, LocalCluster

from daskptycho.tasks.spec import Home, find_workers_of, persist, task
from daskptycho.tasks.waiting import compute


@pytest.mark.timeout(60)
def test_a_tile_is_computed_at_its_home_also_alone() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        for tile in (0, 7, 8, 15):
            value = persist(task(int, tile, home=Home(tile, 16)))
            assert compute(value) == tile
            assert find_workers_of([value]) == [workers[tile // 8]]
