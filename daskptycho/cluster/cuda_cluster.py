"""A Dask cluster on the GPUs of this machine, with one worker process for each, started by dask-cuda.

The command line and workflows call this module; it calls `devices`. Workers are configured by arguments and
by a plugin, since they do not see the client's Dask configuration.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import dask
from distributed import Client, Worker, WorkerPlugin

from daskptycho.cluster.client import STAY_AT_HOME
from daskptycho.cluster.devices import INSTALL, Gpu, gpu_or_reason, require_gpu
from daskptycho.cluster.work import count_sweeps
from daskptycho.errors import FaultError, OptionError

__all__ = ["GpuWork", "cuda_cluster", "gpus_at_work", "require_gpus_at_work", "visible_gpus"]

# The share of a GPU's memory that RMM's pool allocates at the start.
POOL_SHARE = 0.8


class GpuWork(NamedTuple):
    """The work of one worker so far."""

    gpu: Gpu
    pool: str
    """The memory pool that CuPy uses: ``"RMM"`` or ``"CuPy"``."""
    sweeps: int
    """Number of sweeps over single tiles."""


class _GpuWorker(WorkerPlugin):
    """Gives CuPy a memory pool on a worker, and remembers the count of sweeps at the start."""

    name = "daskptycho-gpu"

    def setup(self, worker: Worker) -> None:
        gpu = gpu_or_reason()
        if isinstance(gpu, str):
            raise OptionError(f"the worker at {worker.address} cannot use a GPU: {gpu}")
        self.gpu, self.pool, self.before = gpu, _set_pool(), count_sweeps()
        _count_as_device_memory()


def _count_as_device_memory() -> None:
    """Tell dask-cuda that a dataclass holds memory of the GPU if one of its fields does.

    It would take counts and phases for objects of the host, and spill them to disk for want of memory there.
    """
    is_device_object = importlib.import_module("dask_cuda.is_device_object").is_device_object

    def holds_device_memory(held: Any) -> bool:
        if is_dataclass(held):
            return any(is_device_object(getattr(held, field.name)) for field in fields(held))
        return hasattr(held, "__cuda_array_interface__")

    is_device_object.register(object, holds_device_memory)


def _set_pool() -> str:
    """Let CuPy allocate from a pool: allocations by the driver would wait for all work on the GPU."""
    cupy = importlib.import_module("cupy")
    if importlib.util.find_spec("rmm") is None:
        # The default one, which CuPy empties before it tries again to allocate what did not fit.
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
        return "CuPy"
    cupy.cuda.set_allocator(importlib.import_module("rmm.allocators.cupy").rmm_cupy_allocator)
    return "RMM"


@contextmanager
def cuda_cluster(gpus: Sequence[int | str] | None = None, *, memory: str = "auto") -> Iterator[Client]:
    """Start a cluster with one worker for each GPU, for the block of a ``with`` statement.

    Its client becomes the current one, so that `daskptycho.reconstruct` with ``device="gpu"`` runs on it. The
    cluster is closed at the end of the block.

    Parameters
    ----------
    gpus : sequence of int or str, optional
        Numbers of GPUs, as ``nvidia-smi`` lists them, or their names in ``CUDA_VISIBLE_DEVICES``; all visible
        GPUs by default.
    memory : str
        Host memory of each worker before it spills to disk, for example ``"16GiB"``; ``"auto"`` leaves it to
        dask-cuda.

    Yields
    ------
    distributed.Client

    Raises
    ------
    OptionError
        No GPU can be used, one of `gpus` does not exist or is given twice, or dask-cuda is not installed.
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
            # On any free port, since the usual one may be taken, and only reachable from this machine.
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

    Returns
    -------
    list of str
        Numbers, as ``nvidia-smi`` lists them, or the names in ``CUDA_VISIBLE_DEVICES``, where a part of a GPU
        has a name rather than a number.

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
    """The GPUs to use; an error unless they exist and differ."""
    visible = visible_gpus()
    chosen = visible if gpus is None else [str(gpu) for gpu in gpus]
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(visible):
        raise OptionError(
            f"GPUs {', '.join(chosen) or 'none'} are asked for; expected one or more of "
            f"{', '.join(visible)}, each once"
        )
    return chosen


def gpus_at_work(client: Client) -> list[GpuWork]:
    """The work of each worker of a `cuda_cluster` so far."""
    return list(client.run(_read_work).values())


def _read_work(dask_worker: Worker) -> GpuWork:
    plugin: Any = dask_worker.plugins[_GpuWorker.name]
    return GpuWork(plugin.gpu, plugin.pool, count_sweeps() - plugin.before)


def require_gpus_at_work(client: Client) -> list[GpuWork]:
    """Check, after a run, that every worker of a `cuda_cluster` has computed on its own GPU.

    Parameters
    ----------
    client : distributed.Client
        From `cuda_cluster`.

    Returns
    -------
    list of GpuWork
        For each worker: its GPU (``gpu``), the memory pool of CuPy (``pool``), and the number of sweeps over
        single tiles that it has made (``sweeps``).

    Raises
    ------
    FaultError
        A GPU was idle, or workers shared one. The result of the run is not affected.
    """
    work = gpus_at_work(client)
    used = {of_worker.gpu.uuid for of_worker in work if of_worker.sweeps}
    if len(used) != len(work):
        done = "; ".join(
            f"{of_worker.gpu.name} {of_worker.gpu.uuid}: {of_worker.sweeps} tiles swept" for of_worker in work
        )
        raise FaultError(
            f"{len(work)} GPUs were asked for and {len(used)} did the work ({done}); the result is written; "
            "see the worker's log, or name fewer GPUs (--gpus)"
        )
    return work
