"""The Dask client in use, if there is one, and which of its workers each tile of a run lives on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.base
from distributed import Client, span

from daskptycho.tiling import assign_worker

__all__ = ["STAY_AT_HOME", "Home", "Homes", "current_client", "find_homes", "group_as_run"]

# Dask's settings for a scheduler whose workers share a run's tiles evenly.
STAY_AT_HOME = {"distributed.scheduler.work-stealing": False}


def current_client() -> Client | None:
    """The client of the cluster that computes; None where none does."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if isinstance(client, Client) else None


def group_as_run() -> AbstractContextManager[Any]:
    """Make one span of what is computed in the block, on the cluster in use.

    Dask's dashboard then shows its times together. Without it, the scheduler would open a span for each sweep
    and keep them all.
    """
    return nullcontext() if current_client() is None else span("daskptycho")


class Home(NamedTuple):
    """Beside which tile a task runs, and of how many."""

    tile: int
    tiles: int


@dataclass(frozen=True)
class Homes:
    """The worker of each tile: each thread has a run of tiles, neighbours in space.

    Attributes
    ----------
    threads : tuple of str
        Address of the worker of each thread.
    """

    threads: tuple[str, ...]

    def address(self, home: Home) -> str:
        """Address of the worker where a task belongs."""
        return self.threads[assign_worker(home.tile, home.tiles, len(self.threads))]


def find_homes() -> Homes | None:
    """The homes among the workers of now; None without a cluster, or without workers."""
    client = current_client()
    if client is None:
        return None
    # A client that looks for its scheduler again knows of none.
    workers = client.scheduler_info(n_workers=-1).get("workers", {})
    threads = tuple(address for address in sorted(workers) for _ in range(workers[address]["nthreads"]))
    return Homes(threads) if threads else None
