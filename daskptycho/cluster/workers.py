"""The workers that compute, those of the cluster in use or this process, and their memory.

`run` and the command line call this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from daskptycho.backend import Device
from daskptycho.cluster.client import current_client
from daskptycho.cluster.devices import gpu_or_reason, require_gpu
from daskptycho.errors import OptionError

__all__ = ["Workers", "find_workers", "limit_threads"]

# Threads of one process that share a GPU. Several, or one beside the thread that gives it its tasks, take
# Python's lock from each other between launches: on an H100 sweeps of 16 tiles took 137 ms without another
# thread, 214 ms with one, 254 ms with two and 288 ms with four.
GPU_THREADS = 1


@dataclass(frozen=True)
class Workers:
    """The workers that compute; all are taken to be alike."""

    count: int
    """Number of workers."""
    threads: int
    """Threads of each worker."""
    memory: int | None
    """Memory limit of each worker in bytes; None without a limit."""
    device: Device = "cpu"
    """The device that has this memory."""


def find_workers(memory: str | int | None = None, device: Device = "cpu") -> Workers:
    """Find the workers of the Dask cluster in use; without one, this process is the only worker.

    The memory is that of the worker with the least, the number of threads that of the worker with the most.

    Parameters
    ----------
    memory : int or str, optional
        Memory limit of each worker in place of Dask's, in bytes or for example "16 GiB".
    device : "cpu" or "gpu"
        With "gpu", memory means that of the workers' GPUs.

    Raises
    ------
    OptionError
        `memory` is not a number of bytes above zero, `device` is unknown, or a worker has no GPU.
    """
    if device not in ("cpu", "gpu"):
        raise OptionError(f"device is {device!r}; expected 'cpu' or 'gpu'")
    workers = _find_cpu_workers() if device == "cpu" else _find_gpu_workers()
    if memory is None:
        return workers
    try:
        limit = parse_bytes(memory)
    except ValueError:
        limit = 0
    if limit <= 0:
        raise OptionError(f"memory is {memory!r}; expected bytes, as 16 * 2**30 or '16 GiB'")
    return replace(workers, memory=limit)


def _find_cpu_workers() -> Workers:
    client = current_client()
    if client is None:
        return Workers(1, dask.config.get("num_workers", None) or CPU_COUNT, MEMORY_LIMIT)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not workers:
        return Workers(1, 1, None)
    least = min(worker["memory_limit"] for worker in workers)
    return Workers(len(workers), max(worker["nthreads"] for worker in workers), least or None)


def _find_gpu_workers() -> Workers:
    client = current_client()
    if client is None:
        threads = dask.config.get("num_workers", None) or GPU_THREADS
        return Workers(1, threads, require_gpu().memory, "gpu")
    gpus = client.run(gpu_or_reason)
    for address, gpu in gpus.items():
        if isinstance(gpu, str):
            raise OptionError(f"the worker at {address} cannot use a GPU: {gpu}")
    memory = min((gpu.memory for gpu in gpus.values()), default=None)
    return replace(_find_cpu_workers(), memory=memory, device="gpu")


@contextmanager
def limit_threads(device: Device) -> Iterator[None]:
    """Let only the calling thread use a GPU if this process computes on one; in all other cases do nothing.

    Dask's settings ``num_workers`` and ``scheduler``, if given, are respected.
    """
    given = dask.config.get("num_workers", None) or dask.config.get("scheduler", None)
    if device == "cpu" or current_client() is not None or given:
        yield
        return
    with dask.config.set(scheduler="synchronous"):
        yield
