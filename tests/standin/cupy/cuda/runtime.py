"""CUDA's runtime, as far as daskptycho asks it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

__all__ = [
    "CUDARuntimeError",
    "driverGetVersion",
    "getDevice",
    "getDeviceCount",
    "getDeviceProperties",
    "memGetInfo",
    "runtimeGetVersion",
]

GPUS = 2
memory = 2**32
"""Bytes of a GPU; tests set it."""


class CUDARuntimeError(RuntimeError):
    pass


def _visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = [str(number) for number in range(GPUS)]
    return known if named is None else [name for name in named.split(",") if name in known]


def getDeviceCount() -> int:
    count = len(_visible())
    if count == 0:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return count


def getDevice() -> int:
    return 0


def getDeviceProperties(device: int) -> dict[str, Any]:
    number = _visible()[device]
    return {
        "name": b"stand-in",
        "uuid": hashlib.md5(number.encode()).digest(),
        "totalGlobalMem": memory,
        "major": 9,
        "minor": 0,
    }


def memGetInfo() -> tuple[int, int]:
    return memory, memory


def driverGetVersion() -> int:
    return 12090


def runtimeGetVersion() -> int:
    return 12090
