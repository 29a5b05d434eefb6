"""Where the tasks of a command run: on threads, worker processes, GPUs, or an existing Dask scheduler.

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

__all__ = ["ComputeResources", "add_cluster_options", "confirm_gpu_work", "open_client"]

# Seconds to wait for the scheduler to answer.
CONNECT_TIMEOUT = 10


@dataclass(frozen=True)
class ComputeResources:
    """Where a command computes: threads by default, workers, GPUs, or the workers of a scheduler."""

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
        """Memory that a run may use on each worker; None on GPUs, where --memory is that of the host."""
        return None if self.device == "gpu" else self.memory

    def __post_init__(self) -> None:
        chosen = [
            name
            for name, is_given in (
                ("--workers", self.workers is not None),
                ("--scheduler", self.scheduler is not None),
                ("--gpus", self.gpus is not None),
            )
            if is_given
        ]
        if len(chosen) > 1:
            raise OptionError(
                f"{' and '.join(chosen)} are both given; expected only one: each chooses its own workers"
            )
        if self.gpu and self.workers is not None:
            raise OptionError("--workers with --gpu; expected --gpus: one worker is started for each GPU")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}; expected 1 or more")
        if self.gpu and self.scheduler is not None and self.memory is not None:
            raise OptionError(
                "--memory with --gpu and --scheduler; expected no --memory: the memory of a GPU is read from "
                "the card, and the host memory of a worker is set where the worker is started"
            )


def add_cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options of `ComputeResources`."""
    for option in (
        click.option(
            "--gpus", type=NUMBERS, metavar="0,1,...", help="Run on these GPUs, numbered as in nvidia-smi."
        ),
        click.option(
            "--gpu",
            is_flag=True,
            help="Run on all GPUs here, or with --scheduler on the GPUs of its workers.",
        ),
        click.option(
            "--memory",
            metavar="BYTES",
            help="Memory of each worker, as in 16GiB; by default, the limit that Dask sets.",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask scheduler at this address."),
        click.option(
            "--workers", type=int, metavar="N", help="Run on N worker processes; by default, on threads."
        ),
    ):
        command = option(command)
    return command


@contextmanager
def open_client(resources: ComputeResources, tiles: int) -> Iterator[Client | None]:
    """Run the Dask tasks of the block on worker processes, on GPUs, or on the scheduler at an address.

    Yields the client, or None for threads. Everything that was started is closed at the end of the block,
    also after an error.

    Raises
    ------
    OptionError
        No scheduler answers at the address, a GPU does not exist, or there are more GPUs than tiles.
    """
    with ExitStack() as opened:
        if resources.scheduler is not None:
            client = opened.enter_context(_connect(resources.scheduler))
        elif resources.device == "gpu":
            client = opened.enter_context(_start_gpu_workers(resources, tiles))
        elif resources.workers is not None:
            client = opened.enter_context(_start_processes(resources.workers, resources.memory))
        else:
            yield None
            return
        # Without bokeh a scheduler reports an address as well, but serves nothing there.
        if importlib.util.find_spec("bokeh") and client.dashboard_link:
            click.echo(f"Dask's dashboard: {client.dashboard_link}", err=True)
        yield client


def _connect(scheduler: str) -> Client:
    """Open a client of the scheduler at an address."""
    import dask
    from distributed import Client

    before = dask.config.get("scheduler", None)
    try:
        return Client(scheduler, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        # A client that fails to connect may leave itself set as the default scheduler.
        dask.config.set(scheduler=before)
        raise OptionError(
            f"no Dask scheduler answers at {scheduler} ({error}); "
            "expected the address of a running 'dask scheduler', as in tcp://127.0.0.1:8786"
        ) from error


@contextmanager
def _start_processes(workers: int, memory: str | None) -> Iterator[Client]:
    """Start worker processes; without a memory limit each gets its share of the machine."""
    import dask
    from distributed import Client, LocalCluster

    from daskptycho.cluster.client import STAY_AT_HOME

    with _block_signals(), dask.config.set(STAY_AT_HOME):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit="auto" if memory is None else memory,
            # Any free port, because the default one may be in use; open to this machine only.
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _start_gpu_workers(resources: ComputeResources, tiles: int) -> Iterator[Client]:
    """Start one worker for each GPU; of all GPUs, only as many as there are tiles."""
    from daskptycho.cluster.cuda_cluster import cuda_cluster, visible_gpus

    if resources.gpus is not None and len(resources.gpus) > tiles:
        raise OptionError(
            f"{pluralise(len(resources.gpus), 'GPU')} for {pluralise(tiles, 'tile')}; expected at most as "
            "many GPUs as tiles, or a scan that was written with smaller tiles (--tile-frames)"
        )
    gpus = visible_gpus()[:tiles] if resources.gpus is None else resources.gpus
    with ExitStack() as opened:
        with _block_signals():
            client = opened.enter_context(cuda_cluster(gpus, memory=resources.memory or "auto"))
        yield client


def confirm_gpu_work(resources: ComputeResources, client: Client | None) -> None:
    """After a run, check that every GPU that was started for it has worked, and print what each has done."""
    from daskptycho.cluster.cuda_cluster import require_gpus_at_work

    if resources.device == "gpu" and resources.scheduler is None and client is not None:
        work = require_gpus_at_work(client)
        done = ", ".join(f"{own.gpu.name} swept {pluralise(own.sweeps, 'tile')}" for own in work)
        click.echo(
            f"{pluralise(len(work), 'GPU')} at work: {done}; memory from {work[0].pool}'s pool", err=True
        )


@contextmanager
def _block_signals() -> Iterator[None]:
    """Block SIGINT and SIGTERM, so that the processes started in the block inherit blocked signals.

    A terminal sends Ctrl-C, and a batch system SIGTERM, to all processes at once. Only this process answers
    and closes the others. A signal that arrives during the block is answered at its end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # The first process would start the resource tracker, which unblocks the signals again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
