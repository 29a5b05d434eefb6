"""Where the tasks of a command run: threads, worker processes, GPUs, or a scheduler that is running already.

`reconstruct` and `resume` of the command line call this module.
"""

from __future__ import annotations

import importlib.util
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import click

from daskptycho.cli.options import NUMBERS
from daskptycho.errors import OptionError
from daskptycho.views.quantities import pluralise

if TYPE_CHECKING:
    from distributed import Client

    from daskptycho.backend import Device

__all__ = ["Place", "check_gpus", "cluster_options", "running_on"]

# Seconds to wait for a scheduler to answer.
PATIENCE = 10


@dataclass(frozen=True)
class Place:
    """Where a command is to compute, as its options say."""

    workers: int | None
    scheduler: str | None
    memory: str | None
    gpu: bool
    gpus: tuple[int, ...] | None

    @property
    def device(self) -> Device:
        return "gpu" if self.gpu or self.gpus is not None else "cpu"

    @property
    def worker_memory(self) -> str | None:
        """What a run may take of each worker: on a GPU it is the GPU's, and --memory is the host's."""
        return None if self.device == "gpu" else self.memory

    def __post_init__(self) -> None:
        both = [
            name
            for name, given in (
                ("--workers", self.workers is not None),
                ("--scheduler", self.scheduler is not None),
                ("--gpus", self.gpus is not None),
            )
            if given
        ]
        if len(both) > 1:
            raise OptionError(
                f"{' and '.join(both)} are both given; expected one: each names its own workers"
            )
        if self.gpu and self.workers is not None:
            raise OptionError("--workers with --gpu; expected --gpus: there is one worker for each GPU")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}; expected 1 or more")
        if self.gpu and self.scheduler is not None and self.memory is not None:
            raise OptionError(
                "--memory with --gpu and --scheduler; expected none: a GPU's memory is known from the card, "
                "and a worker's on the host is set where it is started"
            )


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that `Place` takes."""
    for option in (
        click.option(
            "--gpus", type=NUMBERS, metavar="0,1,...", help="Run on these GPUs, as nvidia-smi numbers them."
        ),
        click.option(
            "--gpu", is_flag=True, help="Run on all GPUs here, or with --scheduler on those of its workers."
        ),
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
def running_on(place: Place, tiles: int) -> Iterator[Client | None]:
    """Run the block's Dask tasks on worker processes, on GPUs, or on the scheduler at an address.

    Worker processes take as much memory as the place says, "16GiB" for instance; their share of the machine
    unless it does. Everything that was started is closed at the end, also where the block fails.

    Raises
    ------
    OptionError
        Nothing answers at the address, there is no such GPU, or there are more GPUs than tiles.
    """
    with ExitStack() as opened:
        if place.scheduler is not None:
            client = opened.enter_context(_answering(place.scheduler))
        elif place.device == "gpu":
            client = opened.enter_context(_on_gpus(place, tiles))
        elif place.workers is not None:
            client = opened.enter_context(_on_processes(place.workers, place.memory))
        else:
            yield None
            return
        # Without bokeh a scheduler names the address too, and has nothing to show there.
        if importlib.util.find_spec("bokeh") and client.dashboard_link:
            click.echo(f"Dask's dashboard: {client.dashboard_link}", err=True)
        yield client


def _answering(scheduler: str) -> Client:
    import dask
    from distributed import Client

    before = dask.config.get("scheduler", None)
    try:
        return Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        # A client that fails may leave itself behind as what computes all that follows.
        dask.config.set(scheduler=before)
        raise OptionError(
            f"no Dask scheduler answers at {scheduler} ({error}); "
            "expected an address such as tcp://127.0.0.1:8786, where 'dask scheduler' runs"
        ) from error


@contextmanager
def _on_processes(workers: int, memory: str | None) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    from daskptycho.tasks.spec import STAY_AT_HOME

    with _deaf_to_signals(), dask.config.set(STAY_AT_HOME):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit="auto" if memory is None else memory,
            # Any free port: the usual one belongs to whoever came first. For this machine alone.
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _on_gpus(place: Place, tiles: int) -> Iterator[Client]:
    """One worker for each GPU; of all GPUs as many as have a tile to sweep."""
    from daskptycho.cluster.cuda_cluster import cuda_cluster, visible_gpus

    if place.gpus is not None and len(place.gpus) > tiles:
        raise OptionError(
            f"{pluralise(len(place.gpus), 'GPU')} for {pluralise(tiles, 'tile')}; expected at most as many GPUs "
            "as tiles, or a scan that was written with smaller tiles (--tile-frames)"
        )
    gpus = visible_gpus()[:tiles] if place.gpus is None else place.gpus
    with ExitStack() as opened:
        with _deaf_to_signals():
            client = opened.enter_context(cuda_cluster(gpus, memory=place.memory or "auto"))
        yield client


def check_gpus(place: Place, client: Client | None) -> None:
    """Once a run is done: every GPU that was started for it has been at work; say so."""
    from daskptycho.cluster.cuda_cluster import require_gpus_at_work

    if place.device == "gpu" and place.scheduler is None and client is not None:
        work = require_gpus_at_work(client)
        told = ", ".join(f"{own.gpu.name} swept {pluralise(own.sweeps, 'tile')}" for own in work)
        click.echo(
            f"{pluralise(len(work), 'GPU')} at work: {told}; memory from {work[0].pool}'s pool", err=True
        )


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
