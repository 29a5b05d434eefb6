"""The Dask client in use, if there is one, and the worker that each tile of a run belongs to."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.base
from distributed import Client, span

from daskptycho.tiling import assign_worker

__all__ = ["STAY_AT_HOME", "Home", "Homes", "current_client", "find_homes", "group_as_run"]

# Dask settings to start a scheduler with, so that it does not move tasks away from the workers of their
# tiles.
STAY_AT_HOME = {"distributed.scheduler.work-stealing": False}


def current_client() -> Client | None:
    """The client of the cluster in use; None if no cluster is in use."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if isinstance(client, Client) else None


def group_as_run() -> AbstractContextManager[Any]:
    """Group all that the block computes on the cluster in use into one Dask span.

    Dask's dashboard then shows its times together. Otherwise the scheduler would create a span for each
    sweep, and keep them all.
    """
    return nullcontext() if current_client() is None else span("daskptycho")


class Home(NamedTuple):
    """The tile beside which a task runs, and the number of all tiles."""

    tile: int
    tiles: int


@dataclass(frozen=True)
class Homes:
    """The worker of each tile. Tiles that follow each other, neighbours in space, belong to the same thread.

    Attributes
    ----------
    threads : tuple of str
        For each thread of the cluster, the address of its worker.
    """

    threads: tuple[str, ...]

    def address(self, home: Home) -> str:
        """Address of the worker that a task belongs to."""
        return self.threads[assign_worker(home.tile, home.tiles, len(self.threads))]


def find_homes() -> Homes | None:
    """The homes on the present workers of the cluster in use; None without a cluster or without workers."""
    client = current_client()
    if client is None:
        return None
    # A client that is reconnecting to its scheduler does not know any workers.
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    threads = tuple(address for address in sorted(workers) for _ in range(workers[address]["nthreads"]))
    return Homes(threads) if threads else None
