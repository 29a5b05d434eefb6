"""Waiting for what tasks compute, on workers that may die meanwhile.

`run` and its parts call this module in place of Dask's own ``compute``. Dask computes anew what a lost worker
had; this module tells what it cannot put right: tasks given up after workers died over them, workers that ran
out of memory, workers or a scheduler that do not come back, a store that stays away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, TimeoutError
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from dask.utils import format_bytes
from distributed import Client, KilledWorker
from distributed.scheduler import NoValidWorkerError

from daskptycho.cluster.client import current_client
from daskptycho.errors import FaultError
from daskptycho.tasks import spec
from daskptycho.tasks.interrupts import raise_missed

__all__ = [
    "OutOfMemory",
    "WorkersLost",
    "compute",
    "has_workers",
    "persist",
    "retry_lost",
    "wait_for_cluster",
]

T = TypeVar("T")

# Times in a row that a run is taken up again without getting any further.
MOST_LOSSES = 3
# Seconds that a run waits for workers, or for the scheduler, where none is left.
PATIENCE = 300.0
# Seconds from one look at the workers to the next, while something is awaited.
LOOK = 1.0

# Where the nannies of Dask's workers report that they killed one at 95 % of its memory.
KILLED_FOR_MEMORY = "worker-restart-memory"
LOST = (KilledWorker, NoValidWorkerError, CancelledError, asyncio.CancelledError)

_log = logging.getLogger(__name__)
# Reports of a scheduler that are no news.
_reports_seen: WeakKeyDictionary[Client, int] = WeakKeyDictionary()


class WorkersLost(Exception):
    """Values went with the workers that held them, and Dask does not bring them back."""


class OutOfMemory(Exception):
    """A worker, or this process, took more memory than there is."""


def compute(content: Any) -> Any:
    """What a value is, or lists and tuples of values are, in this process.

    Raises
    ------
    WorkersLost
        They can be computed once more, from what is in a store.
    OutOfMemory
    FaultError
        No workers are left, the scheduler is gone, or a store does not answer.
    """
    client = current_client()
    with _explain_faults():
        if client is not None:
            return _gather_results(client, content)
        done = spec.persist(content)
        return spec.substitute(done, spec.futures_in(done))


def persist(content: Any) -> Any:
    """As for `spec.persist`, which computes at once without a cluster.

    Raises
    ------
    WorkersLost, OutOfMemory, FaultError
        As for `compute`.
    """
    with _explain_faults():
        return spec.persist(content)


@contextmanager
def _explain_faults() -> Iterator[None]:
    raise_missed()
    try:
        yield
    except LOST as error:
        raise WorkersLost(str(error).partition("\n")[0]) from error
    except MemoryError as error:
        raise OutOfMemory(f"a task found no memory ({error})") from error
    except OSError as error:
        raise FaultError(f"a store failed, also when it was tried again: {error}") from error


def retry_lost(action: Callable[[], T], progress: Callable[[], int]) -> T:
    """What the action returns; it is done anew where workers are lost.

    Parameters
    ----------
    action : callable
    progress : callable
        How far it has come: a loss further on is a first one again.

    Raises
    ------
    FaultError
        Workers were lost again and again.
    """
    losses = 0
    while True:
        before = progress()
        try:
            return action()
        except WorkersLost as error:
            losses = 1 if progress() > before else losses + 1
            said = str(error)
            if losses >= MOST_LOSSES:
                raise FaultError(f"workers were lost {losses} times in a row: {said}") from error
        _log.warning("Workers were lost, and what they had is computed anew: %s", said)
        wait_for_cluster()


def has_workers() -> bool:
    """Whether anything can be computed now."""
    client = current_client()
    try:
        return client is None or _check_workers(client, 0)
    except (OutOfMemory, FaultError):
        return False


def wait_for_cluster() -> None:
    """Wait until the scheduler answers and has a worker.

    Raises
    ------
    FaultError
        One of them stays away.
    """
    client, begun = current_client(), time.monotonic()
    while client is not None and not _check_workers(client, time.monotonic() - begun):
        raise_missed()
        time.sleep(LOOK / 2)


def _gather_results(client: Client, values: Any) -> Any:
    """Gather in the client's own thread, and look after the workers here meanwhile."""
    if client not in _reports_seen:
        _reports_seen[client] = len(_read_reports(client))
    done = spec.persist(values)
    futures = spec.futures_in(done)
    loop: Any = client.loop
    gathering = asyncio.run_coroutine_threadsafe(_await_results(client, futures), loop.asyncio_loop)
    begun = time.monotonic()
    try:
        while True:
            try:
                return spec.substitute(done, gathering.result(LOOK))
            except TimeoutError:
                if gathering.done():
                    raise
            raise_missed()
            if _check_workers(client, time.monotonic() - begun):
                begun = time.monotonic()
    finally:
        gathering.cancel()
        # A traceback would keep the tasks going for which nobody waits any more.
        del futures, gathering


async def _await_results(client: Client, futures: dict[str, Any]) -> Any:
    """The values of futures; of one that has failed the error, without waiting for the others."""
    try:
        # Dask's own gather, where it is cut off, leaves tasks behind that end with a traceback.
        async with asyncio.TaskGroup() as awaited:
            for future in futures.values():
                awaited.create_task(_await_success(future))
    except* Exception:
        # Raised below, with the traceback of the worker.
        pass
    return await client.gather(futures, asynchronous=True)


async def _await_success(future: Any) -> None:
    if (error := await future.exception()) is not None:
        raise error


def _check_workers(client: Client, waited: float) -> bool:
    """Whether the scheduler has workers, after so many seconds without.

    Raises
    ------
    OutOfMemory
    FaultError
        Too many seconds.
    """
    try:
        reports = _read_reports(client)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except Exception as error:
        # What a client does while it looks for its scheduler again, or has given up.
        if client.status == "closed" or waited > PATIENCE:
            raise FaultError(f"the connection to the Dask scheduler is gone: {error!r}") from error
        return False
    if len(reports) > _reports_seen.setdefault(client, len(reports)):
        _reports_seen[client] = len(reports)
        _, report = reports[-1]
        raise OutOfMemory(
            f"the worker {report['worker']} was killed at {format_bytes(report['rss'])} of memory"
        )
    if any(worker["status"] == "running" for worker in workers):
        return True
    if waited > PATIENCE:
        if workers:
            raise OutOfMemory(f"all {len(workers)} workers have paused, full, for {waited:.0f} s")
        address = "" if client.scheduler is None else client.scheduler.address
        raise FaultError(f"no worker is left on {address}, and none came in {waited:.0f} s")
    return False


def _read_reports(client: Client) -> Any:
    return client.get_events(KILLED_FOR_MEMORY)
