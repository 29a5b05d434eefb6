"""Where the tasks of a command run: threads of this process, workers of its own, or a running scheduler.

`reconstruct` and `resume` of the command line call this module.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import click

from daskptycho.errors import OptionError

__all__ = ["cluster_options", "running_on"]

# Seconds to wait for a scheduler to answer.
PATIENCE = 10


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that `running_on` takes."""
    for option in (
        click.option(
            "--memory",
            metavar="BYTES",
            help="That each worker may take, as 16GiB; what Dask gives it unless given.",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask scheduler at this address."),
        click.option(
            "--workers", type=int, metavar="N", help="Run on N worker processes; on threads unless given."
        ),
    ):
        command = option(command)
    return command


@contextmanager
def running_on(workers: int | None, scheduler: str | None, memory: str | None = None) -> Iterator[None]:
    """Run the block's Dask tasks on so many worker processes, or on the scheduler at that address.

    Worker processes take `memory` bytes each, "16GiB" for instance; their share of the machine unless given.

    Everything that was started is closed at the end, also where the block fails.

    Raises
    ------
    OptionError
        Both are given, no worker, or nothing answers at the address.
    """
    if workers is None and scheduler is None:
        yield
        return
    if workers is not None and scheduler is not None:
        raise OptionError(
            "--workers and --scheduler are both given; expected one: a scheduler has its own workers"
        )
    if workers is not None and workers < 1:
        raise OptionError(f"--workers is {workers}; expected 1 or more")
    from distributed import Client, LocalCluster

    with ExitStack() as opened:
        if workers is not None:
            with _deaf_to_signals():
                cluster = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit="auto" if memory is None else memory,
                    # Any free port: the usual one belongs to whoever came first. For this machine alone.
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
                opened.push(cluster)
            client = opened.enter_context(Client(cluster))
        else:
            try:
                client = opened.enter_context(Client(scheduler, timeout=PATIENCE))
            except (OSError, ValueError) as error:
                raise OptionError(
                    f"no Dask scheduler answers at {scheduler} ({error}); "
                    "expected an address such as tcp://127.0.0.1:8786, where 'dask scheduler' runs"
                ) from error
        # Without bokeh a scheduler names the address too, and has nothing to show there.
        if importlib.util.find_spec("bokeh") and client.dashboard_link:
            click.echo(f"Dask's dashboard: {client.dashboard_link}", err=True)
        yield


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Let the processes that the block starts inherit a blocked SIGINT and SIGTERM.

    A terminal sends Ctrl-C to all of them at once, and a batch system SIGTERM; this process alone answers,
    and closes the others. One that comes meanwhile is answered when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Whoever starts the first process starts this too, which would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
