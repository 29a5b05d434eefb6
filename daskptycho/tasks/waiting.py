"""Waiting for the results of tasks, on workers that may die.

`run` calls this module in place of Dask's ``compute``. Dask itself computes the results of lost workers
again. This module raises an error for the faults that Dask cannot repair: tasks that Dask gives up because
workers died while running them, workers that run out of memory, workers or a scheduler that do not return,
and a store that does not answer.
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

# Losses of workers in a row, without progress between them, after which a run fails.
MOST_LOSSES = 3
# Seconds that a run waits for workers or the scheduler to return.
PATIENCE = 300.0
# Seconds between two checks of the workers while a run waits for results.
LOOK = 1.0

# The topic under which Dask's nannies report that they killed a worker at 95 % of its memory.
KILLED_FOR_MEMORY = "worker-restart-memory"
LOST = (KilledWorker, NoValidWorkerError, CancelledError, asyncio.CancelledError)

_log = logging.getLogger(__name__)
# Number of reports of killed workers that are known already, for each client.
_reports_seen: WeakKeyDictionary[Client, int] = WeakKeyDictionary()


class WorkersLost(Exception):
    """Values were lost with the workers that held them, and Dask cannot compute them again."""


class OutOfMemory(Exception):
    """A worker, or this process, ran out of memory."""


def compute(content: Any) -> Any:
    """Compute values, and bring the results to this process.

    Parameters
    ----------
    content : Value, or lists, tuples, dictionaries or dataclasses of values

    Returns
    -------
    The same content with results in place of values.

    Raises
    ------
    WorkersLost
        Values that they need were lost with workers. The caller may start again from a store.
    OutOfMemory
        A worker or this process ran out of memory.
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
    """See `spec.persist`. Without a cluster it returns only once all values are computed.

    Raises
    ------
    WorkersLost, OutOfMemory, FaultError
        As for `compute`.
    """
    with _explain_faults():
        return spec.persist(content)


@contextmanager
def _explain_faults() -> Iterator[None]:
    """Turn errors of Dask and of stores into those that `compute` documents."""
    raise_missed()
    try:
        yield
    except LOST as error:
        raise WorkersLost(str(error).partition("\n")[0]) from error
    except MemoryError as error:
        raise OutOfMemory(f"a task ran out of memory ({error})") from error
    except OSError as error:
        raise FaultError(f"a store failed, also when it was tried again: {error}") from error


def retry_lost(action: Callable[[], T], progress: Callable[[], int]) -> T:
    """Run an action, and run it again each time that it raises `WorkersLost`.

    Parameters
    ----------
    action : callable
    progress : callable
        Returns a number that grows as the action makes progress. Losses are counted from one again if it
        grew.

    Returns
    -------
    What the action returns.

    Raises
    ------
    FaultError
        Workers were lost `MOST_LOSSES` times without progress.
    """
    losses = 0
    while True:
        before = progress()
        try:
            return action()
        except WorkersLost as error:
            losses = 1 if progress() > before else losses + 1
            reason = str(error)
            if losses >= MOST_LOSSES:
                raise FaultError(f"workers were lost {losses} times in a row: {reason}") from error
        _log.warning("Workers were lost, and their results are computed again: %s", reason)
        wait_for_cluster()


def has_workers() -> bool:
    """Whether there are workers that can compute now; always true without a cluster."""
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
        One of them does not return.
    OutOfMemory
        A worker was killed for its memory, or all workers have paused because their memory is full.
    """
    client, begun = current_client(), time.monotonic()
    while client is not None and not _check_workers(client, time.monotonic() - begun):
        raise_missed()
        time.sleep(LOOK / 2)


def _gather_results(client: Client, values: Any) -> Any:
    """Gather results in the client's thread, and check the workers in this thread meanwhile."""
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
        # A traceback would keep references to the futures, so that their tasks would go on running in vain.
        del futures, gathering


async def _await_results(client: Client, futures: dict[str, Any]) -> Any:
    """The results of futures; if one of them fails, its error at once."""
    try:
        # Dask's own gather, if it is cancelled, leaves tasks behind that print a traceback.
        async with asyncio.TaskGroup() as awaited:
            for future in futures.values():
                awaited.create_task(_await_success(future))
    except* Exception:
        # Raised again below, with the traceback of the worker.
        pass
    return await client.gather(futures, asynchronous=True)


async def _await_success(future: Any) -> None:
    if (error := await future.exception()) is not None:
        raise error


def _check_workers(client: Client, waited: float) -> bool:
    """Whether the scheduler has workers that run.

    Parameters
    ----------
    client : Client
    waited : float
        Seconds for which it had none.

    Raises
    ------
    OutOfMemory
        A worker was killed for its memory, or all workers have paused because their memory is full.
    FaultError
        The scheduler is gone, or there was no worker for longer than `PATIENCE`.
    """
    try:
        reports = _read_reports(client)
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except Exception as error:
        # A client raises different errors while it reconnects to its scheduler, and after it has given up.
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
