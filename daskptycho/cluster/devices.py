"""GPUs: whether one can be used here, and which.

`workers`, `cuda_cluster` and the command ``check-gpu`` call this module. CuPy is imported in the functions:
without it, and without a GPU, each of them says what is missing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from daskptycho.errors import OptionError

__all__ = ["INSTALL", "Gpu", "cupy_or_reason", "gpu_or_reason", "require_gpu"]

INSTALL = "pip install 'daskptycho[gpu-cuda12]', or [gpu-cuda13] with a driver of CUDA 13"


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes
    ----------
    name, uuid : str
        As NVIDIA gives them; no two GPUs have the same uuid.
    memory : int
        Bytes.
    """

    name: str
    uuid: str
    memory: int


def cupy_or_reason() -> ModuleType | str:
    """CuPy, or why it cannot be used."""
    try:
        return importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed; install it by {INSTALL}"
        # Of CuPy's own long message, the first line that says something.
        said = next((line for line in str(error).splitlines() if line.strip(" =")), "no reason given")
        return f"CuPy cannot be imported ({said.strip()}); install it anew by {INSTALL}"


def gpu_or_reason() -> Gpu | str:
    """The GPU that CuPy uses in this process, or why it uses none."""
    cupy = cupy_or_reason()
    if isinstance(cupy, str):
        return cupy
    runtime = cupy.cuda.runtime
    try:
        runtime.getDeviceCount()
        found = runtime.getDeviceProperties(runtime.getDevice())
    except runtime.CUDARuntimeError as error:
        return (
            f"CuPy finds no GPU ({error}); expected NVIDIA's driver, and a GPU in CUDA_VISIBLE_DEVICES if set"
        )
    return Gpu(found["name"].decode(), bytes(found["uuid"]).hex(), int(found["totalGlobalMem"]))


def require_gpu() -> Gpu:
    """The GPU that CuPy uses in this process.

    Raises
    ------
    OptionError
        There is none, with what would help.
    """
    found = gpu_or_reason()
    if isinstance(found, str):
        raise OptionError(f"no GPU can be used here: {found}; 'daskptycho check-gpu' tells more")
    return found
