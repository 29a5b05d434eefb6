"""The GPU that this process can use, or the reason why it cannot use one.

`workers`, `cuda_cluster` and the command ``check-gpu`` call this module. CuPy is imported in the functions,
so that they can say what is missing without CuPy or without a GPU.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from daskptycho.errors import OptionError, how_to_install

__all__ = ["INSTALL", "Gpu", "cupy_or_reason", "gpu_or_reason", "require_gpu"]

INSTALL = f"{how_to_install('gpu-cuda12')}, or [gpu-cuda13] with a driver of CUDA 13"


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes
    ----------
    name, uuid : str
        Those of NVIDIA's driver; the uuid of each GPU is unique.
    memory : int
        Its memory in bytes.
    """

    name: str
    uuid: str
    memory: int


def cupy_or_reason() -> ModuleType | str:
    """The module CuPy, or the reason why it cannot be imported."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed; install it by {INSTALL}"
        # The first line with text of CuPy's own long message.
        reason = next((line for line in str(error).splitlines() if line.strip(" =")), "no reason given")
        return f"CuPy cannot be imported ({reason.strip()}); install it again by {INSTALL}"


def gpu_or_reason() -> Gpu | str:
    """The GPU that CuPy uses in this process, or the reason why it cannot use one."""
    cupy = cupy_or_reason()
    if isinstance(cupy, str):
        return cupy
    runtime = cupy.cuda.runtime
    try:
        runtime.getDeviceCount()
        properties = runtime.getDeviceProperties(runtime.getDevice())
    except runtime.CUDARuntimeError as error:
        return (
            f"CuPy finds no GPU ({error}); expected NVIDIA's driver, and a GPU in CUDA_VISIBLE_DEVICES if set"
        )
    return Gpu(
        properties["name"].decode(), bytes(properties["uuid"]).hex(), int(properties["totalGlobalMem"])
    )


def require_gpu() -> Gpu:
    """The GPU that CuPy uses in this process.

    Raises
    ------
    OptionError
        There is none; the message says what would help.
    """
    gpu = gpu_or_reason()
    if isinstance(gpu, str):
        raise OptionError(f"no GPU can be used here: {gpu}; 'daskptycho check-gpu' gives details")
    return gpu
