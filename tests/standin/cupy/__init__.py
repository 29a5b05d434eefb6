"""A stand-in for CuPy on machines without a GPU; see the README beside this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import cuda, fft, linalg
from ._array import behind, ndarray, uploaded, wrapped
from ._between_processes import serialise
from ._kernels import RawModule
from ._memory import empty

__version__ = "14.2.0+standin"
__all__ = [
    "RawModule",
    "abs",
    "angle",
    "arange",
    "asarray",
    "ascontiguousarray",
    "bincount",
    "clip",
    "concatenate",
    "copyto",
    "cos",
    "cuda",
    "diag",
    "empty",
    "empty_like",
    "exp",
    "fft",
    "floor",
    "full",
    "get_default_memory_pool",
    "linalg",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "multiply",
    "ndarray",
    "ones",
    "ones_like",
    "rint",
    "serialise",
    "sin",
    "sqrt",
    "stack",
    "subtract",
    "take_along_axis",
    "vdot",
    "where",
    "zeros",
    "zeros_like",
]


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """A device array as it is, anything else copied to the device."""
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    return uploaded(a, dtype)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.ascontiguousarray(asarray(a, dtype)._cells))


def get_default_memory_pool() -> cuda.MemoryPool:
    return cuda.default_pool


def empty_like(prototype: ndarray) -> ndarray:
    return empty(prototype.shape, prototype.dtype)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(np.zeros(shape, dtype))


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(np.ones(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.full(shape, behind(fill_value), dtype))


def copyto(dst: ndarray, src: Any, casting: str = "same_kind", where: ndarray | None = None) -> None:
    np.copyto(behind(dst), behind(src), casting=casting, where=True if where is None else behind(where))


def concatenate(tup: Any, axis: int = 0) -> ndarray:
    return wrapped(np.concatenate([behind(array) for array in _all_on_device(tup)], axis=axis))


def stack(tup: Any, axis: int = 0) -> ndarray:
    return wrapped(np.stack([behind(array) for array in _all_on_device(tup)], axis=axis))


def _all_on_device(arrays: Any) -> Any:
    for array in arrays:
        if not isinstance(array, ndarray):
            raise TypeError(f"Unsupported type {type(array)}")
    return arrays


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function of arrays and scalars, at least one of them on the device."""

    def on_device(*arguments: Any, out: ndarray | None = None, **options: Any) -> Any:
        if out is not None:
            function(*map(behind, arguments), out=behind(out), **options)
            return out
        return wrapped(function(*map(behind, arguments), **options))

    on_device.__name__ = function.__name__
    return on_device


abs = _of_arrays(np.abs)
angle = _of_arrays(np.angle)
arange = _of_arrays(np.arange)
bincount = _of_arrays(np.bincount)
clip = _of_arrays(np.clip)
cos = _of_arrays(np.cos)
diag = _of_arrays(np.diag)
exp = _of_arrays(np.exp)
floor = _of_arrays(np.floor)
log = _of_arrays(np.log)
log1p = _of_arrays(np.log1p)
maximum = _of_arrays(np.maximum)
minimum = _of_arrays(np.minimum)
multiply = _of_arrays(np.multiply)
ones_like = _of_arrays(np.ones_like)
rint = _of_arrays(np.rint)
sin = _of_arrays(np.sin)
sqrt = _of_arrays(np.sqrt)
subtract = _of_arrays(np.subtract)
take_along_axis = _of_arrays(np.take_along_axis)
vdot = _of_arrays(np.vdot)
where = _of_arrays(np.where)
zeros_like = _of_arrays(np.zeros_like)
