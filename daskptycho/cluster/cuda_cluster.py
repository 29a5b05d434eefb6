"""A Dask cluster on this machine's GPUs, one worker process each, through dask-cuda.

The command line and workflows call this module; it calls `devices`. What a worker needs to know reaches it as
arguments and by a plugin: workers do not see the client's Dask configuration.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
from distributed import Client, Worker, WorkerPlugin

from daskptycho.cluster.client import STAY_AT_HOME
from daskptycho.cluster.devices import INSTALL, Gpu, gpu_or_reason, require_gpu
from daskptycho.cluster.work import count_sweeps
from daskptycho.errors import FaultError, OptionError

__all__ = ["GpuWork", "cuda_cluster", "gpus_at_work", "require_gpus_at_work", "visible_gpus"]

# The share of a GPU's memory that RMM's pool takes at once.
POOL_SHARE = 0.8


class GpuWork(NamedTuple):
    """What one worker has done."""

    gpu: Gpu
    pool: str
    """Where CuPy takes its memory from: ``"RMM"`` or ``"CuPy"``."""
    sweeps: int
    """Tiles swept, each sweep counted."""


class _GpuWorker(WorkerPlugin):
    """Gives CuPy a memory pool on a worker, and knows what it has swept since."""

    name = "daskptycho-gpu"

    def setup(self, worker: Worker) -> None:
        found = gpu_or_reason()
        if isinstance(found, str):
            raise OptionError(f"the worker at {worker.address} cannot use a GPU: {found}")
        self.gpu, self.pool, self.before = found, _set_pool(), count_sweeps()


def _set_pool() -> str:
    """Let CuPy allocate from a pool: asking the driver each time would wait for all that runs."""
    cupy = importlib.import_module("cupy")
    if importlib.util.find_spec("rmm") is None:
        cupy.cuda.set_allocator(cupy.cuda.MemoryPool().malloc)
        return "CuPy"
    cupy.cuda.set_allocator(importlib.import_module("rmm.allocators.cupy").rmm_cupy_allocator)
    return "RMM"


@contextmanager
def cuda_cluster(gpus: Sequence[int | str] | None = None, *, memory: str = "auto") -> Iterator[Client]:
    """A cluster with one worker for each GPU, and a client that `daskptycho.reconstruct` finds.

    Parameters
    ----------
    gpus : sequence of int, optional
        Numbers of GPUs, as ``nvidia-smi`` lists them; all of `visible_gpus` unless given.
    memory : str
        Host memory of each worker before it spills to disk, "16GiB" for instance.

    Yields
    ------
    distributed.Client

    Raises
    ------
    OptionError
        No GPU, one that is not there, or no dask-cuda.
    """
    chosen = _chosen(gpus)
    try:
        dask_cuda = importlib.import_module("dask_cuda")
    except ImportError as error:
        raise OptionError(f"dask-cuda cannot be imported ({error}); install it by {INSTALL}") from error
    options: dict[str, Any] = {}
    if importlib.util.find_spec("rmm") is not None:
        options["rmm_pool_size"] = POOL_SHARE
    with dask.config.set(STAY_AT_HOME):
        cluster = dask_cuda.LocalCUDACluster(
            CUDA_VISIBLE_DEVICES=chosen,
            n_workers=len(chosen),
            threads_per_worker=1,
            memory_limit=memory,
            # Any free port: the usual one belongs to whoever came first. For this machine alone.
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            **options,
        )
    with cluster, Client(cluster) as client:
        client.wait_for_workers(len(chosen))
        client.register_plugin(_GpuWorker())
        yield client


def visible_gpus() -> list[str]:
    """The GPUs that this process may use.

    They are numbers, as ``nvidia-smi`` lists them, or what CUDA_VISIBLE_DEVICES calls them: a part of a GPU
    has no number.

    Raises
    ------
    OptionError
        There is none.
    """
    require_gpu()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",")]
    return [str(number) for number in range(importlib.import_module("cupy").cuda.runtime.getDeviceCount())]


def _chosen(gpus: Sequence[int | str] | None) -> list[str]:
    """The GPUs to use, each once."""
    there = visible_gpus()
    chosen = there if gpus is None else [str(gpu) for gpu in gpus]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(there):
        raise OptionError(
            f"GPUs {', '.join(chosen) or 'none'} are asked for; expected one or more of "
            f"{', '.join(there)}, each once"
        )
    return chosen


def gpus_at_work(client: Client) -> list[GpuWork]:
    """What each worker of a `cuda_cluster` has done so far."""
    return list(client.run(_read_work).values())


def _read_work(dask_worker: Worker) -> GpuWork:
    plugin: Any = dask_worker.plugins[_GpuWorker.name]
    return GpuWork(plugin.gpu, plugin.pool, count_sweeps() - plugin.before)


def require_gpus_at_work(client: Client) -> list[GpuWork]:
    """What each worker of a `cuda_cluster` has done, once a run is finished; an idle GPU is an error.

    Parameters
    ----------
    client : distributed.Client
        From `cuda_cluster`.

    Returns
    -------
    list of GpuWork
        Of each worker its GPU, where its memory comes from, and the number of tiles that it has swept.

    Raises
    ------
    FaultError
        Fewer GPUs than workers did the work. The result of the run is written all the same.
    """
    work = gpus_at_work(client)
    used = {own.gpu.uuid for own in work if own.sweeps}
    if len(used) != len(work):
        done = "; ".join(f"{own.gpu.name} {own.gpu.uuid}: {own.sweeps} tiles swept" for own in work)
        raise FaultError(
            f"{len(work)} GPUs were asked for and {len(used)} did the work ({done}); the result is written; "
            "see the worker's log, or name fewer GPUs (--gpus)"
        )
    return work
